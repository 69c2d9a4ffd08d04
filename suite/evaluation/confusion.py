"""Which class is taken for which: matching at IoU 0.5 whatever the labels, above a score.

The best scored detection of an image chooses first, among the free true boxes that one it overlaps
most. What is left on either side is confused with the background. A detection in a crowd region of
its own class counts neither way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite.evaluation.columns import Integers, rank_in_groups
from suite.evaluation.matching import IOU_THRESHOLDS, NONE, Matched, match_greedily


def count_confusions(matched: Matched, *, min_score: float) -> Integers:
    """Return [C,3]: label of the true box, label of the detection, how often; C cells above 0.

    The background is the label after the last class. Rows rise.
    """
    background = len(matched.columns.category_ids)
    found, truth = matched.found, matched.truth
    match = _match_all(matched, min_score)
    is_used = match != NONE
    is_ignored = is_used & np.append(matched.is_ignored, False)[match]
    counts = (found.score >= min_score) & ~is_ignored & ~(matched.is_left_out[0] & ~is_used)
    true_label = np.where(is_used, np.append(truth.label, background)[match], background)[counts]
    is_missed = ~matched.is_ignored
    is_missed[match[is_used]] = False
    missed = truth.label[is_missed]
    rows = np.concatenate(
        [
            np.stack([true_label, found.label[counts]], axis=1),
            np.stack([missed, np.full(len(missed), background)], axis=1),
        ]
    )
    cells, times = np.unique(rows, axis=0, return_counts=True)
    return np.concatenate([cells, times[:, None]], axis=1)


def _match_all(matched: Matched, min_score: float) -> NDArray[np.int32]:
    """Return the true box each detection has in its image, [D]; `NONE` below the score."""
    found, truth, pairs = matched.found, matched.truth, matched.pairs
    order = np.lexsort((-found.score, found.image))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = rank_in_groups(found.image[order])
    may_match = (found.label[pairs.found] == truth.label[pairs.truth]) | ~matched.is_ignored[
        pairs.truth
    ]
    may_match &= found.score[pairs.found] >= min_score
    match = match_greedily(
        pairs.take(may_match), ranks, truth, matched.is_ignored, thresholds=IOU_THRESHOLDS[:1]
    )
    own: NDArray[np.int32] = match[0]
    return own
