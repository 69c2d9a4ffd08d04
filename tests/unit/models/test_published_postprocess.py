"""The published postprocess against slow loops, and against ours where the two must agree."""

from __future__ import annotations

import math

import pytest
import torch

from models import build_detector
from models.boxes import cxcywh_to_xyxy
from models.postprocess import PostprocessParameters
from models.published_postprocess import (
    published_retinanet_postprocess,
    published_ssd_postprocess,
)
from models.structures import HeadOutputs

SCALES = (0.1, 0.2)
IMAGE_HW = (100, 100)


Box = tuple[float, float, float, float]
Detection = tuple[float, int, Box]


def parameters(max_detections: int = 8, *, pre_topk: int = 1000) -> PostprocessParameters:
    return PostprocessParameters(
        score_threshold=0.05, iou_threshold=0.5, max_detections=max_detections, pre_topk=pre_topk
    )


def logits_of(scores: list[list[float]]) -> torch.Tensor:
    """Return logits [1,A,K] whose softmax gives these class scores (background takes the rest)."""
    rows = [[math.log(1 - sum(row)), *(math.log(score) for score in row)] for row in scores]
    return torch.tensor([rows])


def detect(boxes_cxcywh: list[list[float]], scores: list[list[float]]) -> list[tuple[int, int]]:
    """Return (label, anchor) of each detection; every anchor is its own box."""
    anchors = torch.tensor(boxes_cxcywh)
    outputs = HeadOutputs(logits_of(scores), torch.zeros(1, len(anchors), 4))
    boxes, _, labels, counts = published_ssd_postprocess(
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
    ours = detector.detect(outputs, parameters(200), image_hw=(300, 300))
    published = detector.detect_as_published(outputs, parameters(200), image_hw=(300, 300))
    assert int(ours[3].min()) > 10
    for mine, theirs in zip(ours, published, strict=True):
        torch.testing.assert_close(mine, theirs)


# mmdetection's RetinaNet


def random_levels(
    seed: int, *, num_classes: int = 3
) -> tuple[list[HeadOutputs], list[torch.Tensor]]:
    """Three levels of 40, 20 and 5 crowded anchors, for two images."""
    generator = torch.Generator().manual_seed(seed)
    levels, anchors = [], []
    for count in (40, 20, 5):
        centre, side = torch.rand(2, count, 2, generator=generator)
        anchors.append(torch.cat([centre * 100, 20 + side * 40], dim=1))
        logits = torch.randn(2, count, num_classes, generator=generator) * 2 - 1
        levels.append(HeadOutputs(logits, torch.randn(2, count, 4, generator=generator) * 0.4))
    return levels, anchors


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


def decode_slowly(deltas: list[float], anchor: list[float]) -> Box:
    x, y = anchor[0] + deltas[0] * anchor[2], anchor[1] + deltas[1] * anchor[3]
    width, height = anchor[2] * math.exp(deltas[2]), anchor[3] * math.exp(deltas[3])
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    x0, y0, x1, y1 = (min(max(value, 0.0), 100.0) for value in corners)
    return x0, y0, x1, y1


def detect_as_mmdetection(
    levels: list[HeadOutputs],
    anchors_cxcywh: list[torch.Tensor],
    limits: PostprocessParameters,
    image: int,
) -> list[Detection]:
    """Return (score, label, box), best first, in the steps of mmdetection's get_bboxes."""
    boxes, class_scores = [], []
    for (logits, deltas), anchors in zip(levels, anchors_cxcywh, strict=True):
        rows = [[1 / (1 + math.exp(-x)) for x in row] for row in logits[image].double().tolist()]
        best = sorted(range(len(rows)), key=lambda place: -max(rows[place]))[: limits.pre_topk]
        for place in best:
            class_scores.append(rows[place])
            boxes.append(decode_slowly(deltas[image, place].tolist(), anchors[place].tolist()))
    found: list[Detection] = []
    for label in range(len(class_scores[0])):
        kept: list[int] = []
        for place in sorted(range(len(boxes)), key=lambda at: -class_scores[at][label]):
            rivals = [overlap(boxes[place], boxes[other]) for other in kept]
            good = class_scores[place][label] > limits.score_threshold
            if good and not any(value > limits.iou_threshold for value in rivals):
                kept.append(place)
        found += [(class_scores[place][label], label, boxes[place]) for place in kept]
    return sorted(found, reverse=True)[: limits.max_detections]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("pre_topk", "max_detections"), [(1000, 60), (12, 30), (12, 7), (3, 3)])
def test_retinanets_equals_mmdetections_steps(
    seed: int, pre_topk: int, max_detections: int
) -> None:
    levels, anchors = random_levels(seed)
    limits = parameters(max_detections, pre_topk=pre_topk)
    boxes_xyxy, scores, labels, num_dets = published_retinanet_postprocess(
        levels, anchors, scales=(1.0, 1.0), image_hw=IMAGE_HW, parameters=limits
    )
    for image in range(2):
        expected = detect_as_mmdetection(levels, anchors, limits, image)
        count = int(num_dets[image])
        assert count == len(expected)
        assert labels[image, :count].tolist() == [label for _, label, _ in expected]
        wanted = [score for score, _, _ in expected]
        assert scores[image, :count].tolist() == pytest.approx(wanted, abs=1e-6)
        for found, (_, _, box) in zip(boxes_xyxy[image].tolist(), expected, strict=False):
            assert found == pytest.approx(box, abs=1e-3)
        assert not boxes_xyxy[image, count:].any() and not scores[image, count:].any()
        assert (labels[image, count:] == -1).all()


def test_an_anchor_among_the_best_brings_all_of_its_classes() -> None:
    # Ours takes the three best pairs; mmdetection the two best anchors with all their pairs.
    logits = torch.tensor([[[3.0, 2.0, -2.0], [2.5, -9, -9], [2.4, -9, -9]]])
    anchors = [torch.tensor([[20.0, 20, 10, 10], [50, 50, 10, 10], [80, 80, 10, 10]])]
    levels = [HeadOutputs(logits, torch.zeros(1, 3, 4))]
    limits = parameters(6, pre_topk=2)
    _, scores, labels, _ = published_retinanet_postprocess(
        levels, anchors, scales=(1.0, 1.0), image_hw=IMAGE_HW, parameters=limits
    )
    assert labels[0].tolist() == [0, 0, 1, 2, -1, -1]
    wanted = [1 / (1 + math.exp(-x)) for x in (3.0, 2.5, 2.0, -2.0)]
    assert scores[0, :4].tolist() == pytest.approx(wanted)


def test_a_retinanet_as_published_equals_ours_where_no_limit_is_reached() -> None:
    torch.manual_seed(1)
    image_hw = (64, 96)
    detector = build_detector("retinanet_r18_fpn", num_classes=3, width=0.125)
    num_anchors = detector.num_anchors(image_hw)
    outputs = HeadOutputs(torch.randn(2, num_anchors, 3) - 6, torch.randn(2, num_anchors, 4) * 0.3)
    outputs.logits[:, ::40] += 5
    limits = PostprocessParameters(
        score_threshold=0.05, iou_threshold=0.5, max_detections=200, pre_topk=3000
    )
    ours = detector.detect(outputs, limits, image_hw=image_hw)
    published = detector.detect_as_published(outputs, limits, image_hw=image_hw)
    assert int(ours[3].min()) > 10
    for mine, theirs in zip(ours, published, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_tiny_image_of_one_class_has_fewer_rows_than_asked_for() -> None:
    detector = build_detector("retinanet_r18_fpn", num_classes=1, width=0.125)
    num_anchors = detector.num_anchors((32, 32))
    outputs = HeadOutputs(torch.zeros(1, num_anchors, 1), torch.zeros(1, num_anchors, 4))
    limits = parameters(700, pre_topk=1000)
    ours = detector.detect(outputs, limits, image_hw=(32, 32))
    published = detector.detect_as_published(outputs, limits, image_hw=(32, 32))
    assert 0 < int(ours[3]) == int(published[3]) < num_anchors
