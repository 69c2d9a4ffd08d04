"""Two answers for one image, compared as sets.

Order is no criterion, because scores a millionth apart may swap. A detection without a counterpart
is excused only where a threshold explains it: rounding may put a score, an overlap or the last
place of a full list on either side.

Shape letter: D detections, best first. Boxes are `_xyxy` in pixels of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.boxes import intersection_over_union

# Of graphs below fp32: what counts as the same place, and how near a threshold a score may sit.
_SAME_PLACE_IOU = 0.9
_NEAR_ROUNDED_SCORE = 0.01

# Boxes [D,4], scores [D], labels [D].
Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Pairing:
    """Counts of detections.

    Attributes:
        total: of the first side.
        paired: of them, those with a counterpart.
        borderline: without a counterpart, explained by a threshold; of both sides.
        unpaired: without a counterpart and without an excuse; of both sides.
    """

    total: int
    paired: int
    borderline: int
    unpaired: int

    def __add__(self, other: Pairing) -> Pairing:
        return Pairing(
            self.total + other.total,
            self.paired + other.paired,
            self.borderline + other.borderline,
            self.unpaired + other.unpaired,
        )


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Counts of detections of both sides; `found` of the `total` lie where the other has one."""

    total: int
    found: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(total=self.total + other.total, found=self.found + other.found)

    @property
    def share(self) -> float:
        """Part that is found; of nothing, all."""
        return self.found / self.total if self.total else 1.0


@dataclass(frozen=True, kw_only=True)
class PairingLimits:
    """What counts as equal (`max_`) and what as sitting on a threshold (`near_`).

    Boxes in pixels, scores and overlaps as fractions.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int
    max_score_difference: float = 1e-3
    max_box_difference: float = 0.1
    near_score: float = 1e-4
    near_iou: float = 1e-3


def pair_detections(first: Found, second: Found, limits: PairingLimits) -> Pairing:
    """Pair two lists of detections one to one.

    A pair has one label, and score and box within the limits. What remains is borderline

    - when its score is at the score threshold,
    - when the other list is full and its last place is not worse,
    - when its overlap with a better box is at the suppression threshold, or
    - when a borderline box of the other side suppresses it there.

    Two rivals of nearly equal score that suppress each other, one on each side, look like one box
    that has moved; both count as unpaired.
    """
    left_first, left_second = _without_counterpart(first, second, limits)
    near_first = [i for i in left_first if _on_threshold(first, i, second, limits)]
    near_second = [i for i in left_second if _on_threshold(second, i, first, limits)]
    while True:
        more_first = _suppressed_by(first, left_first, near_first, (second, near_second), limits)
        more_second = _suppressed_by(second, left_second, near_second, (first, near_first), limits)
        if not more_first and not more_second:
            break
        near_first += more_first
        near_second += more_second
    borderline = len(near_first) + len(near_second)
    return Pairing(
        total=len(first[1]),
        paired=len(first[1]) - len(left_first),
        borderline=borderline,
        unpaired=len(left_first) + len(left_second) - borderline,
    )


def count_overlapping(first: Found, second: Found, limits: PairingLimits) -> Overlap:
    """Count detections of either side with one of the same class at IoU 0.9 on the other.

    For graphs that round: what they find lies where PyTorch finds it, but is not equal. A detection
    without a counterpart counts neither way where its score is near the threshold or the last place
    of a full list.
    """
    return _count_found(first, second, limits) + _count_found(second, first, limits)


def _count_found(found: Found, other: Found, limits: PairingLimits) -> Overlap:
    lowest = limits.score_threshold
    if len(other[1]) == limits.max_detections:
        lowest = max(lowest, float(other[1][-1]))
    counts = Overlap(total=0, found=0)
    for box_xyxy, score, label in zip(*found, strict=True):
        overlaps = _overlaps(box_xyxy, other[0][other[2] == label])
        if (overlaps >= _SAME_PLACE_IOU).any():
            counts += Overlap(total=1, found=1)
        elif score > lowest + _NEAR_ROUNDED_SCORE:
            counts += Overlap(total=1, found=0)
    return counts


def _without_counterpart(
    first: Found, second: Found, limits: PairingLimits
) -> tuple[list[int], list[int]]:
    """Return the indices of each side that found no partner; each takes the closest free one."""
    free = np.ones(len(second[1]), dtype=bool)
    left = []
    for i in range(len(first[1])):
        # In units of the limits: at most 1 is equal.
        distance = np.abs(second[0] - first[0][i]).max(axis=1, initial=0)
        difference = np.maximum(
            distance / limits.max_box_difference,
            np.abs(second[1] - first[1][i]) / limits.max_score_difference,
        )
        equal = free & (second[2] == first[2][i]) & (difference <= 1)
        if equal.any():
            free[np.where(equal, difference, np.inf).argmin()] = False
        else:
            left.append(i)
    return left, np.flatnonzero(free).tolist()


def _on_threshold(found: Found, index: int, other: Found, limits: PairingLimits) -> bool:
    boxes, scores, labels = found
    score = scores[index]
    if abs(score - limits.score_threshold) <= limits.near_score:
        return True
    if len(other[1]) == limits.max_detections and score <= other[1][-1] + limits.near_score:
        return True
    better = (scores >= score - limits.near_score) & (labels == labels[index])
    better[index] = False
    overlaps = _overlaps(boxes[index], boxes[better])
    return bool((np.abs(overlaps - limits.iou_threshold) <= limits.near_iou).any())


def _suppressed_by(
    found: Found,
    left: list[int],
    near: list[int],
    other: tuple[Found, list[int]],
    limits: PairingLimits,
) -> list[int]:
    """Return those of `left` that a borderline box of the other side suppresses there."""
    boxes, scores, labels = other[0]
    suppressed = []
    for i in (i for i in left if i not in near):
        rivals = [
            j
            for j in other[1]
            if labels[j] == found[2][i] and scores[j] >= found[1][i] - limits.near_score
        ]
        overlaps = _overlaps(found[0][i], boxes[rivals])
        if (overlaps > limits.iou_threshold - limits.near_iou).any():
            suppressed.append(i)
    return suppressed


def _overlaps(
    box_xyxy: NDArray[np.float32], boxes_xyxy: NDArray[np.float32]
) -> NDArray[np.float32]:
    one, many = torch.from_numpy(box_xyxy[None].copy()), torch.from_numpy(boxes_xyxy.copy())
    return np.asarray(intersection_over_union(one, many)[0])
