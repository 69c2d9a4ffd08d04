"""What `suite.device` makes of the simulated NPU, as JSON."""

import json
import sys
from typing import Any

import torch

from suite.device import build_device, count_devices
from suite.errors import SuiteError

MIB = 2**20


def observe(precision: Any) -> dict[str, Any]:
    device = build_device("auto", precision, index=1)
    return {
        "place": str(device.torch_device),
        "current": torch.npu.current_device(),
        "count": count_devices("npu"),
        "describe": device.describe(),
        "peak": observe_peak(device),
        "copied": copy_on_a_stream(device),
        "autocast": autocast_dtype(device),
        "scaler": device.scaler().is_enabled(),
        "overflow": observe_overflow(device),
        "third": refusal(index=2),
        "bf16": refusal(precision="bf16"),
    }


def observe_peak(device: Any) -> int:
    device.reset_peak_memory()
    before = device.peak_memory_bytes()
    torch.empty(4 * MIB, dtype=torch.uint8, device=device.torch_device)
    device.synchronize()
    return device.peak_memory_bytes() - before


def copy_on_a_stream(device: Any) -> list[Any]:
    stream = device.open_copy_stream()
    with stream.copying():
        moved = torch.arange(3).pin_memory().to(device.torch_device, non_blocking=True)
    stream.hand_over([moved])
    return [str(moved.device), moved.tolist()]


def autocast_dtype(device: Any) -> str:
    left = torch.rand(2, 2, device=device.torch_device)
    with device.autocast():
        return str((left @ left).dtype)


def observe_overflow(device: Any) -> list[bool]:
    seen = [device.saturates, device.overflowed()]
    sys.modules["torch_npu"].npu.simulation.overflow()
    seen.append(device.overflowed())
    device.clear_overflow()
    return [*seen, device.overflowed()]


def refusal(*, precision: Any = "fp32", index: int = 0) -> str:
    try:
        build_device("npu", precision, index=index)
    except SuiteError as error:
        return str(error)
    return "accepted"


print(json.dumps(observe(sys.argv[1])))
