"""COCO annotation files to a `Dataset`.

Boxes in the file are `_xywh`, pixels from the image's upper left corner. A label is the position of
a category when the categories are sorted by id. `Dataset.coco` holds what box evaluation needs and
nothing else (segmentations alone would fill gigabytes): boxes, areas and ids as the file states
them; a missing ``area`` becomes width x height, a missing ``iscrowd`` 0. Annotation ids are kept
unless one is missing or 0, which pycocotools takes for "unmatched"; all are then numbered from 1.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from suite.data.containment import ContainedFolder, read_bounded
from suite.data.repair import repair_boxes
from suite.data.sample import Dataset, Sample
from suite.errors import InputError

MAX_ANNOTATION_BYTES: Final = 2 * 1024**3
MAX_SIDE: Final = 2**24  # float32 holds every pixel coordinate up to here
_OWNERS: Final = {"image_id": "images", "category_id": "categories"}
_MAX_ID: Final = 2**63 - 1
_MAX_NUMBER: Final = 2**53  # float64 holds every integer up to here

Json = dict[str, Any]


def load_coco(annotations: Path, image_folder: Path) -> Dataset:
    """Load a COCO annotation file; images are not opened.

    Args:
        annotations: the JSON file, at most `MAX_ANNOTATION_BYTES`.
        image_folder: where its file names lead; none may leave it.

    Raises:
        InputError: the file is missing, not COCO, inconsistent or names files outside the folder.
    """
    remedy = "give the annotation file of the dataset, or fix the recipe's data section"
    content = read_bounded(annotations, limit=MAX_ANNOTATION_BYTES, remedy=remedy)
    document = _parse(content, annotations)
    images = _check_images(document["images"], annotations)
    categories = _check_categories(document["categories"], annotations)
    folder = ContainedFolder(image_folder)
    paths = [
        folder.locate(image["file_name"], source=f"{annotations}: image {image['id']}")
        for image in images
    ]
    known = {
        "image_id": {image["id"] for image in images},
        "category_id": {category["id"] for category in categories},
    }
    boxes = _check_annotations(document["annotations"], annotations, known=known)
    coco = {"images": images, "annotations": boxes, "categories": categories}
    return assemble_dataset(coco, paths=paths, digest=hashlib.sha256(content).hexdigest())


def assemble_dataset(coco: Json, *, paths: Sequence[Path], digest: str) -> Dataset:
    """Turn a checked COCO dictionary into samples, applying the rules of `suite.data.repair`.

    Args:
        coco: images, annotations and categories, every key present.
        paths: the file of each image, in the order of ``images``.
        digest: sha256 over the annotation content.
    """
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    category_ids = tuple(category["id"] for category in categories)
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    annotations = coco["annotations"]
    owner, hw = locate_boxes(coco)
    repaired = repair_boxes(stack_boxes_xyxy(annotations), hw)
    labels = np.array([label_of[item["category_id"]] for item in annotations], np.int64)
    crowd = np.array([item["iscrowd"] for item in annotations], np.bool_)

    order = np.argsort(owner[repaired.keep], kind="stable")
    starts = np.searchsorted(owner[repaired.keep][order], np.arange(len(coco["images"]) + 1))
    boxes_xyxy = repaired.boxes_xyxy[order]
    labels, crowd = labels[repaired.keep][order], crowd[repaired.keep][order]
    samples = tuple(
        Sample(
            image_id=image["id"],
            path=path,
            image_hw=(image["height"], image["width"]),
            boxes_xyxy=boxes_xyxy[start:end],
            labels=labels[start:end],
            crowd=crowd[start:end],
        )
        for image, path, start, end in zip(
            coco["images"], paths, starts[:-1], starts[1:], strict=True
        )
    )
    names = tuple(category["name"] for category in categories)
    return Dataset(samples, category_ids, names, digest, coco, repaired.counts())


def stack_boxes_xyxy(annotations: Sequence[Json]) -> NDArray[np.float64]:
    """Return the raw boxes of COCO annotations, float64 [M,4]."""
    boxes_xywh = np.array([item["bbox"] for item in annotations], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ends are what not_finite is for
        return np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])


def locate_boxes(coco: Json) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the image position [M] of each annotation, and that image's height and width [M,2]."""
    position = {image["id"]: index for index, image in enumerate(coco["images"])}
    owner = np.array([position[item["image_id"]] for item in coco["annotations"]], np.int64)
    hw = np.array([(image["height"], image["width"]) for image in coco["images"]], np.int64)
    return owner, hw.reshape(-1, 2)[owner]


def _parse(content: bytes, path: Path) -> Json:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give a COCO annotation file") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: not COCO: the file must hold one JSON object")
    for key in ("images", "annotations", "categories"):
        items = document.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{path}: not COCO: {key!r} must be a list of objects")
    return document


def _check_images(items: list[Json], path: Path) -> list[Json]:
    _check_ids(items, "images", path=path)
    for item in items:
        for key in ("width", "height"):
            side = item.get(key)
            if type(side) is not int or not 0 < side <= MAX_SIDE:
                raise InputError(
                    f"{path}: image {item['id']}: {key} must be an integer from 1 to {MAX_SIDE}, "
                    f"got {side!r}"
                )
        if not isinstance(item.get("file_name"), str):
            raise InputError(
                f"{path}: image {item['id']}: file_name must be a string, "
                f"got {item.get('file_name')!r}"
            )
    keys = ("id", "file_name", "width", "height")
    return [{key: item[key] for key in keys} for item in items]


def _check_categories(items: list[Json], path: Path) -> list[Json]:
    _check_ids(items, "categories", path=path)
    for item in items:
        if not isinstance(item.get("name"), str):
            raise InputError(
                f"{path}: category {item['id']}: name must be a string, got {item.get('name')!r}"
            )
    return [{"id": item["id"], "name": item["name"]} for item in items]


def _check_ids(items: list[Json], key: str, *, path: Path) -> None:
    if not items:
        raise InputError(f"{path}: {key!r} is empty; a dataset needs at least one")
    for index, item in enumerate(items):
        if not _is_id(item.get("id")):
            raise InputError(
                f"{path}: {key}[{index}]: id must be an integer, got {item.get('id')!r}"
            )
    identifier, count = Counter(item["id"] for item in items).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{path}: id {identifier} stands {count} times in {key!r}; give each its own"
        )


def _check_annotations(items: list[Json], path: Path, *, known: dict[str, set[int]]) -> list[Json]:
    for index, item in enumerate(items):
        problem = _find_problem(item, known)
        if problem:
            name = f"annotation {item['id']!r}" if "id" in item else f"annotations[{index}]"
            raise InputError(f"{path}: {name}: {problem}; correct or remove the annotation")
    ids = _choose_annotation_ids(items, path)
    return [_trimmed(item, identifier) for identifier, item in zip(ids, items, strict=True)]


def _find_problem(item: Json, known: dict[str, set[int]]) -> str:
    for key, ids in known.items():
        value = item.get(key)
        if not _is_id(value) or value not in ids:
            return f"{key} {value!r} is the id of none of the file's {_OWNERS[key]}"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox must be four numbers x, y, width, height, got {box!r}"
    if not _is_number(item.get("area", 0)):
        return f"area must be a number, got {item['area']!r}"
    if item.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd must be 0 or 1, got {item['iscrowd']!r}"
    return ""


def _choose_annotation_ids(items: list[Json], path: Path) -> list[int]:
    ids = [item["id"] for item in items if _is_id(item.get("id")) and item["id"] != 0]
    if len(ids) < len(items):
        return list(range(1, len(items) + 1))
    if len(set(ids)) < len(ids):
        identifier, count = Counter(ids).most_common(1)[0]
        raise InputError(
            f"{path}: annotation id {identifier} stands {count} times; give each annotation its "
            "own id, or remove all ids"
        )
    return ids


def _trimmed(item: Json, identifier: int) -> Json:
    box = item["bbox"]
    return {
        "id": identifier,
        "image_id": item["image_id"],
        "category_id": item["category_id"],
        "bbox": box,
        "area": item.get("area", box[2] * box[3]),
        "iscrowd": int(item.get("iscrowd", 0)),
    }


def _is_id(value: object) -> bool:
    return type(value) is int and -_MAX_ID <= value <= _MAX_ID


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= _MAX_NUMBER)
