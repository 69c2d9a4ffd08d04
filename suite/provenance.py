"""Where a number comes from: the command, the machine, the software and the commit behind it.

Nothing here imports torch: what a device is called is told by whoever has it open.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import suite

# One runtime is published under several distribution names, of which one is installed.
_DISTRIBUTIONS = {
    "torch": ("torch",),
    "torch_npu": ("torch-npu",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann"),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "simplejpeg": ("simplejpeg",),
    "pycocotools": ("pycocotools",),
    "hotcoco": ("hotcoco",),
}
_GIT_TIMEOUT_S = 10
_MEMORY_FILE = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def describe_command(arguments: Sequence[str]) -> str:
    """Return a command line as one could type it, without any absolute path of this machine.

    A path below the working folder becomes relative to it, any other is reduced to its name.

    Args:
        arguments: As in `sys.argv`, the program first.
    """
    program = Path(arguments[0]).name if arguments else ""
    start = ["python", "-m", "suite"] if program == "__main__.py" else [program]
    return shlex.join(start + [_shorten_paths(argument) for argument in arguments[1:]])


def describe_machine() -> dict[str, Any]:
    """Return the processor's name, the cores this process may use, and the memory in bytes."""
    return {"cpu": _read_cpu_name(), "cores": _count_cores(), "memory_bytes": _measure_memory()}


def available_memory_bytes() -> int | None:
    """Return the memory that programs could still take; None where the system does not tell.

    In a container with a limit of its own (cgroup v2), what that leaves, if it is less.
    """
    if not _MEMORY_FILE.is_file():
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _MEMORY_FILE.read_text(), re.MULTILINE)
    if found is None:
        return None
    available = int(found[1]) * 1024
    limit, used = (_read_count(_CGROUP / f"memory.{name}") for name in ("max", "current"))
    return available if limit is None or used is None else min(available, max(0, limit - used))


def _read_count(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def describe_software() -> dict[str, str | None]:
    """Return the versions of everything that can change a number; None where not installed."""
    versions = {name: _read_version(names) for name, names in _DISTRIBUTIONS.items()}
    return {
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "suite": suite.__version__,
        **versions,
    }


def describe_git() -> dict[str, Any] | None:
    """Return the checkout's commit and whether it has changes; None outside a checkout."""
    root = Path(suite.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    commit = _run_git(root, "rev-parse", "HEAD")
    changes = _run_git(root, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _shorten_paths(argument: str) -> str:
    # Paths also stand behind "=" and "," (--set data.root=/mnt/coco).
    return "".join(_shorten_path(part) for part in re.split("([=,])", argument))


def _shorten_path(text: str) -> str:
    if not Path(text).is_absolute():
        return text
    path = Path(os.path.normpath(text))
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return path.name


def _read_cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _count_cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _measure_memory() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_version(distributions: Sequence[str]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _run_git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    # Without optional locks a record never disturbs a commit being made beside it.
    command = [git, "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments and no shell
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.strip()
