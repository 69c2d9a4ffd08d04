"""Writing YOLO data sets: ``images/<split>``, ``labels/<split>`` and ``data.yaml``, on which
Ultralytics trains once there are a train and a val split.

Every image gets a label file, empty where there is no box, and its id stands in
``labels/<split>/image_ids.tsv``. Numbers have twelve decimals, so that pixels come back to 1e-6.
Left out are, as in Ultralytics' own converter, crowd boxes, and those for which Ultralytics would
leave out the whole image: with a number that is no number or beyond 0..1 by more than a hundredth.

YOLO states no sizes: its readers take that of the image as it is seen, so an image that has another
than its annotations say, such as one annotated before its EXIF orientation, is left out too. For
this the header of each image is read.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import IO, Final

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.containment import ContainedFolder
from suite.data.formats.destination import Destination, place_image
from suite.data.formats.image_header import SUFFIXES, find_image_format
from suite.data.formats.naming import find_free_name, plain_name
from suite.data.formats.yolo_classes import FILE_NAME, write_classes
from suite.data.formats.yolo_files import CLASSES_NAME, IDS_NAME
from suite.data.images import IMAGE_SUFFIXES, read_image_hw
from suite.data.sample import ImageFile

_TOLERANCE: Final = 0.01
# Whose decoding Ultralytics leaves to others, or does not know.
_NOT_DECODED: Final = (".gif", ".avif", ".ppm")


def write_yolo(annotated: AnnotatedSet, destination: Destination) -> Counter[str]:
    """Write one split; return what could not be carried.

    Raises:
        InputError: an image cannot be read or is none, a data.yaml that is there names other
            classes, or a category name cannot stand in such a file.
        OSError: the place cannot be written.
    """
    images, labels = (
        destination.folder / name / destination.split for name in ("images", "labels")
    )
    for folder in (images, labels):
        folder.mkdir(parents=True)
    contained = ContainedFolder(images)
    names = annotated.category_names
    write_classes(destination.folder / FILE_NAME, names, split=destination.split)
    index_of = {category_id: index for index, category_id in enumerate(names)}
    lost: Counter[str] = Counter()

    def is_taken(name: str) -> bool:
        label = PurePosixPath(name).with_suffix(".txt")
        return str(label) == CLASSES_NAME or (labels / label).exists()

    with (labels / IDS_NAME).open("x", encoding="utf-8", newline="\n") as ids:
        for image in annotated.images():
            if read_image_hw(image.image) != image.image_hw:
                lost["image of another size than annotated"] += 1
                lost["box of an image of another size than annotated"] += len(image.boxes)
                continue
            name = find_free_name(_wish_name(image), image.image_id, is_taken)
            target = contained.locate(name, source=f"image {image.image_id}")
            name = target.relative_to(images).as_posix()  # as readers find it, without "./" or "//"
            place_image(image, target, destination=destination)
            label = labels / PurePosixPath(name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            with label.open("x", encoding="utf-8", newline="\n") as file:
                for box in image.boxes:
                    index = index_of[box.category_id]
                    _write_box(file, box, image_hw=image.image_hw, index=index, lost=lost)
            ids.write(f"{name}\t{image.image_id}\n")
            lost["name of an image file"] += name != image.file_name
            lost["image of a format Ultralytics does not read"] += target.suffix in _NOT_DECODED
            lost.update(f"{key} of an image" for key in image.extra)
    return +lost


def _wish_name(image: AnnotatedImage) -> str:
    """Return the image's name, without folders where one of them would lead programs astray."""
    *folders, _ = parts = image.file_name.split("/")
    # Ultralytics looks for labels by replacing the last "images" of a path.
    harmless = all(part.isprintable() and "\\" not in part for part in parts)
    name = image.file_name if harmless and "images" not in folders else plain_name(image)
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    file = image.image
    head = ImageFile(file.path, file.offset, 12, file.name).read()
    return name + SUFFIXES.get(find_image_format(head), ".jpg")


def _write_box(
    file: IO[str],
    box: AnnotatedBox,
    *,
    image_hw: tuple[int, int],
    index: int,
    lost: Counter[str],
) -> None:
    x, y, width, height = box.box_xywh
    values = (
        (x + width / 2) / image_hw[1],
        (y + height / 2) / image_hw[0],
        width / image_hw[1],
        height / image_hw[0],
    )
    if box.crowd:
        lost["crowd box"] += 1
    elif not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
        lost["box outside its image, or not of numbers"] += 1
    else:
        file.write(" ".join([str(index), *(f"{value:.12f}" for value in values)]) + "\n")
        lost["box id"] += box.box_id != 0
        lost["area that is not width x height"] += box.area not in (None, width * height)
        lost.update(f"{key} of a box" for key in box.extra)
