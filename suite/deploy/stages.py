"""The two stages of the postprocess, each on generated arrays, so whatever a detector finds.

Shape letters: N images, A anchors, K logits per anchor, P candidates, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.postprocess import Candidates, PostprocessParameters
from models.structures import HeadOutputs
from suite.deploy.graph import CANDIDATE_NAMES, cut_graph
from suite.deploy.nms_cases import build_nms_cases
from suite.deploy.pairing import Found, Pairing, PairingLimits, pair_detections
from suite.errors import InputError
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES, GraphFile
from suite.graph_session import open_graph
from suite.sizing import build_sizing

Outputs = Sequence[NDArray[Any]]
NOTHING_PAIRED = Pairing(total=0, paired=0, borderline=0, unpaired=0)

# From logits on which few candidates pass any threshold to logits on which thousands do.
_BACKGROUND_LOGITS = (20.0, 14.0, 9.0, 4.0)
# Rounding of a softmax; 1e-3 would let scores of other logits pass.
_MAX_SCORE_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class _Stages:
    """The two stages of both sides, for inputs of one size; `source` names the graph in messages.

    A graph of free height and width computes its anchors and edges from the images' shape, so its
    stages take images too; what is in them does not matter.
    """

    graph: GraphFile
    detector: Detector
    parameters: PostprocessParameters
    image_hw: tuple[int, int]
    source: str

    def run_graph(
        self, inputs: Sequence[str], values: Sequence[Tensor], outputs: Sequence[str]
    ) -> Outputs:
        feed = dict(zip(inputs, to_arrays(values), strict=True))
        if not self.graph.metadata.image_hw:
            feed[INPUT_NAME] = np.zeros((len(values[0]), 3, *self.image_hw), np.float32)
        part = cut_graph(self.graph.model, inputs=list(feed), outputs=outputs)
        return open_graph(part.SerializeToString(), source=self.source)(outputs, feed)


@torch.inference_mode()
def compare_stages(
    graph: GraphFile, detector: Detector, parameters: PostprocessParameters, *, source: str
) -> tuple[Pairing, list[bool]]:
    """Give the same heads, then the same candidates to both sides.

    A graph of free size is tried at its rule's own.

    Returns:
        how the candidates pair that the sides make of the heads, and for each array of candidates
        whether any bit of what is kept of them differs.

    Raises:
        InputError: the graph lacks these stages or does not run.
    """
    metadata = graph.metadata
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    image_hw = sizing.canvas_hw(sizing.nominal_hw)
    stages = _Stages(graph, detector, parameters, image_hw, source)
    heads = _generate_heads(detector, image_hw)
    candidates = detector.candidates(heads, image_hw=image_hw, pre_topk=parameters.pre_topk)
    found = stages.run_graph(HEAD_NAMES, heads, CANDIDATE_NAMES)
    if not same_shapes(to_arrays(candidates), found):
        raise InputError(f"{source}: makes candidates of other shapes than the checkpoint")
    pairs = [
        pair_candidates(*sides, max_score_difference=_MAX_SCORE_DIFFERENCE)
        for sides in zip(split_rows(to_arrays(candidates)), split_rows(found), strict=True)
    ]
    cases = build_nms_cases(
        parameters, num_classes=detector.num_classes, num_candidates=candidates[1].shape[1]
    )
    differs = [_differs_in_nms(stages, case) for case in [candidates, *cases]]
    return sum(pairs, start=NOTHING_PAIRED), differs


def pair_candidates(
    first: Found, second: Found, *, max_score_difference: float, score_threshold: float = -1
) -> Pairing:
    """Pair two full lists of candidates; only the last place is a threshold.

    Args:
        first, second: the lists.
        max_score_difference: of a pair.
        score_threshold: candidates that do not score more are left out.
    """
    limits = PairingLimits(
        score_threshold=score_threshold,
        iou_threshold=2,
        max_detections=len(first[1]),
        max_score_difference=max_score_difference,
    )
    return pair_detections(_above(first, score_threshold), _above(second, score_threshold), limits)


def _above(found: Found, score_threshold: float) -> Found:
    boxes_xyxy, scores, labels = found
    chosen = scores > score_threshold
    return boxes_xyxy[chosen], scores[chosen], labels[chosen]


def equal_outputs(first: Outputs, second: Outputs) -> bool:
    """Tell whether two sides' boxes, scores, labels and counts are equal in every bit."""
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def same_shapes(first: Outputs, second: Outputs) -> bool:
    """Tell whether outputs can be compared at all."""
    return [output.shape for output in first] == [output.shape for output in second]


def to_arrays(tensors: Sequence[Tensor]) -> Outputs:
    """Return tensors of the CPU as arrays."""
    return [tensor.numpy() for tensor in tensors]


def split_rows(outputs: Outputs) -> list[Found]:
    """Split the outputs of a batch into images, and those of detections at their counts."""
    boxes_xyxy, scores, labels = outputs[:3]
    counts = outputs[3] if len(outputs) > 3 else [scores.shape[1]] * len(scores)
    return [
        (boxes_xyxy[row, :count], scores[row, :count], labels[row, :count])
        for row, count in enumerate(counts)
    ]


def _differs_in_nms(stages: _Stages, case: Candidates) -> bool:
    expected = stages.detector.suppress(case, stages.parameters, image_hw=stages.image_hw)
    return not equal_outputs(
        to_arrays(expected), stages.run_graph(CANDIDATE_NAMES, case, OUTPUT_NAMES)
    )


def _generate_heads(detector: Detector, image_hw: tuple[int, int]) -> HeadOutputs:
    generator = torch.Generator().manual_seed(2)
    shape = (len(_BACKGROUND_LOGITS), detector.num_anchors(image_hw))
    logits = torch.randn(*shape, detector.num_logits, generator=generator) * 4
    background = torch.tensor(_BACKGROUND_LOGITS)[:, None]
    if detector.num_logits > detector.num_classes:
        logits[..., 0] += background
    else:
        logits -= background[..., None]
    return HeadOutputs(logits, torch.randn(*shape, 4, generator=generator) * 2)
