"""From a recipe's `data` section to samples and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from suite.data.assembly import load_dataset, replace_ground_truth
from suite.data.formats import Location
from suite.data.formats.voc import require_plain_name
from suite.data.sample import Dataset
from suite.data.workers import Workers
from suite.errors import UsageError
from suite.recipe import Recipe
from suite.recipe_sections import Data

# Where a set says which id is which class, unless the recipe names another file.
LABEL_MAPS = {"voc": "label_map.pbtxt", "tfrecord": "label_map.pbtxt", "yolo": "data.yaml"}


def locate_split(section: Data, name: Literal["train", "val"]) -> Location:
    """Return where a split of a recipe lies; nothing is opened."""
    split = section.train if name == "train" else section.val
    root = Path(section.root)
    annotations = root / split.annotations
    if section.format == "voc":
        require_plain_name(split.annotations, f"image set {split.annotations!r}")
        annotations = root / "ImageSets" / "Main" / f"{split.annotations}.txt"
    return Location(
        format=section.format,
        annotations=annotations,
        images=None if split.images is None else root / split.images,
        label_map=_locate_label_map(section, root),
    )


def _locate_label_map(section: Data, root: Path) -> Path | None:
    if section.label_map is not None:
        return root / section.label_map
    customary = LABEL_MAPS.get(section.format)
    if customary is None or not (root / customary).is_file():
        return None
    return root / customary


def load_split(section: Data, name: Literal["train", "val"]) -> Dataset:
    """Read the annotations of one split."""
    dataset = load_dataset(locate_split(section, name))
    if name == "train" or section.val.ground_truth is None:
        return dataset
    return replace_ground_truth(dataset, Path(section.root) / section.val.ground_truth)


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


def build_workers(section: Data) -> Workers:
    """Return the loader processes that a recipe asks for."""
    return Workers(num=section.workers, timeout_s=section.timeout_s)


def check_classes(dataset: Dataset, *, num_classes: int, source: str) -> None:
    """Raise UsageError where a data set has more or fewer classes than a detector."""
    found = len(dataset.class_names)
    if found != num_classes:
        names = ", ".join(dataset.class_names[:6]) + (", ..." if found > 6 else "")
        raise UsageError(
            f"{source} says num_classes {num_classes}, the annotations have {found} ({names}); "
            f"set detector.num_classes to {found}"
        )
