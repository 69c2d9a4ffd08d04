"""The CPU, CUDA devices, and whether the device that was asked for is usable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from suite.device_problems import find_device_files
from suite.doctor.checks import Check, DeviceKind
from suite.provenance import describe_machine

DEVICE = "device"
_CUDA_DRIVER = Path("/proc/driver/nvidia/version")


def check_cpu() -> Check:
    """Describe the processor; needs torch."""
    import torch

    from suite.device import cpu_has_bf16

    value = ", ".join(
        [
            describe_machine()["cpu"],
            f"{describe_machine()['cores']} cores",
            torch.backends.cpu.get_cpu_capability(),
            "bf16 in hardware" if cpu_has_bf16() else "bf16 emulated, slower than fp32",
        ]
    )
    return Check("cpu", "ok", value)


def check_cuda(*, has_torch: bool) -> Iterator[Check]:
    """Look at NVIDIA's driver and devices."""
    has_driver = _CUDA_DRIVER.is_file()
    if has_driver:
        found = re.search(r"Kernel Module\D*([\d.]+)", _CUDA_DRIVER.read_text())
        yield Check("cuda driver", "ok", found[1] if found else "of unknown version")
    else:
        yield Check("cuda driver", "missing", "no NVIDIA driver")
    if has_torch:
        yield _check_cuda_devices(has_driver=has_driver)


def _check_cuda_devices(*, has_driver: bool) -> Check:
    import torch

    from suite.device import device_problem

    problem = device_problem("cuda")
    if problem is None:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("cuda", "ok", ", ".join(names))
    # Another build of torch would not help where there is no driver.
    return Check("cuda", "missing", problem.cause, problem.remedy if has_driver else None)


def check_device(kind: DeviceKind) -> Check:
    """Look whether the device asked for is usable; needs torch."""
    from suite.device import build_device, device_problem

    problem = None if kind == "auto" else device_problem(kind)
    if problem is not None:
        return Check(DEVICE, "missing", f"device {kind}: {problem.cause}", problem.remedy)
    device = build_device(kind, "fp32")
    return Check(DEVICE, "ok", f"{device.kind}: {device.name()}")


def count_devices(kind: DeviceKind, *, has_torch: bool) -> int:
    """Return how many devices of a kind this machine has; 0 where that is not known or the CPU."""
    if has_torch and kind != "cpu":
        import torch

        from suite.device import Kind, device_problem

        wanted: tuple[Kind, ...] = ("npu", "cuda") if kind == "auto" else (kind,)
        for name in wanted:
            if device_problem(name) is None:
                return int(torch.get_device_module(name).device_count())
    return len(find_device_files()) if kind == "npu" else 0
