"""A machine without accelerators, whatever runs the tests, and one that has Ascend devices."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from suite import device_problems
from suite.doctor import Check, ascend, cann, devices, doctor

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def no_accelerators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without NPU and GPU."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch_npu" else real(name)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(devices, "_CUDA_DRIVER", tmp_path / "no_driver")
    device_files = tmp_path / "dev"
    device_files.mkdir()
    monkeypatch.setattr(device_problems, "DEVICE_FILES", device_files)
    monkeypatch.setattr(ascend, "_DRIVER_FILE", tmp_path / "no_driver")
    monkeypatch.setattr(ascend, "_DEVICE_IPS", tmp_path / "no_ips")
    monkeypatch.setattr(cann, "_ROOTS", (tmp_path / "Ascend",))
    for name in ("ASCEND_HOME_PATH", "HCCL_IF_BASE_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def check() -> Callable[[str], Check]:
    """Return the one check of a name."""

    def find(name: str) -> Check:
        (found,) = [check for check in doctor() if check.name == name]
        return found

    return find


@pytest.fixture
def npu_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a program on PATH that answers as npu-smi did elsewhere."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(mapping: str, health: str = "health_one_chip", *, before: str = "") -> None:
        script = [
            "#!/bin/sh",
            before,
            f'case "$*" in "info -m") exec cat {SAMPLES}/{mapping}.txt ;;',
            f'"info -t health -i 7") exec cat {SAMPLES}/{health}.txt ;;',
            f"*) exec cat {SAMPLES}/health_one_chip.txt ;; esac",
        ]
        program = folder / "npu-smi"
        program.write_text("\n".join(script))
        program.chmod(0o755)

    return install


@pytest.fixture
def eight_devices(tmp_path: Path) -> None:
    """Device files of eight NPUs and those that manage them."""
    for name in ("davinci_manager", "devmm_svm", "hisi_hdc", *(f"davinci{i}" for i in range(8))):
        (tmp_path / "dev" / name).touch()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let distributions have other versions than they have."""

    def pretend(**versions: str) -> None:
        real = metadata.version

        def version(name: str) -> str:
            return versions.get(name.replace("-", "_")) or real(name)

        monkeypatch.setattr(metadata, "version", version)

    return pretend


@pytest.fixture
def cann_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolkit that this shell knows, of no version yet."""
    home = tmp_path / "cann"
    home.mkdir()
    monkeypatch.setenv("ASCEND_HOME_PATH", str(home))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    return home
