"""One pass over a split's annotations, a chunk of images at a time, without opening an image.

Findings of the reader come first; then what is wrong or odd about boxes (`boxes`), images listed
twice, images and classes without boxes, and extreme images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from suite.data.checking.anchors import DetectorAnchors
from suite.data.checking.boxes import Reach, check_boxes, describe_box, flatten
from suite.data.checking.findings import Detail, Findings
from suite.data.checking.inspecting import Picture
from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.sample import ImageFile

MAX_IMAGE_ASPECT: Final = 4.0
_CHUNK: Final = 2048  # images

Progress = Callable[[int, int], None]


@dataclass
class Scan:
    """What a pass found out beside its findings.

    Attributes:
        category_names: category id -> name.
        pictures: every image, of those that share a file and a size the first.
        repeated: ids of the others.
        boxes_of_class: category id -> boxes, crowd regions included.
        last_box_id: the largest of the set's box ids; 0 where the format has none.
        reaches: detector -> what of the boxes its anchors reach.
        num_images, num_boxes, num_crowd: of what the reader could use.
    """

    category_names: Mapping[int, str]
    pictures: list[Picture] = field(default_factory=list)
    repeated: set[int] = field(default_factory=set)
    boxes_of_class: Counter[int] = field(default_factory=Counter)
    last_box_id: int = 0
    reaches: dict[str, Reach] = field(default_factory=dict)
    num_images: int = 0
    num_boxes: int = 0
    num_crowd: int = 0


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What a recipe will do with a set.

    Attributes:
        detectors: whose anchors are held against the boxes.
        use_crowd: of the recipe; None where there is no recipe.
    """

    detectors: tuple[DetectorAnchors, ...]
    use_crowd: bool | None


def scan_annotations(
    annotated: AnnotatedSet,
    split: str,
    *,
    expectations: Expectations,
    findings: Findings,
    progress: Progress | None = None,
) -> Scan:
    """Go through a split once.

    Args:
        annotated: opened with `findings.report_to(split)`.
        split: its name.
        progress: called with (images done, images).
    """
    scan = Scan(annotated.category_names)
    scan.reaches = {detector.name: Reach() for detector in expectations.detectors}
    listed: dict[ImageFile, list[Picture]] = {}
    images = annotated.images()
    while chunk := list(islice(images, _CHUNK)):
        for image in chunk:
            _check_image(image, split, findings)
            _note_image(image, split, scan, listed=listed, findings=findings)
        flat = flatten(chunk)
        check_boxes(
            flat,
            split,
            detectors=expectations.detectors,
            reaches=scan.reaches,
            findings=findings,
        )
        _check_repeated_boxes(chunk, split, findings)
        crowd = [(image, box) for image in chunk for box in image.boxes if box.crowd]
        findings.add_all(
            "note",
            "crowd",
            (Detail(str(image.image), describe_box(image, box), "crowd") for image, box in crowd),
            total=len(crowd),
            split=split,
            consequence=_say_crowd(expectations.use_crowd),
        )
        scan.num_crowd += len(crowd)
        scan.num_images += len(chunk)
        scan.num_boxes += len(flat.boxes)
        scan.boxes_of_class.update(box.category_id for box in flat.boxes)
        scan.last_box_id = max([scan.last_box_id, *(box.box_id for box in flat.boxes)])
        if progress:
            progress(scan.num_images, annotated.num_images)
    _check_classes(scan, split, findings)
    return scan


def _note_image(
    image: AnnotatedImage,
    split: str,
    scan: Scan,
    *,
    listed: dict[ImageFile, list[Picture]],
    findings: Findings,
) -> None:
    earlier = listed.setdefault(image.image, [])
    picture = Picture(split, image.image_id, image.image, image.image_hw)
    is_first = not earlier
    # Of two entries with other sizes one may be the right one: both are looked at.
    if any(other.image_hw == picture.image_hw for other in earlier):
        scan.repeated.add(image.image_id)
    else:
        earlier.append(picture)
        scan.pictures.append(picture)
    if is_first:
        return
    value = f"the file of image {earlier[0].image_id}"
    findings.add(
        "warning",
        "duplicate_image",
        Detail(str(image.image), f"image {image.image_id}", value),
        split=split,
        consequence="trained on and evaluated more than once",
    )


def _check_image(image: AnnotatedImage, split: str, findings: Findings) -> None:
    file, item = str(image.image), f"image {image.image_id}"
    height, width = image.image_hw
    if not image.boxes:
        findings.add(
            "note",
            "no_boxes",
            Detail(file, item, "no boxes"),
            split=split,
            consequence="not trained on; in evaluation every detection there is wrong",
        )
    if max(height, width) > MAX_IMAGE_ASPECT * min(height, width):
        findings.add(
            "note",
            "extreme_image_aspect",
            Detail(file, item, f"{width} x {height}"),
            split=split,
            consequence=f"a side is over {MAX_IMAGE_ASPECT:g} times the other: stretching distorts "
            "it, and keeping its shape leaves it thin",
        )


def _check_repeated_boxes(images: Sequence[AnnotatedImage], split: str, findings: Findings) -> None:
    for image in images:
        if len({(box.category_id, box.box_xywh) for box in image.boxes}) == len(image.boxes):
            continue
        for detail in _find_repeated_boxes(image):
            findings.add(
                "warning",
                "duplicate_box",
                detail,
                split=split,
                consequence="counts twice in the loss; evaluation can match only one of them",
            )


def _find_repeated_boxes(image: AnnotatedImage) -> Iterator[Detail]:
    first: dict[tuple[int, tuple[float, ...]], AnnotatedBox] = {}
    for box in image.boxes:
        key = (box.category_id, box.box_xywh)
        if key in first:
            value = f"same class and box as {describe_box(image, first[key])}"
            yield Detail(str(image.image), describe_box(image, box), value)
        first.setdefault(key, box)


def _check_classes(scan: Scan, split: str, findings: Findings) -> None:
    for category_id, name in scan.category_names.items():
        if not scan.boxes_of_class[category_id]:
            findings.add(
                "warning",
                "class_without_boxes",
                Detail("", f"category {category_id}", name),
                split=split,
                consequence="cannot be learned from this split, and has no AP in it",
            )
    _check_class_names(scan, split, findings)


def _check_class_names(scan: Scan, split: str, findings: Findings) -> None:
    ids_of: dict[str, list[str]] = {}
    for category_id, name in scan.category_names.items():
        ids_of.setdefault(name, []).append(str(category_id))
    for name, ids in ids_of.items():
        if len(ids) > 1:
            findings.add(
                "warning",
                "duplicate_class_name",
                Detail("", f"categories {', '.join(ids)}", name),
                split=split,
                consequence="cannot become VOC or TFRecord; drawings do not tell them apart",
            )


def _say_crowd(use_crowd: bool | None) -> str:
    if use_crowd is None:
        return "trained on only where data.use_crowd is true"
    becomes = "trained on like all others" if use_crowd else "not trained on"
    return f"{becomes}, as data.use_crowd is {str(use_crowd).lower()}"
