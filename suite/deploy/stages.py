"""The two stages of the postprocess, each on generated arrays, so whatever a detector finds.

Shape letters: N images, A anchors, K logits per anchor, P candidates, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.detector import Detector
from models.postprocess import Candidates, PostprocessParameters
from models.structures import HeadOutputs
from suite.deploy.graph import CANDIDATE_NAMES
from suite.deploy.nms_cases import build_nms_cases
from suite.deploy.pairing import Found, Pairing, PairingLimits, pair_detections
from suite.deploy.parts import Outputs, open_part
from suite.deploy.sides import in_image, to_arrays
from suite.errors import InputError
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES, GraphFile
from suite.sizing import build_sizing

NOTHING_PAIRED = Pairing(total=0, paired=0, borderline=0, unpaired=0)

# From logits on which few candidates pass any threshold to logits on which thousands do.
_BACKGROUND_LOGITS = (20.0, 14.0, 9.0, 4.0)
# Rounding of a softmax; 1e-3 would let scores of other logits pass.
_MAX_SCORE_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Stages:
    """The two stages of both sides, for inputs of one size; `source` names the graph in messages.

    A graph of free height and width computes its anchors and edges from the images' shape, and one
    that prepares images the places in them, so their stages take images too; what is in them does
    not matter. Those to prepare are as large as the pictures that they become.
    """

    graph: GraphFile
    detector: Detector
    parameters: PostprocessParameters
    image_hw: tuple[int, int]
    source: str

    def run_graph(
        self, inputs: Sequence[str], values: Sequence[Tensor], outputs: Sequence[str]
    ) -> Outputs:
        """Return what the graph makes of inner values, given by name."""
        feed = dict(zip(inputs, to_arrays(values), strict=True))
        if self.graph.metadata.prepares_images:
            feed[INPUT_NAME] = np.zeros((len(values[0]), *self.picture_hw, 3), np.uint8)
        elif not self.graph.metadata.image_hw:
            feed[INPUT_NAME] = np.zeros((len(values[0]), 3, *self.image_hw), np.float32)
        run = open_part(self.graph, inputs=list(feed), outputs=outputs, source=self.source)
        return run(outputs, feed)

    @property
    def picture_hw(self) -> tuple[int, int]:
        """Height and width of the picture within the network's input."""
        if not self.graph.metadata.prepares_images:
            return self.image_hw
        sizing = build_sizing(self.graph.metadata.resize, canvas_hw=self.image_hw)
        return sizing.resized_hw(self.image_hw)

    def both_candidates(self) -> tuple[Outputs, Outputs]:
        """Return what the checkpoint and the graph make of the same generated heads.

        Raises:
            InputError: they are not of one shape.
        """
        heads = _generate_heads(self.detector, self.image_hw)
        candidates = to_arrays(
            self.detector.candidates(
                heads, image_hw=self.image_hw, pre_topk=self.parameters.pre_topk
            )
        )
        found = self.run_graph(HEAD_NAMES, heads, CANDIDATE_NAMES)
        if not same_shapes(candidates, found):
            raise InputError(f"{self.source}: makes candidates of other shapes than the checkpoint")
        return candidates, found


def open_stages(
    graph: GraphFile, detector: Detector, parameters: PostprocessParameters, *, source: str
) -> Stages:
    """Return the stages of a graph with NMS; one of free size is tried at its rule's own."""
    sizing = build_sizing(graph.metadata.resize, canvas_hw=graph.metadata.image_hw)
    image_hw = sizing.canvas_hw(sizing.nominal_hw)
    return Stages(graph, detector, parameters, image_hw, source)


@torch.inference_mode()
def compare_stages(stages: Stages) -> tuple[Pairing, list[bool]]:
    """Give the same heads, then the same candidates to both sides.

    Returns:
        how the candidates pair that the sides make of the heads, and for each array of candidates
        whether any bit of what is kept of them differs.

    Raises:
        InputError: the graph lacks these stages or does not run.
    """
    candidates, found = stages.both_candidates()
    pairs = [
        pair_candidates(*sides, max_score_difference=_MAX_SCORE_DIFFERENCE)
        for sides in zip(split_rows(candidates), split_rows(found), strict=True)
    ]
    cases = build_nms_cases(
        stages.parameters,
        num_classes=stages.detector.num_classes,
        num_candidates=candidates[1].shape[1],
    )
    boxes_xyxy, scores, labels = (torch.from_numpy(value) for value in candidates)
    differs = [_differs_in_nms(stages, case) for case in [(boxes_xyxy, scores, labels), *cases]]
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


def split_rows(outputs: Outputs) -> list[Found]:
    """Split the outputs of a batch into images, and those of detections at their counts."""
    boxes_xyxy, scores, labels = outputs[:3]
    counts = outputs[3] if len(outputs) > 3 else [scores.shape[1]] * len(scores)
    return [
        (boxes_xyxy[row, :count], scores[row, :count], labels[row, :count])
        for row, count in enumerate(counts)
    ]


def _differs_in_nms(stages: Stages, case: Candidates) -> bool:
    padded = stages.detector.suppress(case, stages.parameters, image_hw=stages.image_hw)
    expected = in_image(to_arrays(padded), stages.picture_hw, stages.picture_hw)
    return not equal_outputs(expected, stages.run_graph(CANDIDATE_NAMES, case, OUTPUT_NAMES))


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
