"""Why a device failed while it computed, in one sentence: out of memory, or lacking an operator.

What torch_npu says about an operator is what the simulated NPU of the tests says too; unverified on
Ascend hardware.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from suite.device import Device
from suite.device_problems import NO_FALLBACK
from suite.errors import MissingEnvironment

FEWER_TO_TRAIN: Final = "train with fewer: --set global_batch=..., which scales the learning rate"
FEWER_TO_DETECT: Final = "detect on fewer (--batch), or on another device"
OTHER_DEVICE: Final = "take another device"

_NO_FALLBACK: Final = (
    ", which --strict-device forbids to compute on the CPU; allow it (bench: --no-strict-device, "
    f"elsewhere leave out --strict-device and {NO_FALLBACK}), or install a CANN and torch_npu that "
    "have it"
)
_OPERATOR: Final = re.compile(rf"operator '([^']+)'.*{NO_FALLBACK}", re.DOTALL)


@contextmanager
def explaining_failures(device: Device, *, holding: str, remedy: str) -> Iterator[None]:
    """Say what a device that could not compute was asked for, and what would help.

    Args:
        holding: what it had to hold, such as "8 images at a time".
        remedy: how it would be less.

    Raises:
        MissingEnvironment: it has run out of memory, or lacks an operator and is strict.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_memory(error):
            peak = device.peak_memory_bytes() / 2**30
            problem = f"ran out of memory with {holding}, {peak:.1f} GiB at the peak; {remedy}"
        elif found := _OPERATOR.search(str(error)):
            problem = f"lacks the operator {found[1]}{_NO_FALLBACK}"
        else:
            raise
        raise MissingEnvironment(f"{device.name()} {problem}") from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    # The CPU's allocator has no exception of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
