"""Whether a score of 0.7 means that 7 of 10 detections are right.

The expected calibration error for detections, D-ECE, by confidence alone (Küppers et al. 2020,
"Multivariate Confidence Calibration for Object Detection"): detections are binned by score; the
error is the mean gap between score and precision at IoU 0.5, each bin weighed by its detections.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from suite.evaluation.columns import Floats
from suite.evaluation.matching import Matched

NUM_BINS: Final = 10


def measure_calibration(matched: Matched, *, min_score: float) -> dict[str, Any] | None:
    """Return the bins and the error over all detections and over those from `min_score` on.

    Scores outside 0 to 1 are no probabilities; then there is nothing to measure, None.
    """
    counts = ~matched.is_left_out[0]
    score, is_true = matched.found.score[counts], matched.is_true[0][counts]
    if len(score) == 0 or score.min() < 0 or score.max() > 1:
        return None
    above = score >= min_score
    table = _fill_bins(score, is_true.astype(np.float64))
    return {
        "bins": [_describe_bin(number, row) for number, row in enumerate(table.tolist())],
        "d_ece": _weigh_gaps(table),
        "d_ece_from_score": _weigh_gaps(_fill_bins(score[above], is_true[above].astype(float))),
    }


def _fill_bins(score: Floats, is_true: Floats) -> Floats:
    """Return [bins,3]: the number of detections, the sum of their scores, the number of right."""
    which = (score * NUM_BINS).astype(np.int64).clip(max=NUM_BINS - 1)
    sums = [np.bincount(which, weights, NUM_BINS) for weights in (None, score, is_true)]
    return np.stack(sums, axis=1).astype(np.float64)


def _weigh_gaps(table: Floats) -> float | None:
    total = table[:, 0].sum()
    return float(np.abs(table[:, 1] - table[:, 2]).sum() / total) if total else None


def _describe_bin(number: int, row: list[float]) -> dict[str, Any]:
    count, score, right = row
    return {
        "low": number / NUM_BINS,
        "high": (number + 1) / NUM_BINS,
        "detections": int(count),
        "mean_score": score / count if count else None,
        "precision": right / count if count else None,
    }
