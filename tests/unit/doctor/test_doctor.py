"""The doctor reports whatever is absent, and fails only for the device that was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import suite
from suite.doctor import (
    TORCH_INSTALL,
    TORCH_RANGE,
    Check,
    devices,
    doctor,
    format_checks,
    require_device,
)
from suite.errors import MissingEnvironment

CheckOf = Callable[[str], Check]


def test_every_part_is_reported_once_and_the_device_last() -> None:
    names = [check.name for check in doctor()]
    assert names == [
        *("python", "suite", "torch", "onnx", "onnxscript", "pycocotools", "onnxruntime"),
        *("tensorboard", "simplejpeg", "google-crc32c"),
        *("memory", "disk", "shared memory", "cores", "open files", "processes"),
        *("host name", "rendezvous port", "cpu", "cuda driver", "cuda"),
        *("npu driver", "cann", "torch-npu", "npu", "device"),
    ]


def test_versions_are_those_installed(check: CheckOf) -> None:
    assert check("suite").value == suite.__version__
    assert check("torch") == Check("torch", "ok", f"{torch.__version__}, built without CUDA")
    assert check("onnx") == Check("onnx", "ok", metadata.version("onnx"))
    assert "CPU" in check("onnxruntime").value


def test_supported_torch_is_that_of_the_package(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    (oldest, first_untested) = (".".join(map(str, release)) for release in TORCH_RANGE)
    assert f"torch>={oldest},<{first_untested}" in project["dependencies"]
    assert f'"torch>={oldest},<{first_untested}"' in TORCH_INSTALL


def test_untested_torch_is_a_warning(check: CheckOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.14.0+cpu")
    found = check("torch")
    assert (found.status, found.remedy) == ("warning", TORCH_INSTALL)
    assert "2.14.0+cpu" in found.value


def test_absent_packages_name_their_install_command(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_onnxruntime_that_does_not_load_is_reported(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert check("onnxruntime").status == "missing"


def test_a_listed_provider_is_tried(check: CheckOf, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["CANNExecutionProvider", "CPUExecutionProvider"]
    real: Any = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("create CANN ExecutionProvider fail")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    found = check("onnxruntime")
    assert found.status == "warning"
    assert found.value.endswith("built for CANN, CPU; CANN is listed but does not start")
    assert found.remedy == 'run: pip install "npu-detection-suite[npu]"'

    class OnCPU:
        """What ONNX Runtime gives where it falls back: a session that works."""

        def __init__(self, content: bytes, options: object, **_: object) -> None:
            self._session = real(content, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return list(self._session.get_providers())

    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCPU)
    assert check("onnxruntime").status == "warning"
    monkeypatch.setattr(OnCPU, "get_providers", lambda self: listed)
    assert check("onnxruntime").status == "ok"


def test_torch_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = doctor()
    assert checks[2].name == "torch"
    assert (checks[2].status, checks[2].remedy) == ("missing", TORCH_INSTALL)
    # What needs no torch is told all the same.
    assert {"disk", "cuda driver", "npu driver", "cann"} <= {check.name for check in checks}
    with pytest.raises(MissingEnvironment, match="torch does not load; run: pip install"):
        require_device(checks)


def test_works_without_torch_installed() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from suite.cli import main; main(['doctor', '--recipe', 'ssd_r34_8p', '--json'])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("suite: torch does not load; run: pip install")
    names = [check["name"] for check in json.loads(done.stdout)["checks"]]
    assert names[-3:] == ["devices", "data", "device"]


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
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert check("cuda driver") == Check("cuda driver", "missing", "no NVIDIA driver")
    assert check("cuda").remedy is None
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23\n")
    monkeypatch.setattr(devices, "_CUDA_DRIVER", driver)
    assert check("cuda driver") == Check("cuda driver", "ok", "570.86.15")
    assert (check("cuda").remedy or "").startswith("run: pip install --force-reinstall torch==")


def test_usable_gpus_are_named(check: CheckOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Simulated GPU")
    assert check("cuda") == Check("cuda", "ok", "Simulated GPU, Simulated GPU")


def test_format_puts_the_remedy_below_its_check() -> None:
    text = format_checks([Check("a", "ok", "1.0"), Check("bb", "missing", "none", "run: get bb")])
    assert [line.split() for line in text.splitlines()] == [
        ["ok", "a", "1.0"],
        ["missing", "bb", "none"],
        ["->", "run:", "get", "bb"],
    ]


def test_format_tells_a_remedy_once() -> None:
    checks = [
        Check("torch-npu", "missing", "not installed", "run: get it"),
        Check("npu", "missing", "torch_npu is not installed", "run: get it"),
        Check("cuda", "missing", "no GPU", "run: get another"),
    ]
    text = format_checks([*checks, *checks])
    assert (text.count("-> run: get it"), text.count("-> run: get another")) == (1, 1)
    assert text.splitlines()[1].split() == ["->", "run:", "get", "it"]


def test_checks_are_plain_json() -> None:
    checks = [asdict(check) for check in doctor()]
    assert json.loads(json.dumps(checks)) == checks
