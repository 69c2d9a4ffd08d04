"""One execution's folder: `runs/<recipe>-<n>/`, made once and never overwritten."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from suite.errors import InputError


def create_run_folder(output: Path, recipe_name: str) -> Path:
    """Create and return the next free `output/<recipe_name>-<n>`."""
    output.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = output / f"{recipe_name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


def open_run_folder(folder: Path) -> Path:
    """Return an existing run folder.

    Raises:
        InputError: it is not one.
    """
    if not (folder / "checkpoints").is_dir():
        raise InputError(f"{folder}: not a run folder (no checkpoints/ in it)")
    return folder


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """Return the run folder that a checkpoint stands in, if any."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None
