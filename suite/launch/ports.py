"""Who has a port of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"  # include/net/tcp_states.h
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def describe_holder(port: int) -> str:
    """Return " by process 123 (python)" for whoever listens at a port; empty where nobody tells."""
    pid = find_holder(port)
    if pid is None:
        return ""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return f" by process {pid}"
    return f" by process {pid} ({name})"


def find_holder(port: int) -> int | None:
    """Return the process that listens at a port; None if it is free or of somebody else."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in sockets for link in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:  # another user's, or gone meanwhile
            continue
    return None


def is_free(port: int) -> bool:
    """Whether nobody on this machine listens at a port."""
    return not _listening_inodes(port)


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in _TABLES:
        if not os.access(table, os.R_OK):
            continue
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
