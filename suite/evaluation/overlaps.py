"""Which detections and true boxes of one image overlap, and by how much.

IoU is computed as pycocotools does, in float64; with a crowd region it is the share of the
detection that lies inside. Letters: P pairs, D detections, M true boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from suite.evaluation.columns import Flags, Floats, FoundBoxes, Integers, TrueBoxes

_CHUNK: Final = 2**18  # pairs looked at together; bounds memory


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs of one image: positions among the detections and the true boxes, and their IoU, [P]."""

    found: Integers
    truth: Integers
    iou: Floats

    def take(self, which: Flags | Integers) -> Pairs:
        """Return some of the pairs."""
        return Pairs(found=self.found[which], truth=self.truth[which], iou=self.iou[which])


def find_overlaps(found: FoundBoxes, truth: TrueBoxes, *, least: float) -> Pairs:
    """Return all pairs with an IoU of at least `least`, which is above 0.

    Args:
        truth: sorted by image.
    """
    chunks = [
        _measure(chunk, others, found, truth, least) for chunk, others in _chunk_pairs(found, truth)
    ]
    return Pairs(
        found=np.concatenate([np.zeros(0, dtype=np.int64), *(part.found for part in chunks)]),
        truth=np.concatenate([np.zeros(0, dtype=np.int64), *(part.truth for part in chunks)]),
        iou=np.concatenate([np.zeros(0), *(part.iou for part in chunks)]),
    )


def _chunk_pairs(found: FoundBoxes, truth: TrueBoxes) -> Iterator[tuple[Integers, Integers]]:
    """Yield pairs, those of some detections at a time: positions of the two sides."""
    first = np.searchsorted(truth.image, found.image, side="left")
    num = np.searchsorted(truth.image, found.image, side="right") - first
    ends = np.cumsum(num)
    shift = first - (ends - num)
    start = 0
    while start < len(num):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        own = np.repeat(np.arange(start, stop), num[start:stop])
        yield own, np.arange(before, before + len(own)) + shift[own]
        start = stop


def _measure(
    which: Integers, others: Integers, found: FoundBoxes, truth: TrueBoxes, least: float
) -> Pairs:
    iou = compute_iou(found.xywh[which], truth.xywh[others], truth.is_crowd[others])
    return Pairs(found=which, truth=others, iou=iou).take(iou >= least)


def compute_iou(found: Floats, truth: Floats, is_crowd: Flags) -> Floats:
    """Return the IoU of every pair of boxes; `found` and `truth` are xywh [P,4]."""
    low = np.maximum(found[:, :2], truth[:, :2])
    sides = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:]) - low
    shared = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    area = found[:, 2] * found[:, 3]
    union = np.where(is_crowd, area, area + truth[:, 2] * truth[:, 3] - shared)
    return np.divide(shared, union, out=np.zeros(len(shared)), where=shared > 0)
