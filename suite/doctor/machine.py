"""Memory, disk, limits and cores of this machine, held against what a run asks for."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from suite.doctor.checks import GIB, Check
from suite.doctor.needs import NUM_CHECKPOINTS, Needs
from suite.provenance import available_memory_bytes, describe_machine

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - measured, nothing is written there
_CGROUP = Path("/sys/fs/cgroup")
# Beside the checkpoints: logs, detections, records.
_OUTPUT_BYTES = GIB

# Files that one process has open: its own and its libraries', of each loader process the queues and
# six tensors of two waiting batches, and connections to the other ranks in two groups.
_OPEN_FILES = 256
_OPEN_FILES_A_WORKER = 32
_OPEN_FILES_A_RANK = 2

# Threads of a rank beside those of its operators, and of a loader process.
_THREADS = 64
_THREADS_A_WORKER = 4


def check_machine(needs: Needs) -> Iterator[Check]:
    """Look at what every run needs, whatever its device."""
    yield _check_memory()
    yield _check_disk(needs)
    yield _check_shared_memory(needs)
    yield _check_cores(needs)
    yield _check_open_files(needs)
    yield _check_processes(needs)


def count_cores() -> int:
    """Return the cores this process may use, those of a container's quota where that is less."""
    cores = describe_machine()["cores"] or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(cores, int(quota) // int(period)))
    return int(cores)


def _check_memory() -> Check:
    total = describe_machine()["memory_bytes"]
    available = available_memory_bytes()
    if total is None or available is None:
        return Check("memory", "ok", "unknown" if total is None else f"{total / GIB:.1f} GiB")
    value = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    if available < 4 * GIB:
        return Check("memory", "warning", value, "use a smaller global_batch and fewer workers")
    return Check("memory", "ok", value)


def _check_disk(needs: Needs) -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    checkpoints = NUM_CHECKPOINTS * needs.checkpoint_bytes
    value = (
        f"{free / GIB:.1f} GiB free in the working folder; {NUM_CHECKPOINTS} checkpoints of "
        f"{needs.checkpoint_bytes / GIB:.2f} GiB come there"
    )
    if free < checkpoints + _OUTPUT_BYTES:
        lacking = (checkpoints + _OUTPUT_BYTES - free) / GIB
        remedy = f"free {lacking:.1f} GiB, or pass suite train --output DIR on another disk"
        return Check("disk", "warning", value, remedy)
    return Check("disk", "ok", value)


def _check_shared_memory(needs: Needs) -> Check:
    if not _SHARED_MEMORY.is_dir():
        return Check("shared memory", "ok", f"no {_SHARED_MEMORY} on this system")
    usage = shutil.disk_usage(_SHARED_MEMORY)
    value = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free in {_SHARED_MEMORY}"
    if usage.free >= needs.shared_bytes:
        return Check("shared memory", "ok", value)
    size = max(8, math.ceil(2 * needs.shared_bytes / GIB))
    return Check(
        "shared memory",
        "warning",
        f"{value}, {needs.source} fills {needs.shared_bytes / GIB:.1f}",
        f"start the container with --ipc=host or --shm-size={size}g, or pass --set data.workers=0",
    )


def _check_cores(needs: Needs) -> Check:
    cores = count_cores()
    loaders = needs.ranks * needs.workers
    value = f"{cores}, for {needs.ranks} x {needs.workers} loader processes"
    if loaders <= cores:
        return Check("cores", "ok", value)
    return Check("cores", "warning", value, f"pass --set data.workers={cores // needs.ranks}")


def _check_open_files(needs: Needs) -> Check:
    limits = _read_limits("RLIMIT_NOFILE")
    if limits is None:
        return Check("open files", "ok", "no limit known on this system")
    soft, hard = limits
    wanted = (
        _OPEN_FILES + _OPEN_FILES_A_WORKER * needs.workers + _OPEN_FILES_A_RANK * needs.num_ranks
    )
    value = f"{_show(soft)} a process, some {wanted} needed"
    if soft >= wanted:
        return Check("open files", "ok", value)
    if hard >= wanted:
        return Check("open files", "warning", value, f"run: ulimit -n {min(hard, 65536):.0f}")
    remedy = "start the container with --ulimit nofile=65536:65536, or raise it in limits.conf"
    return Check("open files", "warning", value, remedy)


def _check_processes(needs: Needs) -> Check:
    soft, _ = _read_limits("RLIMIT_NPROC") or (math.inf, math.inf)
    wanted = needs.ranks * (count_cores() + _THREADS + _THREADS_A_WORKER * needs.workers)
    left = _read_pids_left()
    value = f"{_show(min(soft, left))} processes and threads, some {wanted} needed"
    if left < wanted:
        return Check("processes", "warning", value, "start the container with --pids-limit=-1")
    # The superuser is not held to it.
    if soft < wanted and os.geteuid() != 0:
        return Check("processes", "warning", value, f"run: ulimit -u {max(4096, 2 * wanted)}")
    return Check("processes", "ok", value)


def _read_limits(name: str) -> tuple[float, float] | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limits = resource.getrlimit(getattr(resource, name))
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in limits)
    return soft, hard


def _read_pids_left() -> float:
    most, current = (_read(_CGROUP / f"pids.{name}") for name in ("max", "current"))
    return int(most) - int(current) if most.isdigit() and current.isdigit() else math.inf


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _show(limit: float) -> str:
    return "unlimited" if limit == math.inf else f"{limit:.0f}"
