"""What the lost AP is lost by, after TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for
Identifying Object Detection Errors", and its code where the two differ).

A wrong detection has one kind, by its overlap with the true boxes: at least 0.5 is on it, less than
0.1 is background. What an error costs is the AP at IoU 0.5 that mending all of its kind would win:

- localisation: the right class, IoU 0.1 to 0.5; mended: the box is right
- classification: on a box of another class; mended: the class is right
- duplicate: on a box that a better scored one has; mended: gone
- background: on nothing; mended: gone
- both: the wrong class and place, any other; mended: gone
- missed: a true box that no detection has, and no localisation or classification error points at;
  mended: not asked for

Of several mended onto one true box the best scored one stays, and none where the box was found
anyway. `false_positive` mends all wrong detections (gone), `false_negative` all boxes not found.
A class of whose true boxes none is left scores 0. Letters: D detections, M true boxes, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from suite.evaluation.columns import Flags, Floats, Integers
from suite.evaluation.matching import BACKGROUND_IOU, IOU_THRESHOLDS, NONE, Matched
from suite.evaluation.overlaps import Pairs
from suite.evaluation.precision import Ranking, sample_precision

FOUND_KINDS: Final = ("localisation", "classification", "duplicate", "background", "both")
KINDS: Final = (*FOUND_KINDS, "missed")
_FOREGROUND_IOU: Final = float(IOU_THRESHOLDS[0])


@dataclass(frozen=True, kw_only=True)
class Errors:
    """The errors at IoU 0.5.

    Attributes:
        kind: [D] position in `FOUND_KINDS`, `NONE` where the detection is not wrong.
        target: [D] the true box that a localisation or classification error points at.
        is_missed: [M].
    """

    kind: NDArray[np.int64]
    target: Integers
    is_missed: Flags

    def is_kind(self, name: str) -> Flags:
        """Return which detections have a kind, [D]."""
        flags: Flags = self.kind == FOUND_KINDS.index(name)
        return flags

    def counts(self) -> dict[str, int]:
        """Return the number of errors by kind."""
        found = {name: int(self.is_kind(name).sum()) for name in FOUND_KINDS}
        return found | {"missed": int(self.is_missed.sum())}


@dataclass(frozen=True, kw_only=True)
class _State:
    """What AP depends on, for a kind to be mended in."""

    label: Integers
    is_true: Flags
    is_kept: Flags
    num_truth: Integers


def find_errors(matched: Matched) -> Errors:
    """Sort the wrong detections and the true boxes not found by kind."""
    found, truth = matched.found, matched.truth
    pairs = matched.pairs.take(~matched.is_ignored[matched.pairs.truth])
    is_same = found.label[pairs.found] == truth.label[pairs.truth]
    same_iou, same = _find_best(pairs.take(is_same), len(found.score))
    other_iou, other = _find_best(pairs.take(~is_same), len(found.score))
    is_wrong = ~matched.is_true[0] & ~matched.is_left_out[0]
    tests = [
        (same_iou >= BACKGROUND_IOU) & (same_iou < _FOREGROUND_IOU),
        other_iou >= _FOREGROUND_IOU,
        same_iou >= _FOREGROUND_IOU,
        np.maximum(same_iou, other_iou) < BACKGROUND_IOU,
    ]
    kind = np.where(is_wrong, np.select(tests, [0, 1, 2, 3], 4), NONE)
    target = np.select([kind == 0, kind == 1], [same, other], NONE)
    is_covered = _mark(target, len(truth.area)) | _mark(matched.match[0], len(truth.area))
    return Errors(kind=kind, target=target, is_missed=~matched.is_ignored & ~is_covered)


def measure_lost_ap(matched: Matched, errors: Errors) -> tuple[float | None, dict[str, float]]:
    """Return the AP at IoU 0.5, and what each kind costs of it; None and nothing without truth."""
    num_truth = matched.num_truth()
    if not num_truth.any():
        return None, {}
    now = _State(
        label=matched.found.label,
        is_true=matched.is_true[0],
        is_kept=~matched.is_left_out[0],
        num_truth=num_truth,
    )
    ap = _measure_ap(matched, now)
    mended = {name: _mend(name, now, matched, errors) for name in KINDS}
    mended["false_positive"] = replace(now, is_kept=now.is_true)
    mended["false_negative"] = replace(now, num_truth=_count(now.label[now.is_true], num_truth))
    return ap, {name: _measure_ap(matched, state) - ap for name, state in mended.items()}


def _find_best(pairs: Pairs, num_found: int) -> tuple[Floats, Integers]:
    """Return the largest IoU of each detection, 0 without any, and the true box, [D] each."""
    order = np.lexsort((-pairs.truth, pairs.iou, pairs.found))
    iou, truth = np.zeros(num_found), np.full(num_found, NONE)
    iou[pairs.found[order]] = pairs.iou[order]  # the last one written stays
    truth[pairs.found[order]] = pairs.truth[order]
    return iou, truth


def _mend(name: str, now: _State, matched: Matched, errors: Errors) -> _State:
    if name == "missed":
        gone = _count(matched.truth.label[errors.is_missed], now.num_truth)
        return replace(now, num_truth=now.num_truth - gone)
    is_kind = errors.is_kind(name)
    if name not in ("localisation", "classification"):
        return replace(now, is_kept=now.is_kept & ~is_kind)
    is_found = _mark(np.where(now.is_true, matched.match[0], NONE), len(matched.truth.area))
    wins = _pick_best(is_kind, errors.target, matched.found.score)
    wins &= ~is_found[errors.target]
    return replace(
        now,
        label=np.where(wins, matched.truth.label[errors.target], now.label),
        is_true=now.is_true | wins,
        is_kept=now.is_kept & (~is_kind | wins),
    )


def _pick_best(is_kind: Flags, target: Integers, score: Floats) -> Flags:
    """Return the best scored of the detections of a kind that point at the same true box, [D]."""
    which = np.flatnonzero(is_kind)
    which = which[np.argsort(-score[which], kind="stable")]
    _, first = np.unique(target[which], return_index=True)
    best = np.zeros(len(is_kind), dtype=bool)
    best[which[first]] = True
    return best


def _measure_ap(matched: Matched, state: _State) -> float:
    """Return AP at IoU 0.5 over the classes that have ground truth."""
    found = matched.found
    order = np.lexsort((found.image, -found.score, state.label))
    order = order[state.is_kept[order]]
    bounds = np.searchsorted(state.label[order], np.arange(len(state.num_truth) + 1))
    none = np.zeros(0, dtype=np.int64)
    scores = []
    for label in np.flatnonzero(matched.num_truth()):
        hits = np.flatnonzero(state.is_true[order[bounds[label] : bounds[label + 1]]])
        num_truth = max(1, int(state.num_truth[label]))
        scores.append(sample_precision(Ranking(hits=hits, left_out=none), num_truth).mean())
    return float(np.mean(scores))


def _count(labels: Integers, num_truth: Integers) -> Integers:
    return np.bincount(labels, minlength=len(num_truth))


def _mark(positions: NDArray[np.integer], num: int) -> Flags:
    marked = np.zeros(num, dtype=bool)
    marked[positions[positions != NONE]] = True
    return marked
