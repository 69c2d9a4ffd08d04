"""Resumable training state on disk: plain tensors and plain data, readable with `weights_only`.

A checkpoint is written to a temporary name, synced, then renamed; its sha256 stands in a file
beside it.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models import Detector, build_detector
from suite.errors import InputError, SuiteError, UsageError
from suite.files import file_sha256, is_file, replacing, write_text
from suite.recipe import Recipe, differing_keys, recipe_from_dict
from suite.weights import is_dense, load_plain

SCHEMA = "suite.checkpoint/1"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "weights": dict,
    "ema": (dict, type(None)),
    "optimizer": dict,
    "scaler": dict,
    "events": dict,
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

    detector: Detector
    recipe: Recipe
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    step: int
    sha256: str


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and its digest; `state` has the keys that `load_checkpoint` returns.

    Raises:
        SuiteError: the place cannot be written; what stood there stays.
    """
    try:
        with replacing(path) as temporary:
            with temporary.open("wb") as file:  # by name, torch stores the temporary name inside
                torch.save({"schema": SCHEMA, **_on_cpu(state)}, file)
            # Before the rename: a checkpoint that is there always has its digest.
            write_text(_digest_path(path), f"{file_sha256(temporary)}  {path.name}\n")
    except (OSError, RuntimeError) as error:  # torch gives the latter, and no reason
        reason = error.strerror if isinstance(error, OSError) else "no space left, or a limit"
        raise SuiteError(
            f"{path}: the checkpoint cannot be written ({reason}); "
            "make room; a run goes on with --resume"
        ) from error


def _on_cpu(value: Any) -> Any:
    """Return the same on the CPU: torch.load finds it on any machine, whatever trained it."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_on_cpu(entry) for entry in value]
    return value


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU.

    Raises:
        InputError: it is missing, damaged, hostile, or not a checkpoint of this suite.
    """
    if not is_file(path):
        raise InputError(f"{path}: no such checkpoint")
    _check_digest(path)
    state = load_plain(path)
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint of this suite (no schema '{SCHEMA}')")
    for key, kind in _FIELDS.items():
        if not isinstance(state.get(key, ...), kind):
            raise InputError(f"{path}: damaged checkpoint, '{key}' is absent or of the wrong type")
    _check_values(state, path)
    return cast(dict[str, Any], state)


def load_detector(path: Path) -> TrainedDetector:
    """Rebuild the detector of a checkpoint for inference.

    Raises:
        InputError: as `load_checkpoint`, or the weights do not fit the recipe inside.
    """
    state = load_checkpoint(path)
    recipe = recipe_of_checkpoint(state, source=str(path))
    weights = state["ema"] or state["weights"]
    _require_fit(weights, recipe, path)
    detector = build_recipe_detector(recipe)
    detector.load_state_dict(dict(weights))
    names, ids = tuple(state["class_names"]), tuple(state["category_ids"])
    if not len(names) == len(ids) == recipe.detector.num_classes:
        raise InputError(
            f"{path}: names {len(names)} classes, its recipe says {recipe.detector.num_classes}"
        )
    return TrainedDetector(detector.eval(), recipe, names, ids, state["step"], file_sha256(path))


def recipe_of_checkpoint(state: dict[str, Any], *, source: str) -> Recipe:
    """Return the recipe that a checkpoint was trained by.

    Raises:
        InputError: it is none that this version understands.
    """
    try:
        return recipe_from_dict(state["recipe"], source=f"{source}, its recipe")
    except UsageError as error:
        raise InputError(str(error)) from error


def build_recipe_detector(recipe: Recipe) -> Detector:
    """Build the detector a recipe describes, with fresh weights."""
    section = recipe.detector
    options: dict[str, Any] = {} if section.name == "ssd_r34" else asdict(section.variant)
    if section.frozen_stages is not None:
        options["frozen_stages"] = section.frozen_stages
    return build_detector(
        section.name,
        num_classes=section.num_classes,
        width=section.width,
        padding=section.padding,
        **options,
    )


def start_from_checkpoint(detector: Detector, recipe: Recipe) -> list[str]:
    """Load the checkpoint that a recipe starts from into its detector, on the CPU.

    The averaged (EMA) weights where the run kept them, as `load_detector`. Where the two differ in
    the number of classes, the class head stays as it is.

    Returns:
        the keys that stay as they are.

    Raises:
        InputError: as `load_checkpoint`, or it is of another detector.
    """
    assert recipe.detector.weights is not None
    path = Path(recipe.detector.weights)
    state = load_checkpoint(path)
    _require_same_network(recipe_of_checkpoint(state, source=str(path)), recipe, path)
    weights, wanted = state["ema"] or state["weights"], detector.state_dict()
    differs = {
        key for key in wanted if key not in weights or weights[key].shape != wanted[key].shape
    }
    fresh = sorted(key for key in differs if key.startswith(detector.class_head_prefix))
    if differs - set(fresh):
        raise InputError(f"{path}: no weights for '{min(differs - set(fresh))}' of this shape")
    kept = {key: weights[key] for key in wanted if key not in fresh}
    detector.load_state_dict(kept, strict=False)
    return fresh


def _require_same_network(stored: Recipe, recipe: Recipe, path: Path) -> None:
    """Compare what shapes do not show: strides, paddings, anchors."""
    for key in differing_keys(stored, recipe):
        if key in ("detector.name", "detector.width", "detector.padding") or "variant" in key:
            theirs, ours = (attrgetter(key)(side) for side in (stored, recipe))
            raise InputError(f"{path}: has {key} {theirs}, the recipe {ours}; set it to {theirs}")


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
    return sorted(p for p in folder.glob("step-*.pth") if re.fullmatch(r"step-\d{8}\.pth", p.name))


def delete_old_checkpoints(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what an interrupted save left behind."""
    for path in list_checkpoints(folder)[:-keep]:
        path.unlink()
        _digest_path(path).unlink(missing_ok=True)
    for suffix in ("pth", "sha256"):
        for path in folder.glob(f".*.{suffix}"):
            path.unlink()


def _require_fit(weights: dict[str, Tensor], recipe: Recipe, path: Path) -> None:
    """Compare with a detector that has no memory: the recipe of a hostile file may ask for any."""
    try:
        with torch.device("meta"):
            wanted = build_recipe_detector(recipe).state_dict()
        fits = _shapes(weights) == _shapes(wanted)
    except (RuntimeError, OverflowError, TypeError):  # a shape beyond 64 bits
        fits = False
    if not fits:
        raise InputError(
            f"{path}: the weights do not fit '{recipe.detector.name}' with "
            f"{recipe.detector.num_classes} classes as its recipe says"
        )


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _check_digest(path: Path) -> None:
    stored = _digest_path(path)
    if not is_file(stored):
        return
    with stored.open("rb") as file:
        stated = file.read(64)
    if stated != file_sha256(path).encode():
        raise InputError(f"{path}: damaged, its sha256 is not the one in {stored.name}")


def _check_values(state: dict[str, Any], path: Path) -> None:
    names, ids = state["class_names"], state["category_ids"]
    if not all(type(name) is str for name in names) or not all(type(i) is int for i in ids):
        raise InputError(f"{path}: damaged checkpoint, its classes are not texts with numbers")
    size = path.stat().st_size
    for name, value in [*state["weights"].items(), *(state["ema"] or {}).items()]:
        sound = is_dense(value, max_bytes=size) and value.dtype in (torch.float32, torch.int64)
        if not (type(name) is str and sound and value.isfinite().all()):
            raise InputError(f"{path}: damaged checkpoint, '{name}' is not a finite tensor")
