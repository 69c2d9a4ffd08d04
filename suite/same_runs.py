"""Whether two runs of training are one and the same: every weight, optimizer state and loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from suite.checkpoint import load_newest_checkpoint

_NOT_COMPARED: Final = {"measured"}  # how many seconds the steps took


def find_run(output: Path) -> Path:
    """Return the only run folder below a folder."""
    return next(folder for folder in output.iterdir() if (folder / "checkpoints").is_dir())


def compare_runs(one: Path, other: Path) -> tuple[int, str | None]:
    """Compare their losses and newest checkpoints bit by bit.

    Returns:
        how many tensors and values were compared, and where the two first differ; None: nowhere.

    Raises:
        InputError: a run has no sound checkpoint.
    """
    runs = (one, other)
    losses = [_losses_by_step(run) for run in runs]
    states = [load_newest_checkpoint(run / "checkpoints") for run in runs]
    leaves = [
        [*_leaves(of_run, "loss of step"), *_leaves(state, "")]
        for of_run, state in zip(losses, states, strict=True)
    ]
    for (name, ours), (other_name, theirs) in zip(*leaves, strict=False):
        if name != other_name:
            return len(leaves[0]), f"{name}, which the other has not"
        if not _equal(ours, theirs):
            return len(leaves[0]), f"{name}{_by_how_much(ours, theirs)}"
    if len(leaves[0]) != len(leaves[1]):
        return len(leaves[0]), "the number of values"
    return len(leaves[0]), None


def _losses_by_step(run: Path) -> dict[int, float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line) for line in lines]
    return {value["step"]: value["loss"] for value in values if "loss" in value}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield all tensors and plain values of nested dictionaries and lists, by name."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            if key not in _NOT_COMPARED:
                yield from _leaves(value[key], f"{name} {key}".strip())
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _leaves(entry, f"{name} {index}")
    else:
        yield name, value


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    return bool(ours == theirs)


def _by_how_much(ours: Any, theirs: Any) -> str:
    if isinstance(ours, torch.Tensor) and ours.shape == getattr(theirs, "shape", None):
        return f" by up to {(ours.double() - theirs.double()).abs().max():.3g}"
    return f": {ours} and {theirs}"
