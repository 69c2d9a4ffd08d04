"""Energy that a device takes while something runs, from the sensor of its driver.

CUDA devices count their own joules since the driver was loaded (NVML, Volta and later). An Ascend
NPU tells its present power through `npu-smi`, which a thread asks and sums up; unverified on Ascend
hardware. Where neither is there, nothing is measured and nothing is guessed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from suite.device import Device
from suite.vendor_tool import run_tool

_PERIOD_S = 0.5
# The counters move every 20 to 100 ms.
_SHORTEST_S = 1.0
# "Power Dissipation(W)" of older, "NPU Real-time Power(W)" of newer drivers.
_POWER = re.compile(r"Power[^:\n]*\(W\)\s*:\s*([0-9.]+)")


@dataclass
class Energy:
    """What a block of work took.

    Attributes:
        joules: None where no sensor told.
        sensor: its name, or "none".
    """

    joules: float | None = None
    sensor: str = "none"


@contextmanager
def measured_energy(device: Device) -> Iterator[Energy]:
    """Measure the energy of the block; `joules` is there when it has ended.

    Of less than a second nothing is said.
    """
    energy = Energy()
    with _measuring(device, energy):
        started = time.perf_counter()
        yield energy
        elapsed = time.perf_counter() - started
    if energy.joules is not None and elapsed < _SHORTEST_S:
        energy.joules, energy.sensor = None, f"{energy.sensor}, less than {_SHORTEST_S:g} s of it"


@contextmanager
def _measuring(device: Device, energy: Energy) -> Iterator[None]:
    counter = _open_counter(device)
    if counter is not None:
        energy.sensor = "NVML"
        before = counter()
        yield
        energy.joules = counter() - before
        return
    watts = _open_power(device)
    if watts is None:
        yield
        return
    energy.sensor = "npu-smi"
    with _summing(watts, energy):
        yield


def _open_counter(device: Device) -> Callable[[], float] | None:
    """Return a reader of a CUDA device's joules; None where there is none."""
    if device.kind != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(_cuda_uuid(device))
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def _cuda_uuid(device: Device) -> str:
    """Return the name that survives CUDA_VISIBLE_DEVICES."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device.torch_device).uuid}"


def _open_power(device: Device) -> Callable[[], float | None] | None:
    """Return a reader of an NPU's watts; None where there is none."""
    if device.kind != "npu":
        return None
    index = str(device.torch_device.index or 0)

    def read() -> float | None:
        answer = run_tool("npu-smi", "info", "-t", "power", "-i", index)
        found = None if answer.problem else _POWER.search(answer.text)
        return None if found is None else float(found[1])

    return None if read() is None else read


@contextmanager
def _summing(watts: Callable[[], float | None], energy: Energy) -> Iterator[None]:
    """Ask for the power until the block ends; its mean times the seconds is the energy."""
    seen: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while True:
            power = watts()
            if power is not None:
                seen.append(power)
            if ended.wait(_PERIOD_S):
                return

    thread = threading.Thread(target=ask, daemon=True)
    started = time.perf_counter()
    thread.start()
    try:
        yield
    finally:
        elapsed = time.perf_counter() - started
        ended.set()
        thread.join()
    if seen:
        energy.joules = elapsed * sum(seen) / len(seen)
