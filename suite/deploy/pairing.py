"""Two answers for one image, compared as sets.

Shape letter: D detections. Boxes are `_xyxy` in pixels of the network input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.boxes import intersection_over_union

Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Pairing:
    """Counts of detections: of the first side, paired, borderline (both sides), unpaired (both sides)."""

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
    """Pair two lists of (boxes [D,4], scores [D], labels [D]) one to one.

    A pair has one label, and score and box within the limits. What remains is borderline when its score
    is at the threshold or at the last place of a full list, when its overlap with a better box is at the
    suppression threshold, or when a borderline box of the other side decides over it.
    """
    left_first, left_second = _unpaired(first, second, limits)
    paired = len(first[1]) - len(left_first)
    near_first = [i for i in left_first if _on_threshold(first, i, limits)]
    near_second = [i for i in left_second if _on_threshold(second, i, limits)]
    while True:
        more_first = _decided_by(first, left_first, near_first, (second, near_second), limits)
        more_second = _decided_by(second, left_second, near_second, (first, near_first), limits)
        if not more_first and not more_second:
            break
        near_first += more_first
        near_second += more_second
    borderline = len(near_first) + len(near_second)
    return Pairing(
        len(first[1]), paired, borderline, len(left_first) + len(left_second) - borderline
    )


def _unpaired(first: Found, second: Found, limits: PairingLimits) -> tuple[list[int], list[int]]:
    free = np.ones(len(second[1]), dtype=bool)
    left = []
    for i in range(len(first[1])):
        close = free & (second[2] == first[2][i])
        close &= np.abs(second[1] - first[1][i]) <= limits.max_score_difference
        distance = np.abs(second[0] - first[0][i]).max(axis=1, initial=0)
        close &= distance <= limits.max_box_difference
        if close.any():
            free[np.where(close, distance, np.inf).argmin()] = False
        else:
            left.append(i)
    return left, np.flatnonzero(free).tolist()


def _on_threshold(found: Found, index: int, limits: PairingLimits) -> bool:
    score = found[1][index]
    if abs(score - limits.score_threshold) <= limits.near_score:
        return True
    if len(found[1]) == limits.max_detections and score - found[1][-1] <= limits.near_score:
        return True
    better = (found[1] >= score) & (found[2] == found[2][index])
    better[index] = False
    overlaps = _overlaps(found[0][index], found[0][better])
    return bool((np.abs(overlaps - limits.iou_threshold) <= limits.near_iou).any())


def _decided_by(
    found: Found,
    left: list[int],
    near: list[int],
    other: tuple[Found, list[int]],
    limits: PairingLimits,
) -> list[int]:
    """Return those of `left` that a borderline box of the other side suppresses there."""
    boxes, _, labels = other[0]
    decided = []
    for i in (i for i in left if i not in near):
        rivals = [j for j in other[1] if labels[j] == found[2][i]]
        if (_overlaps(found[0][i], boxes[rivals]) > limits.iou_threshold - limits.near_iou).any():
            decided.append(i)
    return decided


def _overlaps(box: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    one, many = torch.from_numpy(box[None].copy()), torch.from_numpy(boxes.copy())
    return np.asarray(intersection_over_union(one, many)[0])
