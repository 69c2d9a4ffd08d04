"""COCO annotation files: one JSON object with the lists images, annotations and categories.

Boxes are `_xywh`, pixels from the image's upper left corner. The document is held in memory, about
seven times its size on disk; `coco_stream` reads it without that.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

from suite.data.formats.annotated import (
    AnnotatedBox,
    AnnotatedImage,
    AnnotatedSet,
    Report,
    refuse,
)
from suite.data.formats.coco_items import (
    ImageEntry,
    Json,
    count_dropped,
    find_list_problem,
    load_json,
    locate_image,
    parse_box,
    parse_categories,
    parse_image,
)
from suite.data.formats.containment import ContainedFolder
from suite.data.sample import ImageFile
from suite.errors import InputError
from suite.files import read_bounded

MAX_ANNOTATION_BYTES: Final = 2 * 1024**3
_REMEDY: Final = "give the annotation file of the dataset, or fix the recipe's data section"


def read_coco(annotations: Path, image_folder: Path, *, report: Report = refuse) -> AnnotatedSet:
    """Read a COCO annotation file; images are not opened.

    Args:
        annotations: the JSON file, at most `MAX_ANNOTATION_BYTES`.
        image_folder: where its file names lead; none may leave it.
        report: called with each entry that cannot be used, before this returns.

    Raises:
        InputError: the file is missing or not COCO; by `report`, an entry is unusable.
    """
    content = read_bounded(annotations, limit=MAX_ANNOTATION_BYTES, remedy=_REMEDY)
    document = _parse(content, annotations)
    source = str(annotations)
    category_names = parse_categories(document["categories"], source=source)
    entries = _parse_images(document["images"], source=source, report=report)
    folder = ContainedFolder(image_folder)
    located = {
        entry.image_id: locate_image(entry, folder, source=source, report=report)
        for entry in entries
    }
    files = {image_id: path for image_id, path in located.items() if path}
    entries = [entry for entry in entries if entry.image_id in files]
    boxes = _parse_boxes(
        document["annotations"],
        known={"image_id": files, "category_id": category_names},
        source=source,
        report=report,
    )

    def images() -> Iterator[AnnotatedImage]:
        for entry in entries:
            yield AnnotatedImage(
                image_id=entry.image_id,
                file_name=entry.file_name,
                image=ImageFile(files[entry.image_id]),
                image_hw=entry.image_hw,
                boxes=tuple(boxes.get(entry.image_id, ())),
                extra=entry.extra,
            )

    digest = hashlib.sha256(content).hexdigest()
    dropped = count_dropped(document, document["categories"])
    return AnnotatedSet(category_names, len(entries), images, digest, dropped)


def _parse(content: bytes, path: Path) -> Json:
    try:
        document = load_json(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); give a COCO annotation file") from error
    problem = find_list_problem(document)
    if problem:
        raise InputError(f"{path}: not COCO: {problem}")
    if not document["images"]:
        raise InputError(f"{path}: 'images' is empty; a dataset needs at least one")
    whole: Json = document
    return whole


def _parse_images(items: list[Json], *, source: str, report: Report) -> list[ImageEntry]:
    entries: dict[int, ImageEntry] = {}
    for index, item in enumerate(items):
        entry = parse_image(item, index, seen=entries, source=source, report=report)
        if entry:
            entries[entry.image_id] = entry
    return list(entries.values())


def _parse_boxes(
    items: list[Json], *, known: dict[str, Container[int]], source: str, report: Report
) -> dict[int, list[AnnotatedBox]]:
    """Return the boxes of each image."""
    boxes = defaultdict(list)
    seen: set[int] = set()
    for index, item in enumerate(items):
        box = parse_box(item, index, known=known, seen=seen, source=source, report=report)
        if box is not None:
            seen.add(box.box_id)
            boxes[item["image_id"]].append(box)
    return boxes
