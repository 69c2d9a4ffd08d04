"""Writing COCO annotation files: ``annotations/instances_<split>.json`` and the images in
``<split>/``, or left where they are.

Kept as they are: ids of images, boxes and categories, names, boxes, areas, crowd, and what else the
source says of an image or box, under its keys. A missing area becomes width x height. Box ids are
kept unless one is missing; all are then numbered from 1, in order. Nothing is held in memory.

Not part of an `AnnotatedSet`, so never here: ``info``, ``licenses``, ``supercategory`` and such;
the reader of the source counts them.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.containment import ContainedFolder
from suite.data.formats.destination import Destination, place_image
from suite.data.formats.naming import find_free_name


def write_coco(annotated: AnnotatedSet, destination: Destination) -> Counter[str]:
    """Write one split; return what could not be carried.

    Raises:
        InputError: an image cannot be read, or its name leads out of the folder.
        OSError: the place cannot be written.
    """
    lost: Counter[str] = Counter()
    path = destination.folder / "annotations" / f"instances_{destination.split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = _Images(destination)
    with (
        path.open("w", encoding="utf-8", newline="\n") as file,
        # Images and boxes come together but stand apart in the file: the boxes wait here.
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=path.parent) as waiting,
    ):
        file.write('{"images": [')
        ids_complete = True
        for number, image in enumerate(annotated.images()):
            file_name = images.place(image)
            lost["file name, taken by another image"] += file_name != image.file_name
            file.write(_separator(number) + _encode_image(image, file_name, lost))
            for box in image.boxes:
                waiting.write(f"{box.box_id}\t{_encode_box(box, image.image_id, lost)}\n")
                ids_complete = ids_complete and box.box_id != 0
        file.write('\n], "annotations": [')
        lost["box id"] += _copy_boxes(waiting, file, keep_ids=ids_complete)
        file.write(f'\n], "categories": {_encode_categories(annotated.category_names)}}}\n')
    return +lost


class _Images:
    """Puts image files into the folder of a split."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._root = destination.folder / destination.split
        if destination.images != "leave":
            self._root.mkdir()
            self._folder = ContainedFolder(self._root)

    def place(self, image: AnnotatedImage) -> str:
        """Return the name of the image's file, which is there now."""
        if self._destination.images == "leave":
            return image.file_name

        def is_another(name: str) -> bool:
            path = self._locate(image, name)
            # Two entries may name one file; from a format that holds images, two files one name.
            return path.exists() and path.read_bytes() != image.image.read()

        name = find_free_name(image.file_name, image.image_id, is_another)
        target = self._locate(image, name)
        if not target.exists():
            place_image(image, target, destination=self._destination)
        return name

    def _locate(self, image: AnnotatedImage, name: str) -> Path:
        return self._folder.locate(name, source=f"image {image.image_id}")


def _separator(number: int) -> str:
    return ",\n" if number else "\n"


def _encode_image(image: AnnotatedImage, file_name: str, lost: Counter[str]) -> str:
    height, width = image.image_hw
    known = {"id": image.image_id, "file_name": file_name, "width": width, "height": height}
    return _encode(known, image.extra, lost)


def _encode_box(box: AnnotatedBox, image_id: int, lost: Counter[str]) -> str:
    """Return an annotation without its id, which `_copy_boxes` puts first."""
    known = {
        "image_id": image_id,
        "category_id": box.category_id,
        "bbox": box.box_xywh,
        "area": box.box_xywh[2] * box.box_xywh[3] if box.area is None else box.area,
        "iscrowd": int(box.crowd),
    }
    return _encode(known, {key: box.extra[key] for key in box.extra if key != "id"}, lost)


def _encode(known: Mapping[str, Any], extra: Mapping[str, Any], lost: Counter[str]) -> str:
    for key in extra.keys() & known.keys():
        lost[f"{key}, which COCO uses otherwise"] += 1
    return json.dumps({**known, **{key: extra[key] for key in extra if key not in known}})


def _copy_boxes(waiting: IO[str], file: IO[str], *, keep_ids: bool) -> int:
    """Copy the boxes; return how many ids were replaced."""
    replaced = 0
    waiting.seek(0)
    for number, line in enumerate(waiting):
        stated, _, item = line.rstrip("\n").partition("\t")
        box_id = int(stated) if keep_ids else number + 1
        replaced += stated not in ("0", str(box_id))
        file.write(f'{_separator(number)}{{"id": {box_id}, {item[1:]}')
    return replaced


def _encode_categories(names: Mapping[int, str]) -> str:
    return json.dumps([{"id": key, "name": name} for key, name in names.items()])
