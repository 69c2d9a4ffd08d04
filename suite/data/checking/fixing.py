"""A corrected new annotation set from a checked one; the checked one is only read.

What is done, and counted by these names:

- Entries that the reader reports, by its rules: left out; but of annotations with one id
  (``duplicate_id``) all keep their box. ``new_box_id``: a COCO box without an id, or whose id is
  another's, gets the next one after the largest.
- ``damaged_image``: images that cannot be decoded or are not of the annotated size are left out,
  with their boxes. Of the others with the same content only the first stays (``duplicate_image``),
  and of those that train and val share only val's (``in_val``).
- ``not_finite``, ``degenerate``, ``outside``: such boxes are left out; ``clipped``: cut at the
  image's edge, by the rules of `suite.data.repair`. ``duplicate_box``: only the first stays.

Nothing else that the suite reads changes: ids, names, crowd, the areas of boxes that were not cut.
What it does not read (COCO's ``info``, ``licenses`` and ``supercategory``, masks and captions of
records, elements of VOC's that repeat) or its writers cannot carry is not there, as in a
conversion, and counted too. Polygons of YOLO's become their boxes; its numbers get twelve decimals.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from suite.data import LABEL_MAPS
from suite.data.assembly import stack_boxes_xyxy
from suite.data.checking.checks import Check
from suite.data.formats import Location, open_annotated
from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet, Problem
from suite.data.formats.destination import Destination
from suite.data.formats.writing import write_annotated
from suite.data.repair import DROPPING_RULES, clip_boxes, repair_boxes
from suite.errors import InputError, UsageError
from suite.files import completing, replacing
from suite.recipe_sections import Data

_IMAGES_PER_SHARD: Final = 4096  # of TFRecord files


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What becomes of one split.

    Attributes:
        images: ids of those that are left out -> why.
        next_box_id: where box ids go on; 0: the format has none.
    """

    images: Mapping[int, str]
    next_box_id: int


def require_new_output(locations: Mapping[str, Location], output: Path) -> None:
    """Raise UsageError where `output` is there already or does not fit the format."""
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output}: is there already; name a new one")
    formats = {location.format for location in locations.values()}
    if formats == {"coco"} and (output.suffix == ".json") != (len(locations) == 1):
        wanted = "a .json file" if len(locations) == 1 else "a folder, for both splits"
        raise UsageError(f"{output}: a corrected set in COCO's format is {wanted}")


def write_corrected(
    check: Check, output: Path, *, names: Mapping[str, str] | None = None
) -> dict[str, Counter[str]]:
    """Write what a check makes of its splits, all or nothing; return what was changed, by split.

    COCO: one split becomes the .json file `output`, two become <name>.json in the folder `output`;
    images stay where they are. Others: a new data set in the folder `output`, its image
    files linked where the file system can, else copied.

    Args:
        names: split -> what its files are called; None: as the split is.

    Raises:
        UsageError: see `require_new_output`.
        InputError: no image is left, or the output cannot be written.
    """
    require_new_output(check.locations, output)
    if output.suffix == ".json" and len(check.locations) == 1:
        ((split, location),) = check.locations.items()
        if location.format == "coco":
            return {split: _write_coco_file(check, split, output)}
    changes = {}
    names = names or {split: split for split in check.locations}
    with completing(output) as folder:
        for split, location in check.locations.items():
            if location.format == "coco":
                changes[split] = _write_coco(check, split, folder / f"{names[split]}.json")
            else:
                destination = _plan_destination(check, split, folder, name=names[split])
                changes[split] = _write_split(check, split, destination)
    return changes


def find_settings(section: Data, output: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a recipe, and their values, with which it uses a corrected set.

    It is then judged by its own boxes, and no longer by a file of ground truth.

    Args:
        section: the recipe's own.
        output, names: as given to `write_corrected`.
    """
    root = output.absolute()
    # It may have images that the corrected set has no more.
    forget_truth = {} if section.val.ground_truth is None else {"data.val.ground_truth": "null"}
    if section.format == "coco":
        return forget_truth | {
            f"data.{split}.annotations": str(root / f"{name}.json") for split, name in names.items()
        }
    settings = {"data.root": str(root)}
    for split, name in names.items():
        settings[f"data.{split}.annotations"] = {
            "voc": name, "yolo": f"labels/{name}", "tfrecord": f"{name}-*"
        }[section.format]  # fmt: skip
        if section.format == "yolo":
            settings[f"data.{split}.images"] = f"images/{name}"
    if section.label_map is not None:
        settings["data.label_map"] = LABEL_MAPS[section.format]
    return settings | forget_truth


def _write_coco_file(check: Check, split: str, output: Path) -> Counter[str]:
    try:
        with replacing(output) as temporary:
            return _write_coco(check, split, temporary)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from error


def _write_coco(check: Check, split: str, target: Path) -> Counter[str]:
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        destination = Destination(folder=Path(name), split=split, images="leave")
        changes = _write_split(check, split, destination)
        (written,) = Path(name, "annotations").iterdir()
        written.replace(target)
    return changes


def _plan_destination(check: Check, split: str, folder: Path, *, name: str) -> Destination:
    num_shards = -(-check.scans[split].num_images // _IMAGES_PER_SHARD)
    return Destination(folder=folder, split=name, images="link", num_shards=num_shards)


def _write_split(check: Check, split: str, destination: Destination) -> Counter[str]:
    location = check.locations[split]
    changes: Counter[str] = Counter()
    removal = plan_removal(check, split)
    if len(removal.images) >= check.scans[split].num_images:
        raise InputError(f"{location.annotations}: no image is left that could be used")
    mended = mend(location, removal, changes)
    lost = write_annotated(mended, location.format, destination)
    return +(changes + check.findings.problems.get(split, Counter()) + lost + mended.dropped)


def plan_removal(check: Check, split: str) -> Removal:
    """Return what a check wants out of a split."""
    scan, unusable = check.scans[split], check.unusable
    reasons = dict.fromkeys(scan.repeated, "duplicate_image")
    for reason, found in (
        ("in_val", unusable.in_val),
        ("duplicate_image", unusable.repeated),
        ("damaged_image", unusable.damaged),
    ):
        reasons.update({image_id: reason for name, image_id in found if name == split})
    # Repeated entries share a file and a size: where the first is damaged, so are they.
    has_box_ids = check.locations[split].format == "coco"
    return Removal(images=reasons, next_box_id=scan.last_box_id + 1 if has_box_ids else 0)


def mend(location: Location, removal: Removal, changes: Counter[str]) -> AnnotatedSet:
    """Open a split and correct it as its images are read.

    Args:
        changes: what was done, by name, stands here when `images` has been read.
    """
    annotated = open_annotated(location, report=_leave_out)

    def images() -> Iterator[AnnotatedImage]:
        changes.clear()
        new_ids = count(removal.next_box_id)
        for image in annotated.images():
            reason = removal.images.get(image.image_id)
            if reason:
                changes[reason] += 1
                continue
            boxes = _mend_boxes(image, changes)
            if removal.next_box_id:
                changes["new_box_id"] += sum(not box.box_id for box in boxes)
                boxes = [box if box.box_id else replace(box, box_id=next(new_ids)) for box in boxes]
            yield replace(image, boxes=tuple(boxes))

    num_images = annotated.num_images - len(removal.images)
    return replace(annotated, images=images, num_images=num_images)


def _leave_out(_problem: Problem) -> None:
    """Let the reader go on: the check has told of the problem."""


def _mend_boxes(image: AnnotatedImage, changes: Counter[str]) -> list[AnnotatedBox]:
    if not image.boxes:
        return []
    boxes_xyxy = stack_boxes_xyxy(image.boxes)
    repaired = repair_boxes(boxes_xyxy, image.image_hw)
    changes.update({rule: n for rule, n in repaired.counts().items() if rule in DROPPING_RULES})
    cut_xyxy = clip_boxes(boxes_xyxy, image.image_hw).tolist()
    kept, seen = [], set()
    for row in np.flatnonzero(repaired.keep).tolist():
        box = image.boxes[row]
        cut = bool(repaired.masks["clipped"][row])
        if cut:
            box = _cut(box, cut_xyxy[row])
        key = (box.category_id, box.box_xywh)
        if key in seen:
            changes["duplicate_box"] += 1
            continue
        seen.add(key)
        changes["clipped"] += cut
        kept.append(box)
    return kept


def _cut(box: AnnotatedBox, box_xyxy: Sequence[float]) -> AnnotatedBox:
    x0, y0, x1, y1 = box_xyxy
    _, _, width, height = box.box_xywh
    # A stated area that was the box's own shrinks with it; that of a mask stays.
    area = None if box.area == width * height else box.area
    return replace(box, box_xywh=(x0, y0, x1 - x0, y1 - y0), area=area)
