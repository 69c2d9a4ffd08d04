"""A graph and its checkpoint on whole images: heads, detections, batches, and what pads the rows.

Scores of two rivals may be a rounding error apart; then either may survive. Such a difference
counts as borderline only where the candidates of both sides are equal and each side's detections
are exactly what PyTorch's suppression makes of its own.

Shape letters: N images, P candidates, D detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.postprocess import Candidates, PostprocessParameters
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.deploy.graph import INNER_NAMES, cut_graph
from suite.deploy.pairing import Pairing, PairingLimits, pair_detections
from suite.deploy.parity import MAX_HEAD_DIFFERENCE
from suite.deploy.stages import (
    NOTHING_PAIRED,
    Outputs,
    equal_outputs,
    pair_candidates,
    same_shapes,
    split_rows,
    to_arrays,
)
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES, GraphFile, check_answer
from suite.graph_metadata import GraphMetadata
from suite.graph_session import RunGraph, open_graph
from suite.sizing import STRIDE_MULTIPLE, build_sizing

_BATCH = 3


class EndToEnd(NamedTuple):
    """Figures of some images; see `suite.deploy.parity.Parity`."""

    logits: float
    deltas: float
    pairing: Pairing
    batch_differences: int
    misfits: int
    nonfinite: int
    num_images: int


def compare_images(
    graph: GraphFile,
    detector: Detector,
    parameters: PostprocessParameters,
    *,
    images: Sequence[Path],
    source: str,
) -> EndToEnd:
    """Compare on a blank, on noise and on photos, three images at a time and each alone.

    Raises:
        InputError: the graph does not run or lacks its inner values, or an image cannot be read.
    """
    sides = _open_sides(graph, detector, parameters, source)
    batches = [_compare_batch(sides, batch) for batch in _input_batches(images, graph.metadata)]
    return EndToEnd(
        logits=_worst(batch.logits for batch in batches),
        deltas=_worst(batch.deltas for batch in batches),
        pairing=sum((batch.pairing for batch in batches), start=NOTHING_PAIRED),
        batch_differences=sum(batch.batch_differences for batch in batches),
        misfits=sum(batch.misfits for batch in batches),
        nonfinite=sum(batch.nonfinite for batch in batches),
        num_images=sum(batch.num_images for batch in batches),
    )


class _Answer(NamedTuple):
    """One side's answer for a batch; the last two are empty where NMS is not in the graph."""

    heads: Outputs
    candidates: Outputs
    padded: Outputs


@dataclass(frozen=True)
class _Sides:
    """The checkpoint, and the graph as it is (`run`) and with its inner values (`inspect`)."""

    detector: Detector
    parameters: PostprocessParameters
    graph: GraphFile
    source: str
    run: RunGraph
    inspect: RunGraph

    @property
    def with_nms(self) -> bool:
        return self.graph.metadata.nms == "op"

    @torch.inference_mode()
    def ask_checkpoint(self, pixels: Tensor) -> _Answer:
        heads = self.detector(pixels)
        if not self.with_nms:
            return _Answer(to_arrays(heads), [], [])
        image_hw = pixels.shape[2], pixels.shape[3]
        candidates = self.detector.candidates(
            heads, image_hw=image_hw, pre_topk=self.parameters.pre_topk
        )
        padded = self.suppress(candidates, pixels)
        return _Answer(to_arrays(heads), to_arrays(candidates), padded)

    def suppress(self, candidates: Candidates, pixels: Tensor) -> Outputs:
        """Run PyTorch's NMS stage on what either side found in these images."""
        image_hw = pixels.shape[2], pixels.shape[3]
        return to_arrays(self.detector.suppress(candidates, self.parameters, image_hw=image_hw))

    def ask_graph(self, pixels: Tensor) -> _Answer:
        if not self.with_nms:
            return _Answer(self.ask_file(pixels), [], [])
        found = self.inspect(INNER_NAMES + OUTPUT_NAMES, {INPUT_NAME: pixels.numpy()})
        self._check(found[5:], pixels)
        return _Answer(found[:2], found[2:5], found[5:])

    def ask_file(self, pixels: Tensor) -> Outputs:
        """Return the outputs of the graph as it is."""
        names = OUTPUT_NAMES if self.with_nms else HEAD_NAMES
        outputs = self.run(names, {INPUT_NAME: pixels.numpy()})
        self._check(outputs, pixels)
        return outputs

    def _check(self, outputs: Outputs, pixels: Tensor) -> None:
        check_answer(outputs, self.graph.metadata, num_images=len(pixels), source=self.source)


def _open_sides(
    graph: GraphFile, detector: Detector, parameters: PostprocessParameters, source: str
) -> _Sides:
    run = open_graph(graph.model.SerializeToString(), source=source)
    if graph.metadata.nms == "none":
        return _Sides(detector, parameters, graph, source, run, inspect=run)
    exposed = cut_graph(graph.model, inputs=[INPUT_NAME], outputs=INNER_NAMES + OUTPUT_NAMES)
    inspect = open_graph(exposed.SerializeToString(), source=source)
    return _Sides(detector, parameters, graph, source, run, inspect)


def _input_batches(images: Sequence[Path], metadata: GraphMetadata) -> Iterator[Tensor]:
    """Yield a blank and noise, white and with the smooth structure of photos; then the photos."""
    height, width = metadata.image_hw or _probe_size(metadata)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(1, 3, height, width, generator=generator)
    coarse = torch.randn(1, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    yield torch.cat([torch.zeros(1, 3, height, width), white, smooth])
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    examples = (prepare_image(read_image(path), sizing) for path in images)
    for _, same_canvas in groupby(examples, key=lambda example: example.canvas_hw):
        while batch := list(islice(same_canvas, _BATCH)):
            yield collate(batch).images.normalised()


def _probe_size(metadata: GraphMetadata) -> tuple[int, int]:
    """Return a small size, not square and not the one that the graph was exported with."""
    return metadata.min_side + 7 * STRIDE_MULTIPLE, metadata.min_side + 3 * STRIDE_MULTIPLE


def _compare_batch(sides: _Sides, pixels: Tensor) -> EndToEnd:
    ours, theirs = sides.ask_checkpoint(pixels), sides.ask_graph(pixels)
    logits, deltas = (
        _distance(one, other) for one, other in zip(ours.heads, theirs.heads, strict=True)
    )
    alone = [sides.ask_file(pixels[row : row + 1]) for row in range(len(pixels))]
    answers = [theirs.heads, theirs.padded, *alone]
    padded = [theirs.padded, *alone] if sides.with_nms else []
    return EndToEnd(
        logits=logits,
        deltas=deltas,
        pairing=_pair_answers(sides, pixels, ours, theirs) if sides.with_nms else NOTHING_PAIRED,
        batch_differences=sum(
            _differs_in_batch(sides, pixels, row, answer, theirs)
            for row, answer in enumerate(alone)
        ),
        misfits=sum(_count_misfits(outputs, sides) for outputs in padded),
        nonfinite=sum(int((~np.isfinite(output)).sum()) for part in answers for output in part),
        num_images=len(pixels),
    )


def _distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


def _pair_answers(sides: _Sides, pixels: Tensor, first: _Answer, second: _Answer) -> Pairing:
    pairs = zip(split_rows(first.padded), split_rows(second.padded), strict=True)
    pairings = [pair_detections(one, other, _limits(sides)) for one, other in pairs]
    pairing = sum(pairings, start=NOTHING_PAIRED)
    if pairing.unpaired and _explained_by_ties(sides, pixels, first, second):
        borderline = pairing.borderline + pairing.unpaired
        return replace(pairing, borderline=borderline, unpaired=0)
    return pairing


def _limits(sides: _Sides) -> PairingLimits:
    return PairingLimits(
        score_threshold=sides.parameters.score_threshold,
        iou_threshold=sides.parameters.iou_threshold,
        max_detections=sides.parameters.max_detections,
    )


def _explained_by_ties(sides: _Sides, pixels: Tensor, first: _Answer, second: _Answer) -> bool:
    if not same_shapes(first.candidates, second.candidates):
        return False
    pairs = zip(split_rows(first.candidates), split_rows(second.candidates), strict=True)
    limits = _limits(sides)
    pairings = [
        pair_candidates(
            *pair,
            max_score_difference=limits.max_score_difference,
            score_threshold=limits.score_threshold,
        )
        for pair in pairs
    ]
    equal = all(pairing.unpaired == 0 for pairing in pairings)
    return equal and all(_is_own_suppression(sides, pixels, side) for side in (first, second))


def _is_own_suppression(sides: _Sides, pixels: Tensor, answer: _Answer) -> bool:
    boxes_xyxy, scores, labels = (torch.from_numpy(value) for value in answer.candidates)
    return equal_outputs(sides.suppress((boxes_xyxy, scores, labels), pixels), answer.padded)


def _differs_in_batch(
    sides: _Sides, pixels: Tensor, row: int, alone: Outputs, together: _Answer
) -> bool:
    """Tell whether the graph as it is, given one image, differs from its answer in the batch."""
    in_batch = _Answer(*([output[row : row + 1] for output in part] for part in together))
    if not sides.with_nms:
        pairs = zip(alone, in_batch.heads, strict=True)
        return not all(_distance(one, other) <= MAX_HEAD_DIFFERENCE for one, other in pairs)
    (one,), (other,) = split_rows(alone), split_rows(in_batch.padded)
    if pair_detections(one, other, _limits(sides)).unpaired == 0:
        return False
    # The runtime fuses other operators in the graph with its inner values exposed, so near ties may
    # fall otherwise there: the boxes are then no criterion, the list of scores still is.
    limit = _limits(sides).max_score_difference
    same_scores = _distance(alone[1], in_batch.padded[1]) <= limit
    image = pixels[row : row + 1]
    inspected = sides.ask_graph(image)
    return not (same_scores and _explained_by_ties(sides, image, inspected, in_batch))


def _count_misfits(padded: Outputs, sides: _Sides) -> int:
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
