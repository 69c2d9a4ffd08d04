"""What this machine has and lacks for the suite, and the command that would help.

Nothing here fails because something is absent, torch included: absence is what it reports.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from tabulate import tabulate

import suite
from suite.errors import MissingEnvironment
from suite.provenance import available_memory_bytes, describe_machine

# As in pyproject.toml: the oldest torch with a passing run and the first one not tested.
TORCH_RANGE = ((2, 13), (2, 14))
TORCH_INSTALL = 'run: pip install "torch>=2.13,<2.14"'

GIB = 2**30
_DEVICE = "device"
_DEVICE_FILES = Path("/dev")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - measured, nothing is written there

_FOR_DATA = ("simplejpeg", "google-crc32c")

DeviceKind = Literal["auto", "cpu", "cuda", "npu"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer.

    Attributes:
        status: "ok"; "warning": works, with a drawback; "missing": absent or unusable, which only
            matters to those who need it.
        remedy: what to do about it, None where nothing has to be done or can be.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    value: str
    remedy: str | None = None


def doctor(device: DeviceKind = "auto") -> list[Check]:
    """Look at everything the suite uses; the last check is the device asked for."""
    torch_check = _check_torch()
    checks = [_check_python(), Check("suite", "ok", suite.__version__), torch_check]
    checks += [_check_package(name, name) for name in ("onnx", "onnxscript", "pycocotools")]
    checks += [_check_onnxruntime()]
    checks += [_check_package("tensorboard", "npu-detection-suite[tensorboard]")]
    checks += [_check_package(name, "npu-detection-suite[data]") for name in _FOR_DATA]
    checks += [_check_memory(), _check_disk(), _check_shared_memory()]
    if torch_check.status == "missing":
        return [*checks, Check(_DEVICE, "missing", "torch does not load", torch_check.remedy)]
    return [*checks, _check_cpu(), *_check_cuda(), *_check_npu(), _check_device(device)]


def require_device(checks: list[Check]) -> None:
    """Do nothing if the device that `doctor` was asked about is usable.

    Raises:
        MissingEnvironment: it is not; holds the remedy.
    """
    for check in checks:
        if check.name == _DEVICE and check.status == "missing":
            raise MissingEnvironment(f"{check.value}; {check.remedy}")


def format_checks(checks: list[Check]) -> str:
    """Render one line a check, with the remedy on the line below it."""
    rows = []
    for check in checks:
        rows.append([check.status, check.name, check.value])
        if check.remedy is not None:
            rows.append(["", "", f"-> {check.remedy}"])
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _check_python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")


def _check_torch() -> Check:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Check("torch", "missing", f"does not load: {error}", TORCH_INSTALL)
    build = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
    value = f"{torch.__version__}, built {build}"
    oldest, first_untested = TORCH_RANGE
    if oldest <= _release(torch.__version__) < first_untested:
        return Check("torch", "ok", value)
    return Check("torch", "warning", f"{value}, not a tested release", TORCH_INSTALL)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _check_package(name: str, requirement: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "missing", "not installed", f'run: pip install "{requirement}"')


def _check_onnxruntime() -> Check:
    # By import, not by distribution: four distributions own this module, and the one for CANN is
    # built against NumPy 1 and does not load beside NumPy 2.
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        remedy = "run: pip install --force-reinstall onnxruntime"
        return Check("onnxruntime", "missing", f"does not load: {error}", remedy)
    providers = ", ".join(
        provider.removesuffix("ExecutionProvider")
        for provider in onnxruntime.get_available_providers()
    )
    return Check("onnxruntime", "ok", f"{onnxruntime.__version__}, built for {providers}")


def _check_memory() -> Check:
    total = describe_machine()["memory_bytes"]
    available = available_memory_bytes()
    if total is None or available is None:
        return Check("memory", "ok", "unknown" if total is None else f"{total / GIB:.1f} GiB")
    value = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    if available < 4 * GIB:
        return Check("memory", "warning", value, "use a smaller global_batch and fewer workers")
    return Check("memory", "ok", value)


def _check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    value = f"{free / GIB:.1f} GiB free in the working folder"
    if free < 5 * GIB:
        return Check("disk", "warning", value, "free some space or pass --output on another disk")
    return Check("disk", "ok", value)


def _check_shared_memory() -> Check:
    if not _SHARED_MEMORY.is_dir():
        return Check("shared memory", "ok", f"no {_SHARED_MEMORY} on this system")
    total = shutil.disk_usage(_SHARED_MEMORY).total
    value = f"{total / GIB:.1f} GiB in {_SHARED_MEMORY}"
    if total < GIB:
        remedy = (
            "start the container with --ipc=host or --shm-size=8g, or pass --set data.workers=0"
        )
        return Check("shared memory", "warning", value, remedy)
    return Check("shared memory", "ok", value)


def _check_cpu() -> Check:
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


def _check_cuda() -> Iterator[Check]:
    import torch

    from suite.device import device_problem

    has_driver = _DRIVER_FILE.is_file()
    if has_driver:
        found = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER_FILE.read_text())
        yield Check("cuda driver", "ok", found[1] if found else "of unknown version")
    else:
        yield Check("cuda driver", "missing", "no NVIDIA driver")
    problem = device_problem("cuda")
    if problem is None:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Check("cuda", "ok", ", ".join(names))
    else:
        check = _problem_check("cuda", problem)
        # Another build of torch would not help where there is no driver.
        yield check if has_driver else Check("cuda", "missing", check.value)


def _problem_check(name: str, problem: str) -> Check:
    value, _, remedy = problem.removeprefix(f"device {name}: ").rpartition("; ")
    return Check(name, "missing", value, remedy)


def _check_npu() -> Iterator[Check]:
    from suite.device import CANN_REMEDY, device_problem

    yield _check_npu_driver()
    home = os.environ.get("ASCEND_HOME_PATH")
    has_library = _loads("libhccl.so")
    if has_library and home:
        yield Check("cann", "ok", home)
    else:
        told = f"ASCEND_HOME_PATH is {home or 'not set'}"
        value = f"{told}, libhccl.so {'loads' if has_library else 'does not load'}"
        yield Check("cann", "missing", value, CANN_REMEDY)
    yield _check_torch_npu()
    problem = device_problem("npu")
    if problem is None:
        yield Check("npu", "ok", "usable; this suite is unverified on Ascend hardware")
    else:
        yield _problem_check("npu", problem)


def _check_npu_driver() -> Check:
    num_devices = len(list(_DEVICE_FILES.glob("davinci[0-9]*")))
    tool = shutil.which("npu-smi")
    if num_devices == 0 and tool is None:
        return Check("npu driver", "missing", "no /dev/davinci* and no npu-smi")
    value = f"{num_devices} of /dev/davinci*, npu-smi {'found' if tool else 'not on PATH'}"
    if num_devices == 0:
        remedy = "give the container its devices: --device /dev/davinci0 ..."
        return Check("npu driver", "warning", value, remedy)
    return Check("npu driver", "ok", value)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _check_torch_npu() -> Check:
    import torch

    check = _check_package("torch-npu", "npu-detection-suite[npu]")
    if check.status == "ok" and _release(check.value) != _release(torch.__version__):
        value = f"{check.value} does not fit torch {torch.__version__}"
        remedy = 'run: pip install --upgrade "npu-detection-suite[npu]"'
        return Check("torch-npu", "warning", value, remedy)
    return check


def _check_device(kind: DeviceKind) -> Check:
    from suite.device import build_device

    try:
        device = build_device(kind, "fp32")
    except MissingEnvironment as error:
        value, _, remedy = str(error).rpartition("; ")
        return Check(_DEVICE, "missing", value, remedy)
    return Check(_DEVICE, "ok", f"{device.kind}: {device.name()}")
