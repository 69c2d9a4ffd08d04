"""YOLO data sets as Ultralytics lays them out: a folder of images, one of label files.

``labels/a.txt`` belongs to ``images/a.jpg``; folders inside both are followed. A line is
``class cx cy width height``, normalised by the sides of the image as it is seen (Ultralytics takes
them from the header, EXIF orientation applied, and so does the suite). A line of a class and three
points or more is a polygon: its bounding box is read, and the polygon kept as COCO's
``segmentation``. (Ultralytics then takes all lines of that file for polygons; here each line counts
for itself.) Boxes become `_xywh` in pixels, rounded to a millionth.

An image without a label file, or with an empty one, is an image without boxes. Of images whose
names differ in the suffix only, and so share a label file, the first has it and the others are left
out. Image ids are what ``image_ids.tsv`` in the folder of labels says (name, tab, id; the suite
writes it), else positions from 1 in the order of names. `suite.data.formats.yolo_classes` says
which class is which category.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from suite.data.formats.annotated import (
    AnnotatedBox,
    AnnotatedImage,
    AnnotatedSet,
    Problem,
    Report,
    refuse,
)
from suite.data.formats.containment import ContainedFolder, UnsafeName
from suite.data.formats.image_header import find_image_hw
from suite.data.formats.yolo_classes import YoloClasses, find_classes, load_classes
from suite.data.formats.yolo_files import (
    leave_out_sharing,
    list_images,
    load_ids,
    report_orphans,
)
from suite.data.sample import ImageFile
from suite.errors import InputError
from suite.files import read_bounded

MAX_LABEL_BYTES: Final = 16 * 1024**2
_DECIMALS: Final = 6  # of a pixel
_BOX_FIELDS: Final = 5
_SMALLEST_POLYGON: Final = 7
_REMEDY: Final = "repair or remove it"
_IMAGE_REMEDY: Final = "repair or remove the image"


class _WrongLine(Exception):
    """What is wrong with a line: rule, value."""

    def __init__(self, rule: str, value: str) -> None:
        super().__init__(rule, value)
        self.rule, self.value = rule, value


@dataclass(frozen=True)
class _Folders:
    images: ContainedFolder
    labels: ContainedFolder


def read_yolo(
    labels: Path, images: Path, *, classes: Path | None = None, report: Report = refuse
) -> AnnotatedSet:
    """Read one split; of images, the headers alone are read.

    Args:
        labels: the folder of label files.
        images: the folder of images.
        classes: the data.yaml; None: the one in `labels` or up to two folders above.
        report: called with label files that have no image before this returns, with others as
            `images` meets them.

    Raises:
        InputError: a folder or data.yaml is missing or cannot be used; by `report`, a file cannot.
    """
    if not labels.is_dir():
        raise InputError(f"{labels}: no such folder of label files; check the dataset's root")
    folders = _Folders(ContainedFolder(images), ContainedFolder(labels))
    known = load_classes(classes or find_classes(labels))
    names = list_images(images, report)
    report_orphans(labels, names, report)
    names = leave_out_sharing(labels, names, report)
    ids = load_ids(labels, names)

    def iterate() -> Iterator[AnnotatedImage]:
        for position, name in enumerate(names, start=1):
            try:
                path = folders.images.locate(name, source=str(images))
                text = _read_label(folders.labels, name)
            except UnsafeName as error:
                report(Problem("unsafe_name", str(images), name, error.reason, error.remedy))
                continue
            except (InputError, UnicodeDecodeError) as error:
                place = str(_label_path(labels, name))
                value = str(error).removeprefix(f"{place}: ").partition(";")[0]
                report(Problem("invalid_annotation", place, "", value, _REMEDY))
                continue
            image_hw = find_image_hw(ImageFile(path), report=report, remedy=_IMAGE_REMEDY)
            if image_hw is None:
                continue
            place = str(_label_path(labels, name))
            yield AnnotatedImage(
                image_id=ids.get(name, position),
                file_name=name,
                image=ImageFile(path),
                image_hw=image_hw,
                boxes=tuple(_read_boxes(text, image_hw, known=known, place=place, report=report)),
            )

    digest = _digest(folders.labels, names, known)
    return AnnotatedSet(known.category_names, len(names), iterate, digest)


def _label_path(labels: Path, image_name: str) -> Path:
    return labels / PurePosixPath(image_name).with_suffix(".txt")


def _read_label(folder: ContainedFolder, image_name: str) -> str:
    """Return the text of an image's label file, nothing where there is none.

    Raises:
        InputError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    name = PurePosixPath(image_name).with_suffix(".txt").as_posix()
    path = folder.locate(name, source=str(folder.root))
    if not path.exists():
        return ""
    return read_bounded(path, limit=MAX_LABEL_BYTES, remedy=_REMEDY).decode()


def _read_boxes(
    text: str, image_hw: tuple[int, int], *, known: YoloClasses, place: str, report: Report
) -> Iterator[AnnotatedBox]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _parse_line(line.split(), image_hw, known)
        except _WrongLine as error:
            remedy = "correct or remove the line"
            report(Problem(error.rule, place, f"line {number}", error.value, remedy))


def _parse_line(fields: list[str], image_hw: tuple[int, int], known: YoloClasses) -> AnnotatedBox:
    if len(fields) != _BOX_FIELDS and not (len(fields) >= _SMALLEST_POLYGON and len(fields) % 2):
        raise _WrongLine(
            "invalid_box",
            f"{len(fields)} numbers; a box has {_BOX_FIELDS}, a polygon an odd number from "
            f"{_SMALLEST_POLYGON}",
        )
    try:
        index, *values = map(float, fields)
    except ValueError as error:
        raise _WrongLine("invalid_box", f"not numbers only: {' '.join(fields)[:80]!r}") from error
    if not (index.is_integer() and 0 <= index < len(known.category_ids)):
        last = len(known.category_ids) - 1
        raise _WrongLine("unknown_category", f"class {fields[0]!r}; data.yaml has 0 to {last}")
    category_id = known.category_ids[int(index)]
    if len(fields) == _BOX_FIELDS:
        cx, cy, width, height = values
        return AnnotatedBox(
            0, category_id, _to_pixels(cx - width / 2, cy - height / 2, width, height, image_hw)
        )
    xs, ys = values[0::2], values[1::2]
    x, y = min(xs), min(ys)
    box_xywh = _to_pixels(x, y, max(xs) - x, max(ys) - y, image_hw)
    return AnnotatedBox(
        0, category_id, box_xywh, extra={"segmentation": [_scale(values, image_hw)]}
    )


def _to_pixels(
    x: float, y: float, width: float, height: float, image_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, top, right, bottom = _scale([x, y, width, height], image_hw)
    return left, top, right, bottom


def _scale(values: list[float], image_hw: tuple[int, int]) -> list[float]:
    """Return normalised x, y, x, y, ... in pixels."""
    sides = image_hw[1], image_hw[0]
    return [round(value * sides[index % 2], _DECIMALS) for index, value in enumerate(values)]


def _digest(labels: ContainedFolder, names: list[str], known: YoloClasses) -> str:
    digest = hashlib.sha256()
    for index, category_id in enumerate(known.category_ids):
        digest.update(f"{index} {category_id} {known.category_names[category_id]!a}\n".encode())
    for name in names:
        try:
            text = _read_label(labels, name)
        except (InputError, UnicodeDecodeError):  # reported when the images are read
            continue
        digest.update(f"{name!a} {len(text)}\n{text}".encode())
    return digest.hexdigest()
