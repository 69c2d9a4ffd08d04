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
from suite.device import Device, build_device, cpu_name, device_problem, tune_cpu_allocator
from suite.errors import MissingEnvironment, UsageError

WITHOUT_CANN = """
raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")
"""


# A torch_npu with two devices that compute nothing. It runs in a process of its own, because
# renaming torch's private backend cannot be undone.
SIMULATED_TORCH_NPU = """
import sys
import types
import torch
__version__ = "2.13.0"
calls = []
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
npu.get_device_name = lambda device: f"Simulated {device}"
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
import torch
from suite.device import build_device
from suite.errors import SuiteError

def refusal(*args, **kwargs):
    try:
        build_device(*args, **kwargs)
    except SuiteError as error:
        return [error.exit_code, str(error)]

device = build_device("auto", "fp16", index=1)
device.synchronize()
device.reset_peak_memory()
with device.autocast():
    autocast_dtype = str(torch.get_autocast_dtype("npu"))
import torch_npu
print(json.dumps({
    "torch_device": str(device.torch_device),
    "describe": device.describe(),
    "peak": device.peak_memory_bytes(),
    "scaler": device.scaler().is_enabled(),
    "autocast": autocast_dtype,
    "internal_format": torch_npu.npu.config.allow_internal_format,
    "calls": [[str(part) for part in call] for call in torch_npu.calls],
    "third": refusal("npu", "fp32", index=2),
    "bf16": refusal("npu", "bf16"),
}))
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


def install_torch_npu(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torch_npu.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    # Set and deleted: at the end monkeypatch then also removes what was imported meanwhile.
    monkeypatch.setitem(sys.modules, "torch_npu", None)  # type: ignore[arg-type]
    del sys.modules["torch_npu"]


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
def npu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process saw that asked for a device where torch_npu has two."""
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "torch_npu.py").write_text(SIMULATED_TORCH_NPU)
    facts: dict[str, Any] = run_python(OBSERVE_NPU, folder=folder)
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
        "threads": torch.get_num_threads(),
    }


def test_building_switches_tf32_off() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    build_device("cpu", "fp32")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.usefixtures("without_accelerators")
def test_npu_that_is_not_installed_names_the_install_command() -> None:
    with pytest.raises(
        MissingEnvironment, match=r'pip install "npu-detection-suite\[npu\]"'
    ) as info:
        build_device("npu", "fp32")
    assert info.value.exit_code == 4


def test_npu_without_cann_names_set_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch_npu(WITHOUT_CANN, tmp_path, monkeypatch)
    assert device_problem("npu") == (
        "device npu: torch_npu is installed but CANN is not on LD_LIBRARY_PATH (libhccl.so not "
        "found); run: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
    )
    with pytest.raises(MissingEnvironment, match=r"set_env\.sh"):
        build_device("npu", "fp32")


def test_npu_that_does_not_fit_torch_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torch_npu("raise ImportError('undefined symbol: _ZN2at')", tmp_path, monkeypatch)
    with pytest.raises(MissingEnvironment, match=r"does not load beside torch .*undefined symbol"):
        build_device("npu", "fp32")


def test_npu_without_devices_names_where_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torch_npu("", tmp_path, monkeypatch)
    empty = SimpleNamespace(device_count=lambda: 0)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: empty)
    with pytest.raises(MissingEnvironment, match="sees no device; check `npu-smi info`"):
        build_device("npu", "fp32")


def test_auto_passes_over_a_broken_npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch_npu(WITHOUT_CANN, tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build_device("auto", "fp32").kind == "cpu"


def test_auto_prefers_npu_and_makes_it_current(npu: dict[str, Any]) -> None:
    assert npu["torch_device"] == "npu:1"
    assert ["set_device", "1"] in npu["calls"]


def test_npu_arithmetic_is_exact_and_described(npu: dict[str, Any]) -> None:
    assert npu["describe"] == {
        "kind": "npu",
        "name": "Simulated npu:1",
        "precision": "fp16",
        "torch": torch.__version__,
        "torch_npu": "2.13.0",
        "matmul_hf32": False,
        "conv_hf32": False,
    }
    assert npu["internal_format"] is False
    assert ["set_compile_mode", "('jit_compile', False)"] in npu["calls"]


def test_npu_precision_memory_and_waiting(npu: dict[str, Any]) -> None:
    assert (npu["autocast"], npu["scaler"], npu["peak"]) == ("torch.float16", True, 12345)
    assert npu["calls"][-2:] == [["synchronize"], ["reset_peak_memory_stats", "npu:1"]]


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


@pytest.mark.parametrize(
    ("cuda_version", "message"),
    [
        (None, r"built without CUDA; run: pip install --force-reinstall torch==\d+\.\d+\.\d+$"),
        ("13.0", r"built for CUDA 13\.0 but finds no usable GPU or driver; check `nvidia-smi`"),
    ],
)
def test_absent_cuda_names_build_and_remedy(
    cuda_version: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda_version)
    with pytest.raises(MissingEnvironment, match=message):
        build_device("cuda", "fp32")


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
    described = device.describe()
    assert described["name"] == "Simulated cuda:0"
    assert (described["matmul_tf32"], described["conv_tf32"]) == (False, False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tuned_allocator_takes_fresh_pages_only_once() -> None:
    taken, faults_before, faults_after = run_python(COUNT_PAGE_FAULTS)
    assert taken is True
    assert faults_after < faults_before / 4


def test_allocator_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert tune_cpu_allocator() is False
