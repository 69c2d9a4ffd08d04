"""The single entries of a COCO annotation file, checked; shared by all that read one.

A parser returns None for an entry that it reported as a `Problem`. Ids are integers of at most 63
bits. Annotation ids may be missing or 0, which pycocotools takes for "unmatched". ``info``,
``licenses``, and of a category ``supercategory`` and such have no place in an `AnnotatedSet`;
`count_dropped` counts them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

from suite.data.formats.annotated import AnnotatedBox, Problem, Report
from suite.data.formats.containment import ContainedFolder, UnsafeName
from suite.errors import InputError

MAX_SIDE: Final = 2**24  # float32 holds every pixel coordinate up to here
_LISTS: Final = ("images", "annotations", "categories")
_CATEGORY_KEYS: Final = frozenset(("id", "name"))
_OWNERS: Final = {"image_id": "images", "category_id": "categories"}
_MAX_ID: Final = 2**63 - 1
_MAX_ID_DIGITS: Final = 19
_MAX_NUMBER: Final = 2**53  # float64 holds every integer up to here
_BOX_KEYS: Final = frozenset(("id", "image_id", "category_id", "bbox", "area", "iscrowd"))
_IMAGE_KEYS: Final = frozenset(("id", "file_name", "width", "height"))

Json = dict[str, Any]


class ImageEntry(NamedTuple):
    """One entry of ``images``."""

    image_id: int
    file_name: str
    image_hw: tuple[int, int]
    extra: Json


def parse_image(
    item: Json, index: int, *, seen: Container[int], source: str, report: Report
) -> ImageEntry | None:
    """Check an entry of ``images``.

    Args:
        index: its position.
        seen: the ids of the entries before it.
    """
    identifier = item.get("id")
    if not is_id(identifier):
        value = f"id must be an integer, got {identifier!r}"
        report(Problem("invalid_image", source, f"images[{index}]", value, "correct it"))
        return None
    place = f"image {identifier}"
    if identifier in seen:
        value = "its id stands 2 times or more in 'images'"
        report(Problem("duplicate_id", source, place, value, "give each its own"))
        return None
    value = _find_image_problem(item)
    if value:
        report(Problem("invalid_image", source, place, value, "correct or remove the image"))
        return None
    extra = {key: value for key, value in item.items() if key not in _IMAGE_KEYS}
    return ImageEntry(identifier, item["file_name"], (item["height"], item["width"]), extra)


def locate_image(
    entry: ImageEntry, folder: ContainedFolder, *, source: str, report: Report
) -> Path | None:
    """Return where an image's file is, whether or not it exists; None: its name is hostile."""
    place = f"image {entry.image_id}"
    try:
        return folder.locate(entry.file_name, source=f"{source}: {place}")
    except UnsafeName as error:
        report(Problem("unsafe_name", source, place, error.reason, error.remedy))
        return None


def _find_image_problem(item: Json) -> str:
    for key in ("width", "height"):
        side = item.get(key)
        if type(side) is not int or not 0 < side <= MAX_SIDE:
            return f"{key} must be an integer from 1 to {MAX_SIDE}, got {side!r}"
    name = item.get("file_name")
    return "" if isinstance(name, str) else f"file_name must be a string, got {name!r}"


def parse_box(
    item: Json,
    index: int,
    *,
    known: Mapping[str, Container[int]],
    seen: Container[int],
    source: str,
    report: Report,
) -> AnnotatedBox | None:
    """Check an entry of ``annotations``; of two with one id, the second loses it.

    Args:
        index: its position.
        known: the ids that ``image_id`` and ``category_id`` may be.
        seen: the ids of the entries before it.
    """
    rule, value = find_box_problem(item, known)
    if rule:
        name = f"annotation {item['id']!r}" if "id" in item else f"annotations[{index}]"
        report(Problem(rule, source, name, value, "correct or remove the annotation"))
        return None
    box_id = item["id"] if is_id(item.get("id")) else 0
    if box_id and box_id in seen:
        value, remedy = "its id stands 2 times or more", "give each its own id, or remove all ids"
        report(Problem("duplicate_id", source, f"annotation {box_id}", value, remedy))
        box_id = 0
    return AnnotatedBox(
        box_id=box_id,
        category_id=item["category_id"],
        box_xywh=tuple(item["bbox"]),
        crowd=bool(item.get("iscrowd", 0)),
        area=item.get("area"),
        extra={key: value for key, value in item.items() if key not in _BOX_KEYS},
    )


def parse_categories(items: list[Json], *, source: str) -> dict[int, str]:
    """Return category id -> name, ids ascending.

    Raises:
        InputError: an entry is unusable; without all categories no label means anything.
    """
    names: dict[int, str] = {}
    for index, item in enumerate(items):
        identifier, name = item.get("id"), item.get("name")
        if not is_id(identifier):
            raise InputError(
                f"{source}: categories[{index}]: id must be an integer, got {identifier!r}; "
                "correct it"
            )
        if identifier in names:
            raise InputError(
                f"{source}: id {identifier} stands 2 times or more in 'categories'; "
                "give each its own"
            )
        if not isinstance(name, str):
            raise InputError(
                f"{source}: category {identifier}: name must be a string, got {name!r}; correct it"
            )
        names[identifier] = name
    if not names:
        raise InputError(f"{source}: 'categories' is empty; a dataset needs at least one")
    return dict(sorted(names.items()))


def find_list_problem(document: object) -> str:
    """Return what keeps a JSON document from being COCO's three lists of objects, "" if nothing."""
    if not isinstance(document, dict):
        return "the file must hold one JSON object"
    for key in _LISTS:
        items = document.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return f"{key!r} must be a list of objects"
    return ""


def load_json(text: str | bytes) -> Any:
    """Parse JSON; Python would silently take the last of two lists with one key.

    Raises:
        ValueError: it is not JSON, or one of COCO's lists stands twice in an object.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_require_each_list_once)


def _require_each_list_once(pairs: list[tuple[str, Any]]) -> Json:
    item = dict(pairs)
    if len(item) < len(pairs):
        keys = [key for key, _ in pairs]
        for key in _LISTS:
            if keys.count(key) > 1:
                raise ValueError(f"{key!r} stands {keys.count(key)} times")
    return item


def count_dropped(document: Json, categories: list[Json]) -> Counter[str]:
    """Return what a file says that an `AnnotatedSet` has no place for.

    Args:
        document: only its keys, and whether their values are empty, matter.
        categories: its entries of ``categories``.
    """
    dropped = Counter(
        f"{key} of the data set"
        for key, value in document.items()
        if key not in _LISTS and value not in (None, "", [], {})
    )
    for item in categories:
        dropped.update(f"{key} of a category" for key in item if key not in _CATEGORY_KEYS)
    return dropped


def parse_id(text: str) -> int | None:
    """Return the id that a text file states, None where it is none."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_ID_DIGITS):
        return None
    identifier = int(text)
    return identifier if is_id(identifier) else None


def is_id(value: object) -> TypeGuard[int]:
    """Whether a JSON value can be an id."""
    return type(value) is int and -_MAX_ID <= value <= _MAX_ID


def find_box_problem(item: Json, known: Mapping[str, Container[int]]) -> tuple[str, str]:
    """Return the rule that an entry of ``annotations`` breaks and its value, "" where it is sound.

    A bbox may hold NaN, infinite and negative numbers, which the rules of `suite.data.repair` are
    for; an area may not.
    """
    for key, ids in known.items():
        value = item.get(key)
        if not is_id(value) or value not in ids:
            rule = f"unknown_{key.removesuffix('_id')}"
            return rule, f"{key} {value!r} is the id of none of the {_OWNERS[key]}"
    box = item.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
        return "invalid_box", f"bbox must be four numbers x, y, width, height, got {box!r}"
    area = item.get("area", 0)
    if not _is_number(area) or not math.isfinite(area):
        return "invalid_box", f"area must be a finite number, got {area!r}"
    if item.get("iscrowd", 0) not in (0, 1):
        return "invalid_box", f"iscrowd must be 0 or 1, got {item['iscrowd']!r}"
    return "", ""


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= _MAX_NUMBER)
