"""COCO's greedy matching, for all images at once.

Detections take turns, the best of each group (an image, or one class in it) first. Each takes the
free true box that it overlaps most, one to be judged before one to be ignored, the later one of two
that overlap alike. Crowd regions are never used up. The n-th detections of all groups are matched
together, so the work is a few array operations a turn. Letters: T thresholds, D detections,
M true boxes, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from suite.evaluation.columns import (
    Columns,
    Flags,
    Floats,
    FoundBoxes,
    Integers,
    TrueBoxes,
    keep_best,
    rank_in_groups,
)
from suite.evaluation.overlaps import Pairs, find_overlaps

IOU_THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
BACKGROUND_IOU: Final = 0.1
_LARGEST_AREA: Final = 1e10  # pycocotools' range of all sizes is 0 to 1e5^2
NONE: Final = -1


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Results matched with the ground truth as COCO does, at all sizes.

    Attributes:
        found: what COCO judges, by image, label and falling score.
        truth: with `is_ignored` [M]: crowd regions, and areas that COCO has no size for.
        pairs: of one image with an IoU of at least `BACKGROUND_IOU`, whatever their labels.
        match: [T,D] the true box each detection is matched with, else `NONE`.
        is_true: [T,D] correct detections; `is_left_out` [T,D]: those that count neither way.
    """

    columns: Columns
    found: FoundBoxes
    truth: TrueBoxes
    is_ignored: Flags
    pairs: Pairs
    match: NDArray[np.int32]
    is_true: Flags
    is_left_out: Flags

    def num_truth(self) -> Integers:
        """Return the number of true boxes that count, by label."""
        labels = self.truth.label[~self.is_ignored]
        return np.bincount(labels, minlength=len(self.columns.category_ids))


def match_results(columns: Columns) -> Matched:
    """Match at COCO's ten IoU thresholds."""
    truth, found = columns.truth, keep_best(columns.found)
    is_ignored = truth.is_crowd | _has_no_size(truth.area)
    pairs = find_overlaps(found, truth, least=BACKGROUND_IOU)
    of_one_class = found.label[pairs.found] == truth.label[pairs.truth]
    ranks = rank_in_groups(found.image, found.label)
    match = match_greedily(
        pairs.take(of_one_class), ranks, truth, is_ignored, thresholds=IOU_THRESHOLDS
    )
    is_matched = match != NONE
    takes_ignored = is_matched & np.append(is_ignored, False)[match]
    has_no_size = _has_no_size(found.xywh[:, 2] * found.xywh[:, 3])
    return Matched(
        columns=columns,
        found=found,
        truth=truth,
        is_ignored=is_ignored,
        pairs=pairs,
        match=match,
        is_true=is_matched & ~takes_ignored,
        is_left_out=takes_ignored | (~is_matched & has_no_size),
    )


def match_greedily(
    pairs: Pairs, ranks: Integers, truth: TrueBoxes, is_ignored: Flags, *, thresholds: Floats
) -> NDArray[np.int32]:
    """Return [T,D] which true box each detection takes at each threshold, else `NONE`.

    Args:
        pairs: that may be matched.
        ranks: [D] the turn of each detection in its group; groups share no true box.
    """
    match = np.full((len(thresholds), len(ranks)), NONE, dtype=np.int32)
    taken = np.zeros((len(thresholds), len(is_ignored)), dtype=bool)
    for turn in _take_turns(pairs.take(pairs.iou >= thresholds.min()), ranks, is_ignored):
        free = (turn.iou >= thresholds[:, None]) & ~(taken & ~truth.is_crowd)[:, turn.truth]
        starts = np.flatnonzero(np.diff(turn.found, prepend=NONE))
        num = len(turn.found)
        best = np.minimum.reduceat(np.where(free, np.arange(num), num), starts, axis=1)
        level, which = np.nonzero(best < num)
        chosen = best[level, which]
        match[level, turn.found[chosen]] = turn.truth[chosen]
        taken[level, turn.truth[chosen]] = True
    return match


def _take_turns(pairs: Pairs, ranks: Integers, is_ignored: Flags) -> Iterator[Pairs]:
    """Yield the pairs of every turn, those of one detection together, the one it prefers first."""
    order = np.lexsort(
        (-pairs.truth, -pairs.iou, is_ignored[pairs.truth], pairs.found, ranks[pairs.found])
    )
    pairs = pairs.take(order)
    bounds = np.flatnonzero(np.diff(ranks[pairs.found], prepend=NONE, append=NONE))
    for start, stop in pairwise(bounds):
        yield pairs.take(np.arange(start, stop))


def _has_no_size(area: Floats) -> Flags:
    return (area < 0) | (area > _LARGEST_AREA)
