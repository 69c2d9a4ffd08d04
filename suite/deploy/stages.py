"""The two stages of the postprocess, each on generated arrays, so whatever a detector finds.

Shape letters: N images, A anchors, K logits per anchor, P candidates, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.postprocess import Candidates, PostprocessParameters, postprocess
from models.structures import HeadOutputs
from suite.deploy.graph import CANDIDATE_NAMES, cut_graph
from suite.deploy.nms_cases import build_nms_cases
from suite.deploy.pairing import Found, Pairing, PairingLimits, pair_detections
from suite.errors import InputError
from suite.graph_file import HEAD_NAMES, OUTPUT_NAMES
from suite.graph_session import open_graph

Outputs = Sequence[NDArray[Any]]
NOTHING_PAIRED = Pairing(total=0, paired=0, borderline=0, unpaired=0)

# From logits on which few candidates pass any threshold to logits on which thousands do.
_BACKGROUND_LOGITS = (20.0, 14.0, 9.0, 4.0)
# Rounding of a softmax; 1e-3 would let scores of other logits pass.
_MAX_SCORE_DIFFERENCE = 1e-5


@torch.inference_mode()
def compare_stages(
    model: onnx.ModelProto,
    detector: Detector,
    parameters: PostprocessParameters,
    *,
    num_anchors: int,
    source: str,
) -> tuple[Pairing, list[bool]]:
    """Give the same heads, then the same candidates to both sides.

    Returns:
        how the candidates pair that the sides make of the heads, and for each array of candidates
        whether any bit of what is kept of them differs.

    Raises:
        InputError: the graph lacks these stages or does not run.
    """
    heads = _generate_heads(num_anchors, detector.num_classes)
    candidates = detector.candidates(heads, pre_topk=parameters.pre_topk)
    part = cut_graph(model, inputs=HEAD_NAMES, outputs=CANDIDATE_NAMES)
    run = open_graph(part.SerializeToString(), source=source)
    found = run(CANDIDATE_NAMES, dict(zip(HEAD_NAMES, to_arrays(heads), strict=True)))
    if not same_shapes(to_arrays(candidates), found):
        raise InputError(f"{source}: makes candidates of other shapes than the checkpoint")
    pairs = [
        pair_candidates(*sides, max_score_difference=_MAX_SCORE_DIFFERENCE)
        for sides in zip(split_rows(to_arrays(candidates)), split_rows(found), strict=True)
    ]
    cases = build_nms_cases(
        parameters, num_classes=detector.num_classes, num_candidates=candidates[1].shape[1]
    )
    differs = _compare_nms(model, detector, parameters, [candidates, *cases], source=source)
    return sum(pairs, start=NOTHING_PAIRED), differs


def pair_candidates(first: Found, second: Found, *, max_score_difference: float) -> Pairing:
    """Pair two full lists of candidates; only the last place is a threshold."""
    limits = PairingLimits(
        score_threshold=-1,
        iou_threshold=2,
        max_detections=len(first[1]),
        max_score_difference=max_score_difference,
    )
    return pair_detections(first, second, limits)


def suppress_candidates(
    candidates: Candidates, detector: Detector, parameters: PostprocessParameters
) -> Outputs:
    """Run PyTorch's NMS stage."""
    return to_arrays(
        postprocess(
            *candidates,
            num_classes=detector.num_classes,
            image_hw=detector.image_hw,
            parameters=parameters,
        )
    )


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


def _compare_nms(
    model: onnx.ModelProto,
    detector: Detector,
    parameters: PostprocessParameters,
    cases: Sequence[Candidates],
    *,
    source: str,
) -> list[bool]:
    part = cut_graph(model, inputs=CANDIDATE_NAMES, outputs=OUTPUT_NAMES)
    run = open_graph(part.SerializeToString(), source=source)
    differs = []
    for case in cases:
        expected = suppress_candidates(case, detector, parameters)
        found = run(OUTPUT_NAMES, dict(zip(CANDIDATE_NAMES, to_arrays(case), strict=True)))
        differs.append(not equal_outputs(expected, found))
    return differs


def _generate_heads(num_anchors: int, num_classes: int) -> HeadOutputs:
    generator = torch.Generator().manual_seed(2)
    shape = (len(_BACKGROUND_LOGITS), num_anchors)
    logits = torch.randn(*shape, num_classes + 1, generator=generator) * 4
    logits[..., 0] += torch.tensor(_BACKGROUND_LOGITS)[:, None]
    return HeadOutputs(logits, torch.randn(*shape, 4, generator=generator) * 2)
