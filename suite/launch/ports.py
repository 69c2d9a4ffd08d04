"""Who has a port of this machine, and whether anybody listens at one of another."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"  # include/net/tcp_states.h
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_KNOCK_S: Final = 0.25


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
        if not sockets.isdisjoint(_links(folder)):
            return int(folder.parent.name)
    return None


def is_free(port: int) -> bool:
    """Whether nobody on this machine listens at a port."""
    return not _listening_inodes(port)


def await_listener(addr: str, port: int, *, timeout_s: float) -> bool:
    """Return True as soon as somebody listens at a port; False where nobody does in time.

    Until then the name may be unknown and the machine be off. A name server that does not answer
    adds what the system waits for it.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        with suppress(OSError), socket.create_connection((addr, port), timeout=max(left, 0.1)):
            return True
        if left < _KNOCK_S:
            return False
        time.sleep(_KNOCK_S)


def _links(folder: Path) -> set[str]:
    """Return what the open files of a process are; those of another user's cannot be seen."""
    links = set()
    with suppress(OSError):
        for link in folder.iterdir():
            with suppress(OSError):  # closed meanwhile
                links.add(str(link.readlink()))
    return links


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
