"""One execution's folder: `runs/<recipe>-<n>/`, made once and never overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from suite.errors import InputError, UsageError
from suite.locking import alone

NUM_CHECKPOINTS_KEPT = 3


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
        raise InputError(
            f"{folder}: not a run folder, or one that has saved nothing yet (no checkpoints/ in it)"
        )
    return folder


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run folder.

    Raises:
        UsageError: one is in it; names its process.
    """

    def refuse(sentence: str) -> None:
        raise UsageError(f"{folder}: another run is in it ({sentence}); wait for it, or stop it")

    with alone(folder / ".in-use", say=refuse):
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
