"""Resumable training state on disk: plain tensors and plain data, readable with `weights_only`.

A checkpoint is written to a temporary name, synced, then renamed, with its sha256 in a file beside it.
"""

from __future__ import annotations

import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import DETECTORS, build_detector
from suite.errors import InputError
from suite.files import file_sha256, replacing, write_text
from suite.recipe import Recipe, recipe_from_dict
from suite.weights import LOAD_ERRORS

SCHEMA = "suite.checkpoint/1"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "weights": dict,
    "ema": (dict, type(None)),
    "optimizer": dict,
    "scaler": dict,
    "recipe": dict,
    "class_names": list,
    "category_ids": list,
    "data_digest": str,
}


@dataclass(frozen=True)
class TrainedDetector:
    """A detector with the weights of a checkpoint, and what is known about it.

    Attributes:
        detector: in eval mode, on the CPU; the averaged (EMA) weights where the run kept them.
        recipe: as resolved for the run.
        class_names, category_ids: by label.
        step: optimizer steps done.
        sha256: of the checkpoint file.
    """

    detector: nn.Module
    recipe: Recipe
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    step: int
    sha256: str


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and its digest; `state` has the keys that `load_checkpoint` returns."""
    with replacing(path) as temporary:
        torch.save({"schema": SCHEMA, **state}, temporary)
        # Before the rename: a checkpoint that is there always has its digest.
        write_text(_digest_path(path), f"{file_sha256(temporary)}  {path.name}\n")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU.

    Raises:
        InputError: it is missing, damaged, hostile, or not a checkpoint of this suite.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    _check_digest(path)
    _check_container(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise InputError(f"{path}: not a checkpoint of plain data; it was not loaded") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint of this suite (no schema '{SCHEMA}')")
    for key, kind in _FIELDS.items():
        if not isinstance(state.get(key, ...), kind):
            raise InputError(f"{path}: damaged checkpoint, '{key}' is absent or of the wrong type")
    return state


def load_detector(path: Path) -> TrainedDetector:
    """Rebuild the detector of a checkpoint for inference.

    Raises:
        InputError: as `load_checkpoint`, or the weights do not fit the recipe inside.
    """
    state = load_checkpoint(path)
    recipe = recipe_from_dict(state["recipe"], source=str(path))
    detector = build_recipe_detector(recipe)
    try:
        detector.load_state_dict(state["ema"] or state["weights"])
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{path}: the weights do not fit '{recipe.detector.name}' with "
            f"{recipe.detector.num_classes} classes as its recipe says"
        ) from error
    names, ids = tuple(state["class_names"]), tuple(state["category_ids"])
    if not len(names) == len(ids) == recipe.detector.num_classes:
        raise InputError(
            f"{path}: names {len(names)} classes, its recipe says {recipe.detector.num_classes}"
        )
    return TrainedDetector(detector.eval(), recipe, names, ids, state["step"], file_sha256(path))


def build_recipe_detector(recipe: Recipe) -> nn.Module:
    """Build the detector a recipe describes, with fresh weights."""
    section = recipe.detector
    if section.name not in DETECTORS:
        known = ", ".join(sorted(DETECTORS))
        raise InputError(
            f"recipe {recipe.name}: detector.name '{section.name}' is unknown; known: {known}"
        )
    return build_detector(
        section.name, num_classes=section.num_classes, width=section.width, padding=section.padding
    )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}.pth"


def load_newest_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the newest sound checkpoint of a folder; damaged ones are skipped with a message.

    Raises:
        InputError: none is sound.
    """
    for path in sorted(list_checkpoints(folder), reverse=True):
        try:
            return load_checkpoint(path)
        except InputError as error:
            print(f"skipped: {error}", file=sys.stderr)
    raise InputError(f"{folder}: no sound checkpoint to resume from")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*.pth") if re.fullmatch(r"step-\d{8,}\.pth", p.name))


def delete_old_checkpoints(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in list_checkpoints(folder)[:-keep]:
        path.unlink()
        _digest_path(path).unlink(missing_ok=True)


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _check_digest(path: Path) -> None:
    stored = _digest_path(path)
    if stored.is_file() and stored.read_text(encoding="utf-8", errors="replace")[
        :64
    ] != file_sha256(path):
        raise InputError(f"{path}: damaged, its sha256 is not the one in {stored.name}")


def _check_container(path: Path) -> None:
    """Refuse what torch.save never writes: other containers, and compressed members (bombs)."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(
                member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()
            )
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: not a checkpoint, or cut short") from error
    if compressed:
        raise InputError(f"{path}: not a checkpoint of this suite (compressed members)")
