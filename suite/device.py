"""Where tensors live and how they are computed: the only place that knows cpu, cuda and npu apart.

`npu` is an Ascend device through torch_npu. That path is unverified on Ascend hardware; only tests
with simulated modules hold it. The command line sets TORCH_DEVICE_BACKEND_AUTOLOAD=0 before torch
is first imported, because an installed torch_npu without CANN breaks `import torch` itself.
`device_problems` loads it and says what is missing where a device is unusable; `device_facts` sets
and tells how a device computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suite.device_facts import use_exact_arithmetic, vendor_facts
from suite.device_problems import NO_FALLBACK, VISIBLE, Problem, cuda_problem, npu_problem
from suite.errors import MissingEnvironment, UsageError

Kind = Literal["cpu", "cuda", "npu"]
Precision = Literal["fp32", "bf16", "fp16"]

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# gloo beside the device's own, for what the processes tell each other from the host.
_COLLECTIVES = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "npu": "cpu:gloo,npu:hccl"}

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@dataclass(frozen=True)
class Device:
    """One device of this process and the precision its networks run in; made by `build_device`.

    Attributes:
        strict: whether an operator that the device lacks fails. Otherwise an NPU falls back to the
            CPU for it; cpu and cuda never do.
    """

    kind: Kind
    torch_device: torch.device
    precision: Precision
    strict: bool = False

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Run what is inside in the device's precision; does nothing in fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=_AUTOCAST_DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Make a loss scaler; it passes everything through unless the precision is fp16.

        It finds overflow by looking for inf and NaN in the gradients, of which there are none where
        the device `saturates`.
        """
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    @property
    def saturates(self) -> bool:
        """Whether overflow gives the largest number in place of inf, and 0 in place of NaN.

        The first Ascend 910 knows no other way; later ones do so if INF_NAN_MODE_FORCE_DISABLE is
        1. Unverified on Ascend hardware.
        """
        return self.kind == "npu" and not self._module().utils.is_support_inf_nan()

    def overflowed(self) -> bool:
        """Tell whether a number has overflowed since `clear_overflow`; waits for the device.

        False on a device that does not saturate: it has no such flag, but inf and NaN.
        """
        return self.saturates and bool(self._module().get_npu_overflow_flag())

    def clear_overflow(self) -> None:
        """Forget what has overflowed so far."""
        if self.saturates:
            self._module().clear_npu_overflow_flag()

    @property
    def collective_backend(self) -> str:
        """What `torch.distributed.init_process_group` takes as its backend."""
        return _COLLECTIVES[self.kind]

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout convolutions are fastest in; torch_npu refuses channels_last."""
        return torch.contiguous_format if self.kind == "npu" else torch.channels_last

    def take(self, module: nn.Module) -> None:
        """Move a module here, into the layout that convolutions are fastest in."""
        # torch's annotations leave memory_format out of Module.to.
        module.to(self.torch_device, memory_format=self.memory_format)  # type: ignore[call-overload]

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
            "strict_device": self.strict,
        }
        if self.kind == "npu":
            facts["saturates"] = self.saturates
        return facts | vendor_facts(self.kind)

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
    kind: Literal["auto", "cpu", "cuda", "npu"],
    precision: Precision,
    *,
    index: int = 0,
    strict: bool = False,
) -> Device:
    """Choose a device, make it this process's current one and switch off TF32 and HF32 on it.

    fp32 then means fp32: by default cuDNN's convolutions round to TF32 and Ascend's to HF32.

    Args:
        kind: "auto" takes an NPU if one is usable, then a GPU, then the CPU.
        index: which of the visible devices, the local rank in a distributed run; a process that
            is given a single device takes that.
        strict: let an operator that the device lacks fail, instead of computing it on the CPU.

    Raises:
        MissingEnvironment: the device, its driver or its package is absent; holds the remedy.
        UsageError: the device cannot compute in this precision.
    """
    chosen = _best_kind(strict=strict) if kind == "auto" else kind
    _require_usable(chosen, strict=strict)
    place = torch.device("cpu") if chosen == "cpu" else _select(chosen, index)
    device = Device(chosen, place, precision, _is_strict(chosen, asked=strict))
    _require_precision(device)
    use_exact_arithmetic(chosen)
    return device


def device_problem(kind: Kind, *, strict: bool = False) -> Problem | None:
    """Say why `kind` is unusable here and what would help; None if usable.

    `strict` is that of `build_device`; it takes effect where this loads torch_npu.
    """
    match kind:
        case "npu":
            return npu_problem(strict=strict)
        case "cuda":
            return cuda_problem()
        case "cpu":
            return None


def count_devices(kind: Kind) -> int | None:
    """Return how many devices of a kind this process sees, None for the CPU: as many as asked.

    None of them is taken into use.

    Raises:
        MissingEnvironment: the kind is unusable here; holds the remedy.
    """
    _require_usable(kind)
    return None if kind == "cpu" else int(torch.get_device_module(kind).device_count())


def cpu_name() -> str:
    """Return the processor's model name, or its architecture where the system does not tell."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())


def cpu_has_bf16() -> bool:
    """Tell whether this CPU computes bf16 in hardware; where it does not, fp32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(has is True for name, has in capabilities.items() if "bf16" in name)


@contextlib.contextmanager
def one_cpu_thread() -> Iterator[None]:
    """Let torch compute on one core inside.

    Its further threads wait actively for more work, on cores that others need; small work is no
    slower without them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _best_kind(*, strict: bool) -> Kind:
    candidates: tuple[Kind, ...] = ("npu", "cuda", "cpu")
    return next(kind for kind in candidates if device_problem(kind, strict=strict) is None)


def _require_usable(kind: Kind, *, strict: bool = False) -> None:
    problem = device_problem(kind, strict=strict)
    if problem is not None:
        raise MissingEnvironment(f"device {kind}: {problem}")


def _is_strict(kind: Kind, *, asked: bool) -> bool:
    """Tell whether the device really is strict."""
    if kind != "npu":
        return asked
    strict = os.environ.get(NO_FALLBACK) == "1"
    if asked and not strict:
        raise MissingEnvironment(
            "device npu: torch_npu was loaded before it was told not to fall back to the CPU; "
            f"run: export {NO_FALLBACK}=1"
        )
    return strict


def _select(kind: Literal["cuda", "npu"], index: int) -> torch.device:
    module = torch.get_device_module(kind)
    num_devices = module.device_count()
    if index >= num_devices and _is_given_one(kind):
        index = 0
    if index >= num_devices:
        raise MissingEnvironment(
            f"device {kind}:{index}: only {num_devices} visible; "
            f"start fewer processes or widen {VISIBLE[kind]}"
        )
    module.set_device(index)
    return torch.device(kind, index)


def _is_given_one(kind: Literal["cuda", "npu"]) -> bool:
    """Whether this process was given a device of its own, as `srun --gpus-per-task=1` does."""
    visible = os.environ.get(VISIBLE[kind], "")
    return bool(visible) and "," not in visible


def _require_precision(device: Device) -> None:
    if device.kind == "cpu":
        if device.precision == "fp16":
            raise UsageError("precision fp16 is not supported on the CPU; use bf16 or fp32")
    elif device.precision == "bf16" and not device._module().is_bf16_supported():
        raise UsageError(f"precision bf16 is not supported on {device.name()}; use fp16 or fp32")


def _peak_resident_bytes() -> int:
    import resource  # absent on Windows, where everything else here works

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
