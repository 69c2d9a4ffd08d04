"""The annotation formats, each in files of its own: COCO JSON, Pascal VOC, YOLO, TFRecord."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from suite.data.formats.annotated import AnnotatedSet, Report, refuse
from suite.data.formats.coco import read_coco
from suite.data.formats.label_map import load_label_map
from suite.data.formats.tfrecord import read_tfrecord
from suite.data.formats.voc import read_voc
from suite.data.formats.yolo import read_yolo
from suite.errors import UsageError

Format = Literal["coco", "voc", "yolo", "tfrecord"]


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where one split lies.

    Attributes:
        annotations: coco: the JSON file. voc: the list ROOT/ImageSets/Main/NAME.txt. yolo: the
            folder of label files. tfrecord: the pattern of the files, such as DIR/train2017*.
        images: the folder of the images; None where the format says it itself (voc, tfrecord).
        label_map: a file that says which category id is which name; None: what the format itself
            says. tfrecord, voc: a label map (.pbtxt). yolo: data.yaml.
    """

    format: Format
    annotations: Path
    images: Path | None = None
    label_map: Path | None = None


def open_annotated(location: Location, *, report: Report = refuse) -> AnnotatedSet:
    """Open one split of any format.

    Args:
        report: called with what cannot be used, here or as the images are read.

    Raises:
        InputError: the annotations are missing or of another format.
        UsageError: the format needs an image folder.
    """
    label_map = None
    if location.label_map is not None and location.format != "yolo":
        label_map = load_label_map(location.label_map)
    match location.format:
        case "coco":
            return read_coco(location.annotations, _require_images(location), report=report)
        case "voc":
            folder = location.images or location.annotations.parent.parent.parent / "JPEGImages"
            names = None if label_map is None else label_map.category_names
            return read_voc(location.annotations, folder, category_names=names, report=report)
        case "yolo":
            images = _require_images(location)
            return read_yolo(
                location.annotations, images, classes=location.label_map, report=report
            )
        case "tfrecord":
            return read_tfrecord(location.annotations, label_map=label_map, report=report)
        case _:
            assert_never(location.format)


def _require_images(location: Location) -> Path:
    if location.images is None:
        raise UsageError(
            f"{location.annotations}: format {location.format} needs the folder of its images"
        )
    return location.images
