"""Keeping two processes from writing the same files at the same time."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


# Of file systems that have no locks: there nothing keeps processes apart, as on Windows.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def alone(lock: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Run the block while no other process is in a block of the same lock file; wait for them.

    The lock ends with its process, however that ends; the file goes with the block.

    Args:
        lock: a name of its own, in a folder that exists.
        say: called with one sentence where this process has to wait; may raise instead.

    Raises:
        OSError: the place cannot be written.
    """
    if sys.platform == "win32":  # which has no such locks
        yield
        return
    file = _lock(lock, say=say)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is locked, so that nobody locks a nameless file
        file.close()


def is_held(lock: Path) -> bool:
    """Whether a process is in a block of a lock file."""
    if sys.platform == "win32":
        return lock.exists()
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (BlockingIOError, PermissionError):  # the latter: it is another user's
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return False


def _lock(path: Path, *, say: Callable[[str], None]) -> IO[bytes]:
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(64).decode(errors="replace") or "another process"
            try:
                say(f"waiting for {holder}, which has {path}")
            except Exception:
                file.close()
                raise
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise
        if _is_named(file, path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            file.flush()
            return file
        file.close()  # its last owner has deleted it


def _is_named(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
