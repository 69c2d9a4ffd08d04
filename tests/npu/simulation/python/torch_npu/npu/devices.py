"""Which devices there are and which is current."""

from dataclasses import dataclass

import simulated_npu
import torch

from torch_npu.npu import simulation

_is_in_bad_fork = simulated_npu.is_in_bad_fork
current_device = simulated_npu.current_device
device_count = simulated_npu.device_count


@dataclass(frozen=True)
class _Properties:
    name: str
    total_memory: int


def init() -> None:
    if _is_in_bad_fork():
        raise RuntimeError(
            "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, you "
            "must use the 'spawn' start method"
        )


_lazy_init = init


def is_initialized():
    return not _is_in_bad_fork()


def is_available():
    return device_count() > 0


def set_device(device):
    simulated_npu.set_device(index_of(device))


def get_device_name(device=None):
    index_of(device)
    return "Ascend910A (simulated)" if simulation.saturates else "Simulated NPU"


def get_device_properties(device=None):
    return _Properties(get_device_name(device), simulated_npu.memory_limit())


def index_of(device):
    """Return the number of a device given as number, name, torch.device or None."""
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.device):
        if device.type != "npu":
            raise ValueError(f"Expected a npu device, but got: {device}")
        device = device.index
    index = current_device() if device is None else device
    if not 0 <= index < device_count():
        raise AssertionError("Invalid device id")
    return index


class device:  # noqa: N801 - its name in torch_npu
    """Make a device the current one for a block."""

    def __init__(self, device):
        self.index = index_of(device)

    def __enter__(self):
        self.previous = current_device()
        simulated_npu.set_device(self.index)

    def __exit__(self, *exception):
        simulated_npu.set_device(self.previous)
