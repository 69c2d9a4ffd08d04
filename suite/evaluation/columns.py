"""Ground truth and results as arrays: checked once, and handed on without a dictionary a box.

An image is its position among the sorted image ids, a label the position among the sorted category
ids. Boxes are float64 xywh in pixels of the original image. Letters: M boxes, D detections.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from suite.evaluation.coco_files import require_valid_results

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

MAX_DETECTIONS: Final = 100  # of one class in one image, the best of which COCO judges
_LARGEST_PLAIN: Final = 2.0**53
_KEYS: Final = ("image_id", "category_id", "score", "bbox")


@dataclass(frozen=True, kw_only=True)
class TrueBoxes:
    """Ground truth, sorted by image, in the order of the file inside one: image [M], xywh [M,4]."""

    image: Integers
    label: Integers
    xywh: Floats
    area: Floats
    is_crowd: Flags


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """Detections: image [D], label [D], xywh [D,4], score [D]."""

    image: Integers
    label: Integers
    xywh: Floats
    score: Floats

    def take(self, which: Integers) -> FoundBoxes:
        """Return the detections at these positions, in this order."""
        return FoundBoxes(
            image=self.image[which],
            label=self.label[which],
            xywh=self.xywh[which],
            score=self.score[which],
        )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Both sides of an evaluation.

    Attributes:
        image_ids: rising; likewise `category_ids`.
        class_names: by label; told apart by the id where two are equal.
        found: in the order of the results.
    """

    image_ids: Integers
    category_ids: Integers
    class_names: list[str]
    truth: TrueBoxes
    found: FoundBoxes


def read_columns(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> Columns:
    """Turn both sides into arrays; an annotation without area has its box's.

    Raises:
        InputError: a result names an unknown image or category, or its box or score is no number.
    """
    image_ids, category_ids = (
        np.unique(np.array([entry["id"] for entry in ground_truth[key]], dtype=np.int64))
        for key in ("images", "categories")
    )
    found = _read_plain_results(results, image_ids, category_ids)
    if found is None:
        require_valid_results(ground_truth, results)
        found = _read_valid_results(results, image_ids, category_ids)
    return Columns(
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=name_classes(ground_truth["categories"]),
        truth=_read_truth(ground_truth["annotations"], image_ids, category_ids),
        found=found,
    )


def name_classes(categories: list[dict[str, Any]]) -> list[str]:
    """Return the name of every category in the order of the ids, with the id where it is shared."""
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [str(category.get("name", category["id"])) for category in ordered]
    uses = Counter(names)
    return [
        name if uses[name] == 1 else f"{name} ({category['id']})"
        for name, category in zip(names, ordered, strict=True)
    ]


def keep_best(found: FoundBoxes) -> FoundBoxes:
    """Keep what COCO judges, by image, label and falling score; equal scores as in the results."""
    order = np.lexsort((-found.score, found.label, found.image))
    ranks = rank_in_groups(found.image[order], found.label[order])
    return found.take(order[ranks < MAX_DETECTIONS])


def rank_in_groups(*keys: Integers) -> Integers:
    """Return the position of every entry among those with the same keys, which stand together."""
    num = len(keys[0])
    if num == 0:
        return np.zeros(0, dtype=np.int64)
    is_first = np.ones(num, dtype=bool)
    is_first[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    starts = np.flatnonzero(is_first)
    positions = np.arange(num)
    return positions - np.repeat(starts, np.diff(starts, append=num))


def _read_plain_results(
    results: list[dict[str, Any]], image_ids: Integers, category_ids: Integers
) -> FoundBoxes | None:
    """Read results that are beyond doubt, as nearly all are; None where one needs a closer look."""
    try:
        image, category, score, boxes = (list(map(itemgetter(key), results)) for key in _KEYS)
        flat = list(chain.from_iterable(boxes))
        if not (
            set(map(len, results)) <= {len(_KEYS)}
            and {*map(type, image), *map(type, category)} <= {int}
            and set(map(type, boxes)) <= {list}
            and set(map(len, boxes)) <= {4}
            and {*map(type, score), *map(type, flat)} <= {int, float}
        ):
            return None
        found = FoundBoxes(
            image=_find_positions(np.array(image, dtype=np.int64), image_ids),
            label=_find_positions(np.array(category, dtype=np.int64), category_ids),
            xywh=np.fromiter(flat, np.float64, len(flat)).reshape(-1, 4),
            score=np.array(score, dtype=np.float64),
        )
    except (KeyError, TypeError, OverflowError):
        return None
    sound = (
        (found.image >= 0).all()
        and (found.label >= 0).all()
        and (np.abs(found.xywh) <= _LARGEST_PLAIN).all()
        and (found.xywh[:, 2:] >= 0).all()
        and (np.abs(found.score) <= _LARGEST_PLAIN).all()
    )
    return found if sound else None


def _read_valid_results(
    results: list[dict[str, Any]], image_ids: Integers, category_ids: Integers
) -> FoundBoxes:
    return FoundBoxes(
        image=_find_positions(_read_integers(results, "image_id"), image_ids),
        label=_find_positions(_read_integers(results, "category_id"), category_ids),
        xywh=np.array([entry["bbox"] for entry in results], dtype=np.float64).reshape(-1, 4),
        score=np.array([entry["score"] for entry in results], dtype=np.float64),
    )


def _read_truth(
    annotations: list[dict[str, Any]], image_ids: Integers, category_ids: Integers
) -> TrueBoxes:
    image = _find_positions(_read_integers(annotations, "image_id"), image_ids)
    label = _find_positions(_read_integers(annotations, "category_id"), category_ids)
    # What is of no image or no category counts for nothing, as with pycocotools.
    order = np.argsort(image, kind="stable")
    order = order[(image[order] >= 0) & (label[order] >= 0)]
    entries = [annotations[position] for position in order.tolist()]
    xywh = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    sides = zip(entries, (xywh[:, 2] * xywh[:, 3]).tolist(), strict=True)
    return TrueBoxes(
        image=image[order],
        label=label[order],
        xywh=xywh,
        area=np.array([entry.get("area", area) for entry, area in sides], dtype=np.float64),
        is_crowd=np.array([entry.get("iscrowd", 0) for entry in entries], dtype=bool),
    )


def _read_integers(entries: list[dict[str, Any]], key: str) -> Integers:
    return np.array([entry[key] for entry in entries], dtype=np.int64)


def _find_positions(values: Integers, known: Integers) -> Integers:
    """Return the position of every value in the rising `known`, -1 where it is not there."""
    if len(known) == 0:
        return np.full(len(values), -1)
    positions = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[positions] == values, positions, -1)
