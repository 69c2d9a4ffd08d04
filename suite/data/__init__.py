"""From a recipe's `data` section to samples and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from suite.data.coco import load_coco
from suite.data.sample import Dataset
from suite.data.voc import load_voc
from suite.errors import UsageError
from suite.recipe import Data, Recipe


def load_split(section: Data, name: Literal["train", "val"]) -> Dataset:
    """Read the annotations of one split."""
    split = section.train if name == "train" else section.val
    root = Path(section.root)
    if section.format == "voc":
        return load_voc(root, image_set=split.annotations)
    assert split.images is not None  # by the rules of a recipe
    return load_coco(root / split.annotations, root / split.images)


def load_recipe_splits(recipe: Recipe) -> tuple[Dataset, Dataset]:
    """Read both splits and hold them against the recipe and each other.

    Raises:
        UsageError: the number of classes is not the recipe's, or the splits name different classes.
    """
    train, val = load_split(recipe.data, "train"), load_split(recipe.data, "val")
    check_classes(train, num_classes=recipe.detector.num_classes, source=f"recipe {recipe.name}")
    if train.class_names != val.class_names or train.category_ids != val.category_ids:
        raise UsageError(
            f"{recipe.data.root}: train and val do not have the same categories: "
            f"{', '.join(train.class_names)} against {', '.join(val.class_names)}"
        )
    return train, val


def check_classes(dataset: Dataset, *, num_classes: int, source: str) -> None:
    """Raise UsageError where a data set has more or fewer classes than a detector."""
    found = len(dataset.class_names)
    if found != num_classes:
        names = ", ".join(dataset.class_names[:6]) + (", ..." if found > 6 else "")
        raise UsageError(
            f"{source} says num_classes {num_classes}, the annotations have {found} ({names}); "
            f"set detector.num_classes to {found}"
        )
