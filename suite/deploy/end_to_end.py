"""A graph and its checkpoint on whole images: heads, detections, batches, and what pads the rows.

Scores of two rivals may be a rounding error apart; then either may survive. Such a difference
counts as borderline only where the candidates of both sides are equal and each side's detections
are exactly what PyTorch's suppression makes of its own.

Shape letters: N images, P candidates, D detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from suite.data.transforms import MEAN, STD
from suite.deploy.pairing import Overlap, Pairing, count_overlapping, pair_detections
from suite.deploy.parity import MAX_HEAD_DIFFERENCE, MAX_INPUT_DIFFERENCE, MIN_OVERLAPPING
from suite.deploy.parts import Outputs, open_part
from suite.deploy.sides import Answer, Fed, Photo, Sides, feed_images
from suite.deploy.stages import (
    NOTHING_PAIRED,
    equal_outputs,
    pair_candidates,
    same_shapes,
    split_rows,
)
from suite.graph_file import INPUT_NAME, NETWORK_INPUT_NAME
from suite.graph_session import RunGraph


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """Figures of some images; see `suite.deploy.parity.Parity`."""

    network_input: float
    network_input_share: float
    logits: float
    deltas: float
    logits_noise: float
    deltas_noise: float
    pairing: Pairing
    overlap: Overlap
    batch_differences: int
    misfits: int
    nonfinite: int
    num_images: int


def compare_images(sides: Sides, photos: Sequence[Photo]) -> EndToEnd:
    """Compare on a blank, on noise and on photos, three images at a time and each alone.

    Raises:
        InputError: the graph does not run or lacks its inner values, or an image cannot be read.
    """
    prepare = None
    if sides.graph.metadata.prepares_images:
        prepare = open_part(
            sides.graph, inputs=[INPUT_NAME], outputs=[NETWORK_INPUT_NAME], source=sides.source
        )
    feds = feed_images(photos, sides.graph.metadata)
    batches = [_compare_batch(sides, fed, prepare) for fed in feds]
    num_images = sum(batch.num_images for batch in batches)
    return EndToEnd(
        network_input=_worst(batch.network_input for batch in batches),
        network_input_share=_worst(batch.network_input_share for batch in batches),
        logits=_worst(batch.logits for batch in batches),
        deltas=_worst(batch.deltas for batch in batches),
        logits_noise=_worst(batch.logits_noise for batch in batches),
        deltas_noise=_worst(batch.deltas_noise for batch in batches),
        pairing=sum((batch.pairing for batch in batches), start=NOTHING_PAIRED),
        overlap=sum((batch.overlap for batch in batches), start=Overlap(total=0, found=0)),
        batch_differences=sum(batch.batch_differences for batch in batches),
        misfits=sum(batch.misfits for batch in batches),
        nonfinite=sum(batch.nonfinite for batch in batches),
        num_images=num_images,
    )


def _compare_batch(sides: Sides, fed: Fed, prepare: RunGraph | None) -> EndToEnd:
    ours, theirs = sides.ask_checkpoint(fed), sides.ask_graph(fed)
    heads = theirs.heads if prepare is None else sides.ask_network(fed.pixels)
    difference, share = _compare_inputs(sides, fed, prepare)
    pairs = list(zip(ours.heads, heads, strict=True))
    logits, deltas = (distance(*pair) for pair in pairs)
    logits_noise, deltas_noise = (_noise(*pair) for pair in pairs)
    alone = [sides.ask_file(fed.select(row)) for row in range(len(fed.pixels))]
    answers = [heads, theirs.heads, theirs.padded, *alone]
    padded = [theirs.padded, *alone] if sides.with_nms else []
    return EndToEnd(
        network_input=difference,
        network_input_share=share,
        logits=logits,
        deltas=deltas,
        logits_noise=logits_noise,
        deltas_noise=deltas_noise,
        pairing=_pair_answers(sides, fed, ours, theirs) if sides.with_nms else NOTHING_PAIRED,
        overlap=_overlap_answers(ours.padded, theirs.padded, sides, fed),
        batch_differences=sum(
            _differs_in_batch(sides, fed, row, answer, theirs) for row, answer in enumerate(alone)
        ),
        misfits=sum(_count_misfits(outputs, sides) for outputs in padded),
        nonfinite=sum(int((~np.isfinite(output)).sum()) for part in answers for output in part),
        num_images=len(fed.pixels),
    )


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the largest difference of two arrays; NaN where one holds it."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


def _noise(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the root mean square of what differs over the deviation of what is right."""
    if ours.shape != theirs.shape:
        return float("inf")
    squares = np.square(theirs - ours, dtype=np.float64).mean()
    deviation = float(ours.std(dtype=np.float64))
    return (
        float(np.sqrt(squares)) / deviation if deviation else 0.0 if squares == 0 else float("inf")
    )


def _compare_inputs(sides: Sides, fed: Fed, prepare: RunGraph | None) -> tuple[float, float]:
    """Return the largest difference of the network's inputs and the share of values that differ.

    Where a graph leaves the preparation to others, what it asks them for is held against what the
    checkpoint's loaders do: for the darkest and the brightest pixel, between which it is linear.
    """
    if prepare is None:
        stated, ends = sides.graph.metadata.input, np.array([[0], [255]])
        asked = (ends * stated.scale - stated.mean) / np.array(stated.std)
        difference = np.abs(asked - (ends / 255 - MEAN) / STD)
    else:
        assert fed.images is not None
        (found,) = prepare([NETWORK_INPUT_NAME], {INPUT_NAME: fed.images})
        if found.shape != tuple(fed.pixels.shape):
            return float("inf"), 1.0
        difference = np.abs(found - fed.pixels.numpy())
    share = ~(difference <= MAX_INPUT_DIFFERENCE)
    return float(difference.max()), float(share.mean())


def _pair_answers(sides: Sides, fed: Fed, first: Answer, second: Answer) -> Pairing:
    pairs = zip(split_rows(first.padded), split_rows(second.padded), strict=True)
    pairings = [pair_detections(one, other, sides.limits(fed)) for one, other in pairs]
    pairing = sum(pairings, start=NOTHING_PAIRED)
    if pairing.unpaired and _explained_by_ties(sides, fed, first, second):
        borderline = pairing.borderline + pairing.unpaired
        return replace(pairing, borderline=borderline, unpaired=0)
    return pairing


def _overlap_answers(first: Outputs, second: Outputs, sides: Sides, fed: Fed) -> Overlap:
    if not sides.with_nms or sides.graph.metadata.precision == "fp32":
        return Overlap(total=0, found=0)
    pairs = zip(split_rows(first), split_rows(second), strict=True)
    overlaps = (count_overlapping(*pair, sides.limits(fed)) for pair in pairs)
    return sum(overlaps, start=Overlap(total=0, found=0))


def _explained_by_ties(sides: Sides, fed: Fed, first: Answer, second: Answer) -> bool:
    if not same_shapes(first.candidates, second.candidates):
        return False
    pairs = zip(split_rows(first.candidates), split_rows(second.candidates), strict=True)
    limits = sides.limits(fed)
    pairings = [
        pair_candidates(
            *pair,
            max_score_difference=limits.max_score_difference,
            score_threshold=limits.score_threshold,
        )
        for pair in pairs
    ]
    equal = all(pairing.unpaired == 0 for pairing in pairings)
    return equal and all(_is_own_suppression(sides, fed, side) for side in (first, second))


def _is_own_suppression(sides: Sides, fed: Fed, answer: Answer) -> bool:
    boxes_xyxy, scores, labels = (torch.from_numpy(value) for value in answer.candidates)
    return equal_outputs(sides.suppress((boxes_xyxy, scores, labels), fed), answer.padded)


def _differs_in_batch(sides: Sides, fed: Fed, row: int, alone: Outputs, together: Answer) -> bool:
    """Tell whether the graph as it is, given one image, differs from its answer in the batch."""
    in_batch = Answer(*([output[row : row + 1] for output in part] for part in together))
    exact = sides.graph.metadata.precision == "fp32"
    if not sides.with_nms:
        pairs = zip(alone, in_batch.heads, strict=True)
        equal = all(distance(one, other) <= MAX_HEAD_DIFFERENCE for one, other in pairs)
        return exact and not equal
    if not exact:
        overlap = _overlap_answers(alone, in_batch.padded, sides, fed)
        return overlap.share < MIN_OVERLAPPING
    (one,), (other,) = split_rows(alone), split_rows(in_batch.padded)
    if pair_detections(one, other, sides.limits(fed)).unpaired == 0:
        return False
    # The runtime fuses other operators in the graph with its inner values exposed, so near ties may
    # fall otherwise there: the boxes are then no criterion, the list of scores still is.
    limit = sides.limits(fed).max_score_difference
    same_scores = distance(alone[1], in_batch.padded[1]) <= limit
    image = fed.select(row)
    inspected = sides.ask_graph(image)
    return not (same_scores and _explained_by_ties(sides, image, inspected, in_batch))


def _count_misfits(padded: Outputs, sides: Sides) -> int:
    boxes_xyxy, scores, labels, num_dets = padded
    used = np.arange(scores.shape[1]) < num_dets[:, None]
    known = (labels >= 0) & (labels < sides.detector.num_classes)
    # The threshold as the graph holds it, in float32.
    above = scores > np.float32(sides.parameters.score_threshold)
    ordered = np.pad(np.diff(scores) <= 0, ((0, 0), (1, 0)), constant_values=True)
    empty = (boxes_xyxy == 0).all(axis=-1) & (scores == 0) & (labels == -1)
    return int((~np.where(used, known & above & ordered, empty)).sum())


def _worst(values: Iterable[float]) -> float:
    return float(np.max(list(values)))  # NaN if one is
