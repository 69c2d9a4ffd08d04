"""Why npu or cuda is unusable here: each cause in one sentence that ends with what would help.

torch_npu is loaded here and nowhere else, guarded: it needs CANN, the Ascend driver and its own
release of torch, and fails in another way for each. The failures were read in torch_npu 2.13 and,
without CANN, seen; on a machine with a driver they are unverified on Ascend hardware. torch itself
is loaded where it is asked, since the doctor looks for device files without it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

CANN_REMEDY = "run: source /usr/local/Ascend/ascend-toolkit/set_env.sh"
NPU_INSTALL = 'run: pip install "npu-detection-suite[npu]"'
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
# "1": an operator that the NPU lacks fails. Otherwise torch_npu computes it on the CPU and says so
# in a warning at most.
NO_FALLBACK = "TORCH_NPU_FALLBACK_CPU_DISABLE"

DEVICE_FILES = Path("/dev")

_CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
_DRIVER_LIBRARY = "libascend_hal.so"
# How the names of CANN's functions begin; those of torch begin with _ZN.
_CANN_SYMBOLS = ("acl", "Hccl", "hccl")


@dataclass(frozen=True)
class Problem:
    """Why a kind of device is unusable here, and what would help."""

    cause: str
    remedy: str

    def __str__(self) -> str:
        """Say both in one sentence."""
        return f"{self.cause}; {self.remedy}"


def npu_problem(*, strict: bool = False) -> Problem | None:
    """Load torch_npu; say why no NPU is usable and what would help, None if one is.

    Args:
        strict: forbid it to compute on the CPU what the NPU cannot. It looks for that once, so it
            has to be said before it is loaded.
    """
    import torch

    if importlib.util.find_spec("torch_npu") is None:
        return Problem("torch_npu is not installed", NPU_INSTALL)
    version = _installed_version()
    # Before it is loaded: another release may take the process down.
    if version is not None and release_of(version) != release_of(torch.__version__):
        return Problem(f"torch_npu {version} does not fit torch {torch.__version__}", NPU_INSTALL)
    if strict and "torch_npu" not in sys.modules:
        os.environ[NO_FALLBACK] = "1"
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        return _loading_problem(error, torch.__version__)
    return None if torch.get_device_module("npu").device_count() else _absence_problem()


def cuda_problem() -> Problem | None:
    """Say why no NVIDIA GPU is usable and what would help, None if one is."""
    import torch

    version = torch.__version__
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return Problem(
            f"torch {version} is built without CUDA",
            f"run: pip install --force-reinstall torch=={version.partition('+')[0]}",
        )
    return Problem(
        f"torch {version} is built for CUDA {torch.version.cuda} but finds no usable GPU or driver",
        f"check `nvidia-smi` and {VISIBLE['cuda']}",
    )


def release_of(version: str) -> tuple[int, ...]:
    """Return major and minor version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def find_device_files() -> list[int]:
    """Return the numbers of /dev/davinci*."""
    names = (path.name for path in DEVICE_FILES.glob("davinci[0-9]*"))
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"davinci(\d+)", name)))


def _installed_version() -> str | None:
    try:
        return metadata.version("torch-npu")
    except metadata.PackageNotFoundError:
        return None


def _loading_problem(error: Exception, version: str) -> Problem:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if "cannot open shared object file" in reason:
        return _library_problem(reason.partition(":")[0])
    if any(f"undefined symbol: {start}" in reason for start in _CANN_SYMBOLS):
        return Problem(
            f"CANN does not fit torch_npu ({reason})",
            "install the CANN release that torch_npu's compatibility table names and source the "
            "set_env.sh in it",
        )
    if "Two accelerators" in reason:
        return Problem(
            f"torch {version} is built for another accelerator, beside which torch_npu does not "
            "load",
            f"run: pip install --force-reinstall torch=={version.partition('+')[0]} "
            f"--index-url {_CPU_WHEELS}",
        )
    return Problem(f"torch_npu does not load beside torch {version} ({reason})", NPU_INSTALL)


def _library_problem(library: str) -> Problem:
    if library == _DRIVER_LIBRARY:
        return Problem(
            f"the Ascend driver is not installed here ({library} not found)",
            "install it, or mount /usr/local/Ascend/driver into the container",
        )
    home = os.environ.get("ASCEND_HOME_PATH")
    if home is None:
        return Problem(
            "torch_npu is installed but CANN is not on LD_LIBRARY_PATH "
            f"({library} not found, ASCEND_HOME_PATH not set)",
            CANN_REMEDY,
        )
    return Problem(
        f"CANN in {home} (ASCEND_HOME_PATH) is incomplete or not on LD_LIBRARY_PATH "
        f"({library} not found)",
        "install its toolkit and source the set_env.sh in it",
    )


def _absence_problem() -> Problem:
    if not find_device_files():
        return Problem(
            "torch_npu loads but there is no /dev/davinci*",
            "install the Ascend driver, or start the container with --device /dev/davinci0 "
            "--device /dev/davinci_manager",
        )
    visible = os.environ.get(VISIBLE["npu"])
    if visible is not None:
        return Problem(
            f"torch_npu sees no device with {VISIBLE['npu']}={visible!r}",
            "unset it, or name devices that exist in rising order, such as 0,1",
        )
    return Problem("torch_npu loads but sees no device", "check `npu-smi info`")
