"""What one recipe needs beyond what every run needs: its number of devices and its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from suite.doctor.checks import Check
from suite.doctor.needs import Needs
from suite.recipe import Recipe

_PUBLIC_SETS = {"COCO2017": "coco2017"}


def check_recipe(recipe: Recipe, needs: Needs, *, num_here: int, typed: str) -> Iterator[Check]:
    """Hold a recipe against this machine.

    Args:
        typed: what names the recipe to `suite train`.
    """
    yield _check_count(recipe, needs, num_here=num_here, command=f"suite train {typed}")
    yield _check_data(recipe)


def _check_count(recipe: Recipe, needs: Needs, *, num_here: int, command: str) -> Check:
    value = f"{recipe.name} asks for {recipe.devices} x {recipe.device}"
    if recipe.device in ("cpu", "auto") and not num_here:
        return Check("devices", "ok", value)
    if not num_here:
        remedy = f"to run it elsewhere: {command} --devices 1 --device cpu"
        return Check("devices", "missing", f"{value}, this machine has none", remedy)
    if not needs.spans_machines:
        return Check("devices", "ok", f"{value}, this machine has {num_here}")
    value = f"{value}, this machine has {num_here}"
    remedy = f"run: {command} --devices {num_here} --device {recipe.device}"
    if recipe.devices % num_here == 0:
        remedy = f"start it on {recipe.devices // num_here} such machines, or {remedy}"
    return Check("devices", "warning", value, remedy)


def _check_data(recipe: Recipe) -> Check:
    root = Path(recipe.data.root)
    if not root.is_dir():
        public = _PUBLIC_SETS.get(recipe.data.name)
        fetch = f"run: suite data download {public}, or " if public else ""
        remedy = f"{fetch}name its folder with --data DIR"
        return Check("data", "missing", f"{recipe.data.name}: no folder {root}", remedy)
    if recipe.data.format == "coco":
        for split in (recipe.data.train, recipe.data.val):
            if not (root / split.annotations).is_file():
                value = f"{recipe.data.name}: no {split.annotations} in {root}"
                return Check("data", "missing", value, "name its folder with --data DIR")
    return Check("data", "ok", f"{recipe.data.name} in {root}")
