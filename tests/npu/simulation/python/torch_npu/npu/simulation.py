"""What only a simulated NPU has: how it is set up, and faults to inject."""

import os

import simulated_npu

_GIB = 2**30

saturates = os.environ.get("NPU_SIMULATION_SATURATES") == "1"
overflow_flag = False


def configure() -> None:
    simulated_npu.set_device_count(_num_visible(int(os.environ.get("NPU_SIMULATION_DEVICES", "2"))))
    limit(int(os.environ.get("NPU_SIMULATION_MEMORY_BYTES", 64 * _GIB)))
    missing = os.environ.get("NPU_SIMULATION_MISSING_OPS", "")
    strict = os.environ.get("TORCH_NPU_FALLBACK_CPU_DISABLE") == "1"
    simulated_npu.set_missing_operators([name for name in missing.split(",") if name], strict)


def limit(num_bytes: int) -> None:
    """Let each device have this much memory from now on."""
    simulated_npu.limit_memory(num_bytes)


def overflow() -> None:
    """Set the flag that a saturating device sets when a result was cut to the largest number."""
    global overflow_flag
    overflow_flag = True


def clear_overflow() -> None:
    global overflow_flag
    overflow_flag = False


def _num_visible(num_devices: int) -> int:
    """Count as CANN does: up to what is no number of a device, and none if they do not ascend."""
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if visible is None:
        return num_devices
    indices: list[int] = []
    for name in visible.split(","):
        if not name.isdecimal() or int(name) >= num_devices:
            break
        indices.append(int(name))
    return len(indices) if indices == sorted(set(indices)) else 0
