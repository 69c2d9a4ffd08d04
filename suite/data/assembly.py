"""From what an annotation format says to a `Dataset`: repaired boxes, labels, the referee's truth.

A label is the position of a category when the categories are sorted by id. `Dataset.coco` holds
what box evaluation needs and nothing else (segmentations alone would fill gigabytes): boxes, areas
and ids as the data set states them; a missing area becomes width x height. Box ids are kept unless
one is missing; all are then numbered from 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite.data.formats import Location, open_annotated
from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.coco import read_coco
from suite.data.repair import repair_boxes
from suite.data.sample import Dataset, Sample
from suite.errors import InputError


def load_dataset(location: Location) -> Dataset:
    """Read one split of any format.

    Raises:
        InputError: an annotation cannot be used; `data check` lists all of them.
    """
    return build_dataset(open_annotated(location))


@dataclass(frozen=True)
class Subjects:
    """What a split is about: category id -> name, and the ids of its images."""

    category_names: Mapping[int, str]
    image_ids: Collection[int]


def compare_ground_truth(truth: Subjects, data: Subjects) -> Iterator[tuple[str, str, str]]:
    """Yield what keeps a file from judging a split, as (rule, what is wrong, remedy)."""
    if dict(truth.category_names) != dict(data.category_names):
        found, wanted = (_join(list(side.category_names.values())) for side in (truth, data))
        value = f"its categories {found} are not those of the data, {wanted}"
        yield "ground_truth_classes", value, "both must name the same classes with the same ids"
    missing = set(truth.image_ids) ^ set(data.image_ids)
    if missing:
        value = (
            f"image {min(missing)} is not in both, the file and the data "
            f"({len(missing)} such images)"
        )
        yield "ground_truth_images", value, "give the annotations of this split"


def replace_ground_truth(dataset: Dataset, path: Path) -> Dataset:
    """Return a data set that is judged by a COCO file, which knows its images and categories.

    Raises:
        InputError: the file is unusable, or has other images or categories.
    """
    # Its file names are not followed: the images are the data set's own.
    truth = build_dataset(read_coco(path, path.parent))
    for _, value, remedy in compare_ground_truth(_list_subjects(truth), _list_subjects(dataset)):
        raise InputError(f"{path}: {value}; {remedy}")
    digest = hashlib.sha256(f"{dataset.digest} {truth.digest}".encode()).hexdigest()
    return replace(dataset, coco=truth.coco, digest=digest)


def _list_subjects(dataset: Dataset) -> Subjects:
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    return Subjects(names, [sample.image_id for sample in dataset.samples])


def _join(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def build_dataset(annotated: AnnotatedSet) -> Dataset:
    """Read all images' annotations and apply the rules of `suite.data.repair`.

    Raises:
        InputError: the set holds no image; what its reader raises.
    """
    images = tuple(annotated.images())
    if not images:
        raise InputError("the annotations hold no image that can be used")
    boxes = [box for image in images for box in image.boxes]
    counts = [len(image.boxes) for image in images]
    label_of = {category_id: label for label, category_id in enumerate(annotated.category_names)}

    hw = np.repeat([image.image_hw for image in images], counts, axis=0)
    repaired = repair_boxes(stack_boxes_xyxy(boxes), hw)
    labels = np.array([label_of[box.category_id] for box in boxes], np.int64)[repaired.keep]
    crowd = np.array([box.crowd for box in boxes], np.bool_)[repaired.keep]
    owners = np.repeat(np.arange(len(images)), counts)[repaired.keep]
    ends = np.searchsorted(owners, np.arange(len(images) + 1))
    samples = tuple(
        Sample(
            image_id=image.image_id,
            image=image.image,
            image_hw=image.image_hw,
            boxes_xyxy=repaired.boxes_xyxy[start:end],
            labels=labels[start:end],
            crowd=crowd[start:end],
        )
        for image, start, end in zip(images, ends[:-1], ends[1:], strict=True)
    )
    return Dataset(
        samples,
        category_ids=tuple(annotated.category_names),
        class_names=tuple(annotated.category_names.values()),
        digest=annotated.digest,
        coco=_build_coco(images, annotated.category_names),
        repairs=repaired.counts(),
    )


def stack_boxes_xyxy(boxes: Sequence[AnnotatedBox]) -> NDArray[np.float64]:
    """Return the raw boxes, float64 [M,4]."""
    boxes_xywh = np.array([box.box_xywh for box in boxes], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite ends are what not_finite is for
        return np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])


def _build_coco(
    images: Sequence[AnnotatedImage], category_names: Mapping[int, str]
) -> dict[str, Any]:
    boxes = [_to_coco(box, image.image_id) for image in images for box in image.boxes]
    if not all(box["id"] for box in boxes):
        boxes = [{**box, "id": number} for number, box in enumerate(boxes, start=1)]
    return {
        "images": [
            {
                "id": image.image_id,
                "file_name": image.file_name,
                "width": image.image_hw[1],
                "height": image.image_hw[0],
            }
            for image in images
        ],
        "annotations": boxes,
        "categories": [{"id": key, "name": name} for key, name in category_names.items()],
    }


def _to_coco(box: AnnotatedBox, image_id: int) -> dict[str, Any]:
    return {
        "id": box.box_id,
        "image_id": image_id,
        "category_id": box.category_id,
        "bbox": list(box.box_xywh),
        "area": box.box_xywh[2] * box.box_xywh[3] if box.area is None else box.area,
        "iscrowd": int(box.crowd),
    }
