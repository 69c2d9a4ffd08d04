"""Writing TFRecord files: ``<split>-00000-of-00032.tfrecord`` and so on, and ``label_map.pbtxt``.

Records go to the files in turn, so they are read back in another order; ids are kept. The bytes of
images are not changed, and those in formats that TensorFlow does not decode are written too: the
suite reads them. Boxes are normalised by the annotated size and areas rounded to float32;
`suite.data.formats.tf_detection` says what of that reading undoes. Nothing is left out for being
outside its image. An area that is not stated is written, as width x height, only beside others that
are.

TensorFlow's decoders, unlike the suite, do not apply EXIF orientations: turn such images before
others train on them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Final

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.destination import Destination
from suite.data.formats.image_header import find_image_format
from suite.data.formats.label_map import FILE_NAME, write_label_map
from suite.data.formats.record_file import write_record
from suite.data.formats.tf_detection import ENCODED, KINDS
from suite.data.formats.tf_example import Values, build_example
from suite.errors import UsageError

MAX_SHARDS: Final = 512  # all are open at the same time
_DECODED: Final = ("jpeg", "png", "gif", "bmp")  # by tf.io.decode_image


def write_tfrecord(annotated: AnnotatedSet, destination: Destination) -> Counter[str]:
    """Write one split; return what could not be carried.

    Raises:
        InputError: an image cannot be read, or the categories do not fit into a label map.
        UsageError: there are too many files.
        OSError: the place cannot be written.
    """
    names, count = annotated.category_names, destination.num_shards
    if not 1 <= count <= MAX_SHARDS:
        raise UsageError(f"a TFRecord split has from 1 to {MAX_SHARDS} files, got {count}")
    destination.folder.mkdir(parents=True, exist_ok=True)
    write_label_map(destination.folder / FILE_NAME, names)
    lost: Counter[str] = Counter()
    lost["category id 0, which TensorFlow keeps for the background"] += 0 in names
    with ExitStack() as stack:
        shards = [
            stack.enter_context(
                (
                    destination.folder / f"{destination.split}-{index:05d}-of-{count:05d}.tfrecord"
                ).open("xb")
            )
            for index in range(count)
        ]
        for index, image in enumerate(annotated.images()):
            content = image.image.read()
            _count_lost(image, lost)
            image_format = find_image_format(content)
            lost["image of a format TensorFlow does not decode"] += image_format not in _DECODED
            features = _describe_image(image, content, image_format)
            features |= _describe_boxes(image.boxes, image.image_hw, names)
            write_record(shards[index % count], build_example(features, KINDS))
    return +lost


def _describe_image(image: AnnotatedImage, content: bytes, image_format: str) -> dict[str, Values]:
    height, width = image.image_hw
    return {
        "image/height": [height],
        "image/width": [width],
        "image/filename": [PurePosixPath(image.file_name).as_posix().encode()],
        "image/source_id": [str(image.image_id).encode()],
        "image/key/sha256": [hashlib.sha256(content).hexdigest().encode()],
        ENCODED: [content],
        "image/format": [image_format.encode()],
    }


def _describe_boxes(
    boxes: Sequence[AnnotatedBox], image_hw: tuple[int, int], names: Mapping[int, str]
) -> dict[str, Values]:
    height, width = image_hw
    features: dict[str, Values] = {
        "image/object/bbox/xmin": [box.box_xywh[0] / width for box in boxes],
        "image/object/bbox/xmax": [(box.box_xywh[0] + box.box_xywh[2]) / width for box in boxes],
        "image/object/bbox/ymin": [box.box_xywh[1] / height for box in boxes],
        "image/object/bbox/ymax": [(box.box_xywh[1] + box.box_xywh[3]) / height for box in boxes],
        "image/object/class/text": [names[box.category_id].encode() for box in boxes],
        "image/object/class/label": [box.category_id for box in boxes],
        "image/object/is_crowd": [int(box.crowd) for box in boxes],
    }
    if any(box.area is not None for box in boxes) or not boxes:
        features["image/object/area"] = [_area(box) for box in boxes]
    return features


def _area(box: AnnotatedBox) -> float:
    return box.box_xywh[2] * box.box_xywh[3] if box.area is None else box.area


def _count_lost(image: AnnotatedImage, lost: Counter[str]) -> None:
    lost.update(f"{key} of an image" for key in image.extra)
    for box in image.boxes:
        lost["box id"] += box.box_id != 0
        lost.update(f"{key} of a box" for key in box.extra)
