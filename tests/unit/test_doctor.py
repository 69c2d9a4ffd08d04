"""The doctor reports whatever is absent, and fails only for the device that was asked for."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
import sys
import tomllib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import suite
from suite import doctor as doctor_module
from suite.doctor import TORCH_INSTALL, TORCH_RANGE, Check, doctor, format_checks, require_device
from suite.errors import MissingEnvironment

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def no_accelerators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without NPU and GPU, whatever runs the tests."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch_npu" else real(name)
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor_module, "_DRIVER_FILE", tmp_path / "no_driver")
    monkeypatch.setattr(doctor_module, "_DEVICE_FILES", tmp_path)
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)


def check(name: str) -> Check:
    (found,) = [check for check in doctor() if check.name == name]
    return found


def test_every_part_is_reported_once_and_the_device_last() -> None:
    names = [check.name for check in doctor()]
    assert names == [
        *("python", "suite", "torch", "onnx", "onnxscript", "pycocotools", "onnxruntime"),
        *(
            "tensorboard",
            "simplejpeg",
            "google-crc32c",
            "memory",
            "disk",
            "shared memory",
            "cpu",
            "cuda driver",
            "cuda",
        ),
        *("npu driver", "cann", "torch-npu", "npu", "device"),
    ]


def test_versions_are_those_installed() -> None:
    assert check("suite").value == suite.__version__
    assert check("torch") == Check("torch", "ok", f"{torch.__version__}, built without CUDA")
    assert check("onnx") == Check("onnx", "ok", metadata.version("onnx"))
    assert "CPU" in check("onnxruntime").value


def test_supported_torch_is_that_of_the_package() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (oldest, first_untested) = (".".join(map(str, release)) for release in TORCH_RANGE)
    assert f"torch>={oldest},<{first_untested}" in dependencies
    assert f'"torch>={oldest},<{first_untested}"' in TORCH_INSTALL


def test_untested_torch_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.14.0+cpu")
    found = check("torch")
    assert (found.status, found.remedy) == ("warning", TORCH_INSTALL)
    assert "2.14.0+cpu" in found.value


def test_absent_packages_name_their_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert check("tensorboard") == Check(
        "tensorboard",
        "missing",
        "not installed",
        'run: pip install "npu-detection-suite[tensorboard]"',
    )
    assert check("torch-npu").remedy == 'run: pip install "npu-detection-suite[npu]"'


def test_onnxruntime_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert check("onnxruntime").status == "missing"


def test_torch_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = doctor()
    assert checks[2].name == "torch"
    assert (checks[2].status, checks[2].remedy) == ("missing", TORCH_INSTALL)
    with pytest.raises(MissingEnvironment, match="torch does not load; run: pip install"):
        require_device(checks)


def test_unusable_device_ends_in_exit_code_4() -> None:
    checks = doctor("npu")
    with pytest.raises(
        MissingEnvironment,
        match=r'^device npu: torch_npu is not installed; run: pip install "npu-.*\[npu\]"$',
    ) as info:
        require_device(checks)
    assert info.value.exit_code == 4
    with pytest.raises(MissingEnvironment, match=r"device cuda: .* built without CUDA; run: pip"):
        require_device(doctor("cuda"))


def test_usable_device_passes_though_others_are_missing() -> None:
    checks = doctor("cpu")
    require_device(checks)
    assert checks[-1].value.startswith("cpu: ")
    require_device(doctor("auto"))


def test_gpu_behind_a_cpu_build_gets_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert check("cuda driver") == Check("cuda driver", "missing", "no NVIDIA driver")
    assert check("cuda").remedy is None
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    monkeypatch.setattr(doctor_module, "_DRIVER_FILE", driver)
    assert check("cuda driver") == Check("cuda driver", "ok", "570.86.15")
    assert (check("cuda").remedy or "").startswith("run: pip install --force-reinstall torch==")


def test_usable_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Simulated GPU")
    assert check("cuda") == Check("cuda", "ok", "Simulated GPU, Simulated GPU")


def test_cann_is_told_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = check("cann")
    assert "ASCEND_HOME_PATH is not set, libhccl.so does not load" in found.value
    assert (found.remedy or "").endswith("set_env.sh")
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/ascend")
    assert "ASCEND_HOME_PATH is /opt/ascend" in check("cann").value
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    assert check("cann") == Check("cann", "ok", "/opt/ascend")


def test_npu_tool_without_device_files_points_at_the_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = check("npu driver")
    assert (found.status, found.value) == ("warning", "0 of /dev/davinci*, npu-smi found")
    assert "--device" in (found.remedy or "")
    for name in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / name).touch()
    assert check("npu driver") == Check("npu driver", "ok", "2 of /dev/davinci*, npu-smi found")


def test_torch_npu_of_another_release_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "2.9.0.post1")
    found = check("torch-npu")
    assert found.status == "warning"
    assert found.value == f"2.9.0.post1 does not fit torch {torch.__version__}"


def test_scarce_disk_and_shared_memory_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=64 * 2**20, free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert check("disk").status == "warning"
    monkeypatch.setattr(doctor_module, "_SHARED_MEMORY", Path("/"))
    found = check("shared memory")
    assert found.status == "warning"
    assert "--ipc=host" in (found.remedy or "")


def test_scarce_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9999 kB\nMemAvailable:    1048576 kB\n")
    monkeypatch.setattr("suite.provenance._MEMORY_FILE", meminfo)
    found = check("memory")
    assert found.status == "warning"
    assert found.value.endswith("1.0 GiB available")
    monkeypatch.setattr("suite.provenance._MEMORY_FILE", tmp_path / "absent")
    assert check("memory").status == "ok"


def test_format_puts_the_remedy_below_its_check() -> None:
    text = format_checks([Check("a", "ok", "1.0"), Check("bb", "missing", "none", "run: get bb")])
    assert [line.split() for line in text.splitlines()] == [
        ["ok", "a", "1.0"],
        ["missing", "bb", "none"],
        ["->", "run:", "get", "bb"],
    ]


def test_checks_are_plain_json() -> None:
    checks = [asdict(check) for check in doctor()]
    assert json.loads(json.dumps(checks)) == checks
