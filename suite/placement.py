"""Running a recipe on other devices than it was written for, by stated rules."""

from __future__ import annotations

from suite.recipe import Recipe
from suite.schedule import peak_learning_rate


def place_recipe(
    recipe: Recipe, *, device: str | None, devices: int | None, keep_batch: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the overrides that move a recipe, and a sentence for each change.

    - Another number of devices keeps the images per device; the learning rate follows the global
      batch as the recipe says: base_lr x global_batch / base_batch.
    - A CPU does not train in fp16; it takes bf16 instead.

    Args:
        device: the kind to run on; None: the recipe's.
        devices: how many; None: the recipe's.
        keep_batch: whether the global batch is said elsewhere, and so is not changed here.
    """
    overrides: dict[str, str] = {}
    notes: list[str] = []
    if devices is not None and devices != recipe.devices and keep_batch:
        overrides["devices"] = str(devices)
        notes.append(f"devices {recipe.devices} -> {devices}")
    elif devices is not None and devices != recipe.devices:
        batch = recipe.global_batch // recipe.devices * devices
        overrides |= {"devices": str(devices), "global_batch": str(batch)}
        old = peak_learning_rate(recipe.schedule, global_batch=recipe.global_batch)
        new = peak_learning_rate(recipe.schedule, global_batch=batch)
        notes.append(
            f"devices {recipe.devices} -> {devices}: "
            f"global batch {recipe.global_batch} -> {batch}, "
            f"peak learning rate {old:g} -> {new:g} (base_lr x global_batch / base_batch)"
        )
    if device is not None and device != recipe.device:
        overrides["device"] = device
        notes.append(f"device {recipe.device} -> {device}")
        if device == "cpu" and recipe.precision == "fp16":
            overrides["precision"] = "bf16"
            notes.append("precision fp16 -> bf16: a CPU does not train in fp16")
    return overrides, notes
