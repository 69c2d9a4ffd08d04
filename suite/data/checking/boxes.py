"""Boxes that training changes, drops or hardly learns; vectorised over a chunk of images.

Shape letter: M boxes of a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from suite.data.assembly import stack_boxes_xyxy
from suite.data.checking.anchors import REACHED_IOU, DetectorAnchors
from suite.data.checking.findings import Detail, Findings, Severity
from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage
from suite.data.repair import Repaired, repair_boxes

MAX_BOX_ASPECT: Final = 10.0
_DROPPED: Final = "dropped in training; evaluation can never match it"
_RULES: Final[dict[str, tuple[Severity, str]]] = {
    "not_finite": ("warning", _DROPPED),
    "degenerate": ("warning", _DROPPED),
    "outside": ("warning", _DROPPED),
    "clipped": ("note", "cut at the image's edge in training; evaluation keeps it whole"),
    "tiny": ("warning", "kept, but a box of one pixel is rarely meant"),
    "extreme_aspect": (
        "note",
        f"kept; a side is over {MAX_BOX_ASPECT:g} times the other, and no anchor's over 3 times",
    ),
}


@dataclass
class Reach:
    """How much of a split's ground truth a detector's anchors reach; crowd is not counted.

    Attributes:
        boxes_of_class: category id -> boxes that training keeps.
        unreached_of_class: category id -> those that no anchor overlaps by `REACHED_IOU`.
    """

    boxes_of_class: Counter[int] = field(default_factory=Counter)
    unreached_of_class: Counter[int] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Unreached boxes as a part of all; 0 where there are none."""
        return self.unreached_of_class.total() / max(1, self.boxes_of_class.total())

    def worst_classes(self, number: int) -> list[tuple[int, float]]:
        """Return (category id, unreached share) of the classes that fare worst."""
        shares = [
            (category_id, count / self.boxes_of_class[category_id])
            for category_id, count in self.unreached_of_class.items()
        ]
        return sorted(shares, key=lambda pair: (-pair[1], pair[0]))[:number]


@dataclass(frozen=True)
class FlatBoxes:
    """The boxes of a chunk in one row.

    Attributes:
        images: of the chunk.
        boxes: M boxes, image by image.
        owner: int64 [M], positions in `images`.
        image_hw: int64 [M,2].
        repaired: what training makes of them.
    """

    images: Sequence[AnnotatedImage]
    boxes: list[AnnotatedBox]
    owner: NDArray[np.int64]
    image_hw: NDArray[np.int64]
    repaired: Repaired

    def describe(self, row: int) -> Detail:
        """Return where a box is and what it is."""
        image, box = self.images[self.owner[row]], self.boxes[row]
        sides = ", ".join(f"{value:.12g}" for value in box.box_xywh)
        value = f"xywh [{sides}] in {image.image_hw[1]} x {image.image_hw[0]}"
        return Detail(str(image.image), describe_box(image, box), value)


def flatten(images: Sequence[AnnotatedImage]) -> FlatBoxes:
    """Put the boxes of a chunk in one row and apply the rules of `suite.data.repair`."""
    boxes = [box for image in images for box in image.boxes]
    owner = np.repeat(np.arange(len(images)), [len(image.boxes) for image in images])
    image_hw = np.array([image.image_hw for image in images])[owner]
    repaired = repair_boxes(stack_boxes_xyxy(boxes), image_hw)
    return FlatBoxes(images, boxes, owner, image_hw, repaired)


def describe_box(image: AnnotatedImage, box: AnnotatedBox) -> str:
    """Return a box's own id, or its number among those of its image."""
    if box.box_id:
        return f"annotation {box.box_id}"
    number = next(at for at, other in enumerate(image.boxes, start=1) if other is box)
    return f"box {number} of image {image.image_id}"


def check_boxes(
    flat: FlatBoxes,
    split: str,
    *,
    detectors: Sequence[DetectorAnchors],
    reaches: Mapping[str, Reach],
    findings: Findings,
) -> None:
    """Find repaired, tiny, very long and unreached boxes; adds to `reaches` by detector."""
    for rule, mask in _find_odd_boxes(flat).items():
        rows = np.flatnonzero(mask).tolist()
        severity, consequence = _RULES[rule]
        findings.add_all(
            severity,
            rule,
            map(flat.describe, rows),
            total=len(rows),
            split=split,
            consequence=consequence,
        )
    kept = np.flatnonzero(flat.repaired.keep)
    wanted = np.array([not flat.boxes[row].crowd for row in kept.tolist()], np.bool_)
    for detector in detectors:
        _check_reach(
            flat, split, detector=detector, wanted=wanted, reach=reaches[detector.name],
            findings=findings,
        )  # fmt: skip


def _find_odd_boxes(flat: FlatBoxes) -> dict[str, NDArray[np.bool_]]:
    boxes_xyxy, keep = flat.repaired.boxes_xyxy, flat.repaired.keep
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    tiny, extreme = np.zeros(keep.shape, np.bool_), np.zeros(keep.shape, np.bool_)
    tiny[keep] = (sides <= 1).all(axis=1)
    extreme[keep] = sides.max(axis=1) > MAX_BOX_ASPECT * sides.min(axis=1)
    return flat.repaired.masks | {"tiny": tiny, "extreme_aspect": extreme}


def _check_reach(
    flat: FlatBoxes,
    split: str,
    *,
    detector: DetectorAnchors,
    wanted: NDArray[np.bool_],
    reach: Reach,
    findings: Findings,
) -> None:
    """`wanted`: bool [K], which of the kept boxes are to be reached."""
    rows = np.flatnonzero(flat.repaired.keep)[wanted]
    best = detector.best_ious(flat.repaired.boxes_xyxy[wanted], flat.image_hw[rows])
    category_ids = np.array([flat.boxes[row].category_id for row in rows.tolist()], np.int64)
    missed = best < REACHED_IOU
    reach.boxes_of_class.update(category_ids.tolist())
    reach.unreached_of_class.update(category_ids[missed].tolist())
    details = (
        _add_iou(flat.describe(row), iou)
        for row, iou in zip(rows[missed].tolist(), best[missed].tolist(), strict=True)
    )
    findings.add_all(
        "note",
        f"unreached_by_{detector.name}",
        details,
        total=int(missed.sum()),
        split=split,
        consequence="learned from its best anchor alone, where no other box takes that one",
    )


def _add_iou(detail: Detail, iou: float) -> Detail:
    return detail._replace(value=f"{detail.value}: IoU {iou:.3f} with the best anchor")
