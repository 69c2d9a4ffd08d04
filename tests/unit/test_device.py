"""Device choice, precision and remedies on this CPU machine, with simulated torch_npu and CUDA."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import suite
from suite.device import (
    Device,
    build_device,
    count_devices,
    cpu_name,
    tune_cpu_allocator,
)
from suite.errors import MissingEnvironment, UsageError

# A torch_npu with two devices that compute nothing. It runs in a process of its own, because
# renaming torch's private backend cannot be undone.
SIMULATED_TORCH_NPU = """
import os
import sys
import types
import torch
__version__ = "2.13.0+simulated"
forbidden_when_loaded = os.environ.get("TORCH_NPU_FALLBACK_CPU_DISABLE")
calls = []
overflow = []
def note(name):
    return lambda *args, **kwargs: calls.append([name, *args, *kwargs.items()])
npu = types.ModuleType("torch.npu")
npu.matmul = types.SimpleNamespace(allow_hf32=True)
npu.conv = types.SimpleNamespace(allow_hf32=True)
npu.config = types.SimpleNamespace(allow_internal_format=True)
npu.device_count = lambda: 2
npu.is_available = lambda: True
npu.is_bf16_supported = lambda: False
npu.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
npu.get_device_name = lambda device=None: f"Simulated {device}"
npu.utils = types.SimpleNamespace(is_support_inf_nan=lambda: False)
npu.get_npu_overflow_flag = lambda: bool(overflow)
npu.clear_npu_overflow_flag = overflow.clear
npu.max_memory_allocated = lambda device: 12345
for name in ("set_device", "synchronize", "reset_peak_memory_stats", "set_compile_mode"):
    setattr(npu, name, note(name))
torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
sys.modules["torch.npu"] = npu
"""

COUNT_PAGE_FAULTS = """
import json
import resource
import torch
from suite.device import tune_cpu_allocator

def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(64 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
taken = tune_cpu_allocator()
faults()
print(json.dumps([taken, before, faults()]))
"""

OBSERVE_NPU = """
import json
import os
import torch
from suite.device import build_device, count_devices
from suite.errors import SuiteError

os.environ["HCCL_CONNECT_TIMEOUT"] = "600"

def refusal(*args, **kwargs):
    try:
        build_device(*args, **kwargs)
    except SuiteError as error:
        return [error.exit_code, str(error)]

counted = count_devices("npu")
late = refusal("npu", "fp32", strict=True)
device = build_device("auto", "fp16", index=1)
device.synchronize()
device.reset_peak_memory()
with device.autocast():
    autocast_dtype = str(torch.get_autocast_dtype("npu"))
described = device.describe()
import torch_npu
overflowed = [device.overflowed()]
torch_npu.overflow.append("a sum")
overflowed.append(device.overflowed())
device.clear_overflow()
overflowed.append(device.overflowed())
torch_npu.npu.utils.is_support_inf_nan = lambda: True
torch_npu.overflow.append("a sum")
overflowed.append(device.overflowed())
print(json.dumps({
    "counted": counted,
    "torch_device": str(device.torch_device),
    "describe": described,
    "backend": device.collective_backend,
    "peak": device.peak_memory_bytes(),
    "scaler": device.scaler().is_enabled(),
    "autocast": autocast_dtype,
    "internal_format": torch_npu.npu.config.allow_internal_format,
    "overflowed": overflowed,
    "calls": [[str(part) for part in call] for call in torch_npu.calls],
    "third": refusal("npu", "fp32", index=2),
    "bf16": refusal("npu", "bf16"),
    "late": late,
}))
"""

OBSERVE_STRICTNESS = """
import json
from suite.device import build_device

device = build_device("auto", "fp32", strict=True)
import torch_npu
torch_npu.__version__ = "2.13.0"
print(json.dumps([torch_npu.forbidden_when_loaded, device.strict, device.describe()]))
"""


@pytest.fixture(autouse=True)
def unchanged_torch_flags() -> Iterator[None]:
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


@pytest.fixture
def without_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch_npu" else real(name)
    )


def run_python(code: str, *, folder: Path | None = None) -> Any:
    """Run `code` in a new process, `folder` on its path, and load the JSON that it prints."""
    paths = [str(path) for path in (folder, Path(suite.__file__).parents[1]) if path]
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a torch_npu of two devices."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "torch_npu.py").write_text(SIMULATED_TORCH_NPU)
    return folder


@pytest.fixture(scope="module")
def npu(simulated: Path) -> dict[str, Any]:
    """What a process saw that asked for a device where torch_npu has two."""
    facts: dict[str, Any] = run_python(OBSERVE_NPU, folder=simulated)
    return facts


@pytest.mark.usefixtures("without_accelerators")
@pytest.mark.parametrize("kind", ["auto", "cpu"])
def test_cpu_is_chosen_where_nothing_else_is(kind: Any) -> None:
    device = build_device(kind, "fp32")
    assert device == Device("cpu", torch.device("cpu"), "fp32")
    with pytest.raises(dataclasses.FrozenInstanceError):
        device.kind = "cuda"  # type: ignore[misc]


def test_bf16_autocast_rounds_and_fp32_does_not() -> None:
    left, right = torch.rand(3, 3), torch.rand(3, 3)
    with build_device("cpu", "bf16").autocast():
        assert (left @ right).dtype == torch.bfloat16
    with build_device("cpu", "fp32").autocast():
        assert (left @ right).dtype == torch.float32


def test_scaler_scales_only_in_fp16() -> None:
    loss = torch.tensor(1.5)
    for precision in ("fp32", "bf16"):
        scaler = build_device("cpu", precision).scaler()
        assert not scaler.is_enabled()
        assert scaler.scale(loss) is loss
    assert Device("cpu", torch.device("cpu"), "fp16").scaler().is_enabled()


@pytest.mark.usefixtures("without_accelerators")
@pytest.mark.parametrize("kind", ["auto", "cpu"])
def test_fp16_on_the_cpu_is_refused_with_a_suggestion(kind: Any) -> None:
    with pytest.raises(UsageError, match="fp16 is not supported on the CPU; use bf16"):
        build_device(kind, "fp16")


def test_cpu_memory_name_and_description() -> None:
    device = build_device("cpu", "fp32")
    block = torch.ones(64 * 2**20)
    assert 256 * 2**20 < device.peak_memory_bytes() < 2**40
    del block
    assert device.peak_memory_bytes() > 256 * 2**20
    device.synchronize()
    device.reset_peak_memory()
    assert device.name() == cpu_name() != ""
    assert device.describe() == {
        "kind": "cpu",
        "name": cpu_name(),
        "precision": "fp32",
        "torch": torch.__version__,
        "strict_device": False,
        "threads": torch.get_num_threads(),
    }


def test_cpu_takes_any_number_of_processes_and_has_no_overflow_flag() -> None:
    device = build_device("cpu", "fp32", strict=True)
    assert device.strict and device.describe()["strict_device"] is True
    assert count_devices("cpu") is None
    assert device.collective_backend == "gloo"
    device.clear_overflow()
    assert not device.saturates and not device.overflowed()


def test_building_switches_tf32_off() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    build_device("cpu", "fp32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_auto_prefers_npu_and_makes_it_current(npu: dict[str, Any]) -> None:
    assert npu["counted"] == 2
    assert npu["torch_device"] == "npu:1"
    assert npu["backend"] == "cpu:gloo,npu:hccl"
    assert ["set_device", "1"] in npu["calls"]


def test_npu_arithmetic_is_exact_and_described(npu: dict[str, Any]) -> None:
    assert npu["describe"] == {
        "kind": "npu",
        "name": "Simulated npu:1",
        "precision": "fp16",
        "torch": torch.__version__,
        "strict_device": False,
        "torch_npu": "2.13.0+simulated",
        "matmul_hf32": False,
        "conv_hf32": False,
        "internal_format": False,
        "jit_compile": False,
        "saturates": True,
        "environment": {"HCCL_CONNECT_TIMEOUT": "600"},
        "simulated": True,
        "verification": "simulated; unverified on Ascend hardware: operators, accuracy, speed, "
        "HCCL, OM conversion",
    }
    assert npu["internal_format"] is False
    assert ["set_compile_mode", "('jit_compile', False)"] in npu["calls"]


def test_npu_precision_memory_and_waiting(npu: dict[str, Any]) -> None:
    assert (npu["autocast"], npu["scaler"], npu["peak"]) == ("torch.float16", True, 12345)
    assert npu["calls"][-2:] == [["synchronize"], ["reset_peak_memory_stats", "npu:1"]]


def test_overflow_flag_is_read_only_on_a_saturating_npu(npu: dict[str, Any]) -> None:
    assert npu["overflowed"] == [False, True, False, False]


def test_strict_npu_is_told_before_it_loads_and_says_so(simulated: Path) -> None:
    forbidden, strict, described = run_python(OBSERVE_STRICTNESS, folder=simulated)
    assert (forbidden, strict, described["strict_device"]) == ("1", True, True)
    assert (described["simulated"], described["verification"]) == (False, "ran on Simulated None")


def test_strictness_that_comes_too_late_is_refused(npu: dict[str, Any]) -> None:
    assert npu["late"] == [
        4,
        "device npu: torch_npu was loaded before it was told not to fall back to the CPU; "
        "run: export TORCH_NPU_FALLBACK_CPU_DISABLE=1",
    ]


def test_device_beyond_the_visible_ones_is_refused(npu: dict[str, Any]) -> None:
    assert npu["third"] == [
        4,
        "device npu:2: only 2 visible; start fewer processes or widen ASCEND_RT_VISIBLE_DEVICES",
    ]


def test_bf16_on_a_chip_without_it_is_refused(npu: dict[str, Any]) -> None:
    assert npu["bf16"] == [
        2,
        "precision bf16 is not supported on Simulated npu:0; use fp16 or fp32",
    ]


@pytest.mark.usefixtures("without_accelerators")
def test_auto_takes_cuda_before_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        device_count=lambda: 1,
        set_device=lambda index: None,
        get_device_name=lambda device: f"Simulated {device}",
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: cuda)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    device = build_device("auto", "fp32")
    assert device.torch_device == torch.device("cuda", 0)
    # The second of two processes that were given a device each.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert build_device("cuda", "fp32", index=1).torch_device == torch.device("cuda", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with pytest.raises(MissingEnvironment, match="device cuda:1: only 1 visible"):
        build_device("cuda", "fp32", index=1)
    described = device.describe()
    assert described["name"] == "Simulated cuda:0"
    assert (described["matmul_tf32"], described["conv_tf32"]) == (False, False)
    assert device.collective_backend == "cpu:gloo,cuda:nccl"
    assert count_devices("cuda") == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tuned_allocator_takes_fresh_pages_only_once() -> None:
    taken, faults_before, faults_after = run_python(COUNT_PAGE_FAULTS)
    assert taken is True
    assert faults_after < faults_before / 4


def test_allocator_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert tune_cpu_allocator() is False
