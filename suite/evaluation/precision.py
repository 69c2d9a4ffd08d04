"""From matches to precision, recall and average precision, as pycocotools accumulates them.

Only the correct detections of a ranking matter: precision at a recall is the best from there on,
and it is best, and recall rises, at correct ones. So a ranking is kept as the positions of these.
Letters: T IoU thresholds, R the 101 recalls, K classes, B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from suite.evaluation.columns import Flags, Floats, Integers
from suite.evaluation.matching import Matched

RECALLS: Final = np.linspace(0, 1, 101)
_TINY: Final = np.spacing(1)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The detections of one class at one threshold, best first.

    Attributes:
        hits: positions of the correct ones, rising.
        left_out: positions of those that count neither way, rising.
    """

    hits: Integers
    left_out: Integers

    def count_before(self) -> Integers:
        """Return how many of those that count stand at or before each hit."""
        return self.hits + 1 - np.searchsorted(self.left_out, self.hits)


@dataclass(frozen=True, kw_only=True)
class ClassRanking:
    """The detections of one class: image of each, best first, and the `Ranking`s by threshold."""

    image: Integers
    levels: list[Ranking]


def rank_classes(matched: Matched) -> list[ClassRanking]:
    """Rank the detections of every class over all images; of equal scores the lower id first."""
    found = matched.found
    order = np.lexsort((found.image, -found.score, found.label))
    bounds = np.searchsorted(found.label[order], np.arange(len(matched.columns.category_ids) + 1))
    return [_rank_class(matched, order[start:stop]) for start, stop in pairwise(bounds)]


def _rank_class(matched: Matched, order: Integers) -> ClassRanking:
    levels = [
        Ranking(hits=np.flatnonzero(true[order]), left_out=np.flatnonzero(left_out[order]))
        for true, left_out in zip(matched.is_true, matched.is_left_out, strict=True)
    ]
    return ClassRanking(image=matched.found.image[order], levels=levels)


def compute_precision(matched: Matched) -> Floats:
    """Return pycocotools' precision [T,R,K]; -1 for a class without ground truth."""
    num_truth = matched.num_truth()
    precision = -np.ones((len(matched.match), len(RECALLS), len(num_truth)))
    for label, ranking in enumerate(rank_classes(matched)):
        for level, hits in enumerate(ranking.levels):
            if num_truth[label]:
                precision[level, :, label] = sample_precision(hits, int(num_truth[label]))
    return precision


def sample_precision(ranking: Ranking, num_truth: int) -> Floats:
    """Return the precision at each of the 101 recalls, [R]; 0 where recall never comes so far."""
    num_true = np.arange(1, len(ranking.hits) + 1)
    best = np.maximum.accumulate((num_true / (ranking.count_before() + _TINY))[::-1])[::-1]
    positions = np.searchsorted(num_true / num_truth, RECALLS)
    return np.append(best, 0.0)[positions]


def average_precision(num_true: Integers, num_found: Integers, num_truth: Integers) -> Floats:
    """Return the mean of precision over the 101 recalls for several counts of one ranking, [B].

    Args:
        num_true: [H,B] correct detections up to and with each hit.
        num_found: [H,B] all that count up to and with each hit.
        num_truth: [B] above 0.
    """
    precision = num_true / (num_found + _TINY)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # How many of the 101 recalls are reached, and by which hit.
    reached = np.searchsorted(RECALLS, num_true / num_truth, side="right")
    weights = np.diff(reached, axis=0, prepend=0)
    means: Floats = (best * weights).sum(axis=0) / len(RECALLS)
    return means


def mean_precision(values: Floats) -> float | None:
    """Return the mean of what is there (not -1); None where nothing is."""
    is_there: Flags = values > -1
    return float(values[is_there].mean()) if is_there.any() else None
