"""Where tensors live and how they are computed: the only module that knows cpu, cuda and npu apart.

`npu` is an Ascend device through torch_npu. That path is unverified on Ascend hardware; only tests
with simulated modules hold it. The command line sets TORCH_DEVICE_BACKEND_AUTOLOAD=0 before torch
is first imported, because an installed torch_npu without CANN breaks `import torch` itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from suite.errors import MissingEnvironment, UsageError

Kind = Literal["cpu", "cuda", "npu"]
Precision = Literal["fp32", "bf16", "fp16"]

CANN_REMEDY = "run: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
NPU_INSTALL = 'pip install "npu-detection-suite[npu]"'

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@dataclass(frozen=True)
class Device:
    """One device of this process and the precision its networks run in; made by `build_device`."""

    kind: Kind
    torch_device: torch.device
    precision: Precision

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Run what is inside in the device's precision; does nothing in fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=_AUTOCAST_DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Make a loss scaler; it passes everything through unless the precision is fp16.

        It finds overflow by looking for inf and NaN in the gradients. The first Ascend 910
        saturates instead of giving inf; there the loss itself has to be watched as well.
        """
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout convolutions are fastest in; torch_npu refuses channels_last."""
        return torch.contiguous_format if self.kind == "npu" else torch.channels_last

    def synchronize(self) -> None:
        """Wait until the device has finished what it was given."""
        self._module().synchronize()

    def peak_memory_bytes(self) -> int:
        """Return the most memory ever in use since `reset_peak_memory`.

        On cuda and npu what the allocator handed out; on the CPU the resident size of the whole
        process since its start, which nothing resets.
        """
        if self.kind == "cpu":
            return _peak_resident_bytes()
        return int(self._module().max_memory_allocated(self.torch_device))

    def reset_peak_memory(self) -> None:
        """Start a new peak on cuda and npu; a CPU process keeps its peak."""
        if self.kind != "cpu":
            self._module().reset_peak_memory_stats(self.torch_device)

    def name(self) -> str:
        """Return the product name, for example "NVIDIA H200"."""
        if self.kind == "cpu":
            return cpu_name()
        return str(self._module().get_device_name(self.torch_device))

    def describe(self) -> dict[str, Any]:
        """Return what a record has to say about this device: names, versions, arithmetic flags."""
        facts = {
            "kind": self.kind,
            "name": self.name(),
            "precision": self.precision,
            "torch": torch.__version__,
        }
        return facts | _vendor_facts(self.kind)

    def open_copy_stream(self) -> CopyStream | None:
        """Return a stream for copies beside the computation; None on the CPU, which has none."""
        return None if self.kind == "cpu" else CopyStream(self._module())

    def _module(self) -> Any:
        return torch.get_device_module(self.kind)


class CopyStream:
    """A stream of a cuda or npu device on which copies run beside the computation."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._stream = module.Stream()

    def copying(self) -> contextlib.AbstractContextManager[Any]:
        """Let copies that are started inside run on this stream."""
        context: contextlib.AbstractContextManager[Any] = self._module.stream(self._stream)
        return context

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Let what is computed from now on wait for the copies, and keep their memory till then."""
        computing = self._module.current_stream()
        computing.wait_stream(self._stream)
        for tensor in tensors:
            # The allocator would otherwise give the memory to the next copy.
            tensor.record_stream(computing)


def build_device(
    kind: Literal["auto", "cpu", "cuda", "npu"], precision: Precision, *, index: int = 0
) -> Device:
    """Choose a device, make it this process's current one and switch off TF32 and HF32 on it.

    fp32 then means fp32: by default cuDNN's convolutions round to TF32 and Ascend's to HF32.

    Args:
        kind: "auto" takes an NPU if one is usable, then a GPU, then the CPU.
        index: which of the visible devices, the local rank in a distributed run.

    Raises:
        MissingEnvironment: the device, its driver or its package is absent; holds the remedy.
        UsageError: the device cannot compute in this precision.
    """
    chosen = _best_kind() if kind == "auto" else kind
    problem = device_problem(chosen)
    if problem is not None:
        raise MissingEnvironment(problem)
    if chosen == "cpu":
        device = Device("cpu", torch.device("cpu"), precision)
    else:
        device = Device(chosen, _select(chosen, index), precision)
    _require_precision(device)
    _use_exact_arithmetic(chosen)
    return device


def device_problem(kind: Kind) -> str | None:
    """Say in one sentence why `kind` is unusable here and what would help; None if usable."""
    match kind:
        case "npu":
            return _npu_problem()
        case "cuda":
            return _cuda_problem()
        case "cpu":
            return None


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def cpu_has_bf16() -> bool:
    """Tell whether this CPU computes bf16 in hardware; where it does not, fp32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(has is True for name, has in capabilities.items() if "bf16" in name)


def tune_cpu_allocator() -> bool:
    """Make glibc keep big freed blocks instead of giving them back; True where that took effect.

    By default a big temporary is a mapping of its own, returned as soon as it is freed, so every
    step pays for zeroed pages again, one page fault at a time. Keeping them makes elementwise work
    on big tensors several times as fast (normalising 32 images of 300x300 on one core: 65 to 13
    ms); the price is that the process does not shrink. Call it before the first big tensor; other
    C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def _best_kind() -> Kind:
    candidates: tuple[Kind, ...] = ("npu", "cuda", "cpu")
    return next(kind for kind in candidates if device_problem(kind) is None)


def _npu_problem() -> str | None:
    if importlib.util.find_spec("torch_npu") is None:
        return f"device npu: torch_npu is not installed; run: {NPU_INSTALL}"
    try:
        importlib.import_module("torch_npu")
    except ImportError as error:
        return _npu_import_problem(error)
    if torch.get_device_module("npu").device_count() == 0:
        return (
            "device npu: torch_npu loads but sees no device; check `npu-smi info`, /dev/davinci* "
            "and ASCEND_RT_VISIBLE_DEVICES"
        )
    return None


def _npu_import_problem(error: ImportError) -> str:
    if "cannot open shared object file" in str(error):
        library = str(error).partition(":")[0]
        return (
            "device npu: torch_npu is installed but CANN is not on LD_LIBRARY_PATH "
            f"({library} not found); {CANN_REMEDY}"
        )
    return (
        f"device npu: torch_npu does not load beside torch {torch.__version__} ({error}); "
        f"run: {NPU_INSTALL}"
    )


def _cuda_problem() -> str | None:
    version = torch.__version__
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        release = version.partition("+")[0]
        return (
            f"device cuda: torch {version} is built without CUDA; "
            f"run: pip install --force-reinstall torch=={release}"
        )
    return (
        f"device cuda: torch {version} is built for CUDA {torch.version.cuda} but finds no usable "
        "GPU or driver; check `nvidia-smi` and CUDA_VISIBLE_DEVICES"
    )


def _select(kind: Literal["cuda", "npu"], index: int) -> torch.device:
    module = torch.get_device_module(kind)
    num_devices = module.device_count()
    if index >= num_devices:
        raise MissingEnvironment(
            f"device {kind}:{index}: only {num_devices} visible; "
            f"start fewer processes or widen {_VISIBLE[kind]}"
        )
    module.set_device(index)
    return torch.device(kind, index)


def _require_precision(device: Device) -> None:
    if device.kind == "cpu":
        if device.precision == "fp16":
            raise UsageError("precision fp16 is not supported on the CPU; use bf16 or fp32")
    elif device.precision == "bf16" and not device._module().is_bf16_supported():
        raise UsageError(f"precision bf16 is not supported on {device.name()}; use fp16 or fp32")


def _use_exact_arithmetic(kind: Kind) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if kind == "npu":
        npu = torch.get_device_module("npu")
        npu.matmul.allow_hf32 = False
        npu.conv.allow_hf32 = False
        # Releases differ in these defaults: private tensor formats and compiling each new shape.
        npu.config.allow_internal_format = False
        npu.set_compile_mode(jit_compile=False)


def _vendor_facts(kind: Kind) -> dict[str, Any]:
    match kind:
        case "cpu":
            return {"threads": torch.get_num_threads()}
        case "cuda":
            cudnn: Any = torch.backends.cudnn
            return {
                "cuda": torch.version.cuda,
                "cudnn": cudnn.version(),
                "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
                "conv_tf32": cudnn.allow_tf32,
            }
        case "npu":
            npu = torch.get_device_module("npu")
            return {
                "torch_npu": str(importlib.import_module("torch_npu").__version__),
                "matmul_hf32": npu.matmul.allow_hf32,
                "conv_hf32": npu.conv.allow_hf32,
            }


def _peak_resident_bytes() -> int:
    import resource  # absent on Windows, where everything else here works

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
