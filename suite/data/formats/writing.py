"""Writing a split in any format: the counterpart of `open_annotated`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from suite.data.formats import Format
from suite.data.formats.annotated import AnnotatedSet
from suite.data.formats.coco_writing import write_coco
from suite.data.formats.destination import Destination
from suite.data.formats.tfrecord_writing import write_tfrecord
from suite.data.formats.voc_writing import write_voc
from suite.data.formats.yolo_writing import write_yolo

_WRITERS: Final[dict[Format, Callable[[AnnotatedSet, Destination], Counter[str]]]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "tfrecord": write_tfrecord,
}


def write_annotated(annotated: AnnotatedSet, to: Format, destination: Destination) -> Counter[str]:
    """Write a split; return what the format could not carry, by name, and how often."""
    return _WRITERS[to](annotated, destination)
