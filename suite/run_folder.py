"""One execution's folder: `runs/<recipe>-<n>/`, made once and never overwritten."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from suite.errors import InputError, UsageError

if sys.platform != "win32":
    import fcntl

_LOCK = ".in-use"


def create_run_folder(output: Path, name: str) -> Path:
    """Create and return the next free `output/<name>-<n>`.

    Raises:
        UsageError: `output` cannot be written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        return next(filter(_create, (output / f"{name}-{number}" for number in count(1))))
    except OSError as error:
        raise UsageError(
            f"--output {output}: no folder can be made there ({error.strerror}); name another"
        ) from error


def new_record_path(output: Path, name: str) -> Path:
    """Create the next free `output/<name>-<n>` and return where its record goes."""
    return create_run_folder(output, name) / "record.json"


def open_run_folder(folder: Path) -> Path:
    """Return an existing run folder.

    Raises:
        InputError: it is not one.
    """
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: not a run folder (no checkpoints/ in it)")
    return folder


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run folder.

    Raises:
        UsageError: one is in it; names its process.
    """
    if sys.platform == "win32":  # which has no such locks
        yield
        return
    with (folder / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UsageError(
                f"{folder}: {file.read() or 'another process'} trains there now; wait for it or "
                "stop it"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint stands in, if any."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None


def _create(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
