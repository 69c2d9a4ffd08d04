"""The published postprocess against slow loops, and against ours where the two must agree."""

from __future__ import annotations

import math

import torch

from models import build_detector
from models.boxes import cxcywh_to_xyxy
from models.postprocess import PostprocessParameters
from models.published_postprocess import published_postprocess
from models.structures import HeadOutputs

SCALES = (0.1, 0.2)
IMAGE_HW = (100, 100)


def parameters(max_detections: int = 8) -> PostprocessParameters:
    return PostprocessParameters(
        score_threshold=0.05, iou_threshold=0.5, max_detections=max_detections, pre_topk=1000
    )


def logits_of(scores: list[list[float]]) -> torch.Tensor:
    """Return logits [1,A,K] whose softmax gives these class scores (background takes the rest)."""
    rows = [[math.log(1 - sum(row)), *(math.log(score) for score in row)] for row in scores]
    return torch.tensor([rows])


def detect(boxes_cxcywh: list[list[float]], scores: list[list[float]]) -> list[tuple[int, int]]:
    """Return (label, anchor) of each detection; every anchor is its own box."""
    anchors = torch.tensor(boxes_cxcywh)
    outputs = HeadOutputs(logits_of(scores), torch.zeros(1, len(anchors), 4))
    boxes, _, labels, counts = published_postprocess(
        outputs, anchors, scales=SCALES, image_hw=IMAGE_HW, parameters=parameters(len(anchors))
    )
    corners = cxcywh_to_xyxy(anchors)
    return [
        (int(labels[0, row]), int((corners - boxes[0, row]).abs().sum(dim=1).argmin()))
        for row in range(int(counts[0]))
    ]


def test_an_overlap_of_exactly_the_threshold_suppresses() -> None:
    # 20x10 and its left half: IoU 0.5 to the bit.
    boxes = [[50.0, 50.0, 20.0, 10.0], [45.0, 50.0, 10.0, 10.0]]
    assert detect(boxes, [[0.6, 0.01], [0.5, 0.01]]) == [(0, 0)]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = [[50.0, 50.0, 20.0, 20.0], [50.0, 50.0, 20.0, 18.0]]
    assert detect(boxes, [[0.6, 0.01], [0.01, 0.5]]) == [(0, 0), (1, 1)]


def test_scores_at_the_threshold_are_dropped() -> None:
    boxes = [[20.0, 20.0, 10.0, 10.0], [70.0, 70.0, 10.0, 10.0]]
    assert detect(boxes, [[0.06, 0.01], [0.049, 0.01]]) == [(0, 0)]


def test_equals_ours_where_no_limit_is_reached_and_no_overlap_is_at_the_threshold() -> None:
    torch.manual_seed(0)
    detector = build_detector("ssd_r34", num_classes=3)
    outputs = HeadOutputs(torch.randn(2, 8732, 4) * 0.3, torch.randn(2, 8732, 4))
    outputs.logits[..., 0] += 6
    outputs.logits[:, ::400, 1:] += 6
    ours = detector.detect(outputs, parameters(200))
    published = detector.detect_as_published(outputs, parameters(200))
    assert int(ours[3].min()) > 10
    for mine, theirs in zip(ours, published, strict=True):
        torch.testing.assert_close(mine, theirs)
