"""The whole postprocess against a slow float64 one; classes and images stay apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from models.postprocess import (
    Candidates,
    PaddedDetections,
    PostprocessParameters,
    clip_to_image,
    postprocess,
    select_candidates,
    select_level_candidates,
    separate_classes,
)
from models.structures import HeadOutputs

SCALES = (0.1, 0.2)
IMAGE_HW = (200, 300)
Box = tuple[float, float, float, float]
Detection = tuple[float, int, Box]


def parameters(
    *, score: float = 0.05, iou: float = 0.5, max_detections: int = 20, pre_topk: int = 60
) -> PostprocessParameters:
    return PostprocessParameters(
        score_threshold=score, iou_threshold=iou, max_detections=max_detections, pre_topk=pre_topk
    )


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


def keep_greedily(
    boxes_xyxy: list[Box], scores: list[float], *, iou: float, score: float
) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda place: -scores[place]):
        rivals = [overlap(boxes_xyxy[i], boxes_xyxy[j]) for j in kept]
        if scores[i] > score and not any(value > iou for value in rivals):
            kept.append(i)
    return kept


def decode_slowly(deltas: list[float], anchor: list[float]) -> Box:
    x, y = anchor[0] + deltas[0] * 0.1 * anchor[2], anchor[1] + deltas[1] * 0.1 * anchor[3]
    width = anchor[2] * math.exp(deltas[2] * 0.2)
    height = anchor[3] * math.exp(deltas[3] * 0.2)
    rows, columns = IMAGE_HW
    return (
        min(max(x - width / 2, 0.0), columns),
        min(max(y - height / 2, 0.0), rows),
        min(max(x + width / 2, 0.0), columns),
        min(max(y + height / 2, 0.0), rows),
    )


def detect_slowly(
    logits: NDArray[np.float64],
    deltas: NDArray[np.float64],
    anchors: NDArray[np.float64],
    limits: PostprocessParameters,
) -> list[Detection]:
    """Return (score, label, box) of one image, best first."""
    pairs = []
    for anchor, row in enumerate(logits):
        powers = [math.exp(value - max(row)) for value in row]
        pairs += [(power / sum(powers), anchor, label) for label, power in enumerate(powers[1:])]
    best = sorted(pairs, reverse=True)[: limits.pre_topk]
    found: list[Detection] = []
    for label in range(logits.shape[1] - 1):
        chosen = [(score, anchor) for score, anchor, which in best if which == label]
        boxes = [decode_slowly(deltas[a].tolist(), anchors[a].tolist()) for _, a in chosen]
        scores = [score for score, _ in chosen]
        kept = keep_greedily(boxes, scores, iou=limits.iou_threshold, score=limits.score_threshold)
        found += [(scores[place], label, boxes[place]) for place in kept]
    return sorted(found, reverse=True)[: limits.max_detections]


def random_heads(seed: int, *, num_images: int = 2) -> tuple[HeadOutputs, Tensor]:
    """40 crowded anchors and 4 logits each, so that boxes of all classes compete."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(40, 2, generator=generator) * torch.tensor([300.0, 200.0])
    sizes = 30 + torch.rand(40, 2, generator=generator) * 120
    outputs = HeadOutputs(
        torch.randn(num_images, 40, 4, generator=generator) * 2,
        torch.randn(num_images, 40, 4, generator=generator) * 2,
    )
    return outputs, torch.cat([centres, sizes], dim=1)


def detect(
    outputs: HeadOutputs, anchors_cxcywh: Tensor, limits: PostprocessParameters
) -> PaddedDetections:
    candidates = select_candidates(outputs, anchors_cxcywh, scales=SCALES, pre_topk=limits.pre_topk)
    num_classes = outputs.logits.shape[-1] - 1
    return postprocess(*candidates, num_classes=num_classes, image_hw=IMAGE_HW, parameters=limits)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "limits",
    [parameters(), parameters(score=0.0, iou=0.3, max_detections=8), parameters(pre_topk=500)],
    ids=["usual", "few places", "every pair a candidate"],
)
def test_whole_postprocess_equals_the_slow_one(seed: int, limits: PostprocessParameters) -> None:
    outputs, anchors_cxcywh = random_heads(seed)
    boxes_xyxy, scores, labels, num_dets = detect(outputs, anchors_cxcywh, limits)
    assert scores.shape == labels.shape == (2, limits.max_detections)
    for n in range(2):
        expected = detect_slowly(
            outputs.logits[n].double().numpy(),
            outputs.deltas[n].double().numpy(),
            anchors_cxcywh.double().numpy(),
            limits,
        )
        count = int(num_dets[n])
        assert count == len(expected) > 3
        assert labels[n, :count].tolist() == [label for _, label, _ in expected]
        assert scores[n, :count].tolist() == pytest.approx(
            [score for score, _, _ in expected], abs=1e-6
        )
        np.testing.assert_allclose(
            boxes_xyxy[n, :count], [box for _, _, box in expected], atol=1e-3
        )
        assert not boxes_xyxy[n, count:].any() and not scores[n, count:].any()
        assert (labels[n, count:] == -1).all()


def test_candidates_are_the_best_pairs_without_background() -> None:
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 2.0, 0.0]]])
    anchors_cxcywh = torch.tensor([[10.0, 10, 4, 4], [20, 20, 4, 4], [30, 30, 4, 4]])
    outputs = HeadOutputs(logits, torch.zeros(1, 3, 4))
    boxes_xyxy, scores, labels = select_candidates(
        outputs, anchors_cxcywh, scales=SCALES, pre_topk=2
    )
    assert labels.tolist() == [[1, 0]]
    assert boxes_xyxy.tolist() == [[[18, 18, 22, 22], [28, 28, 32, 32]]]
    assert scores[0].tolist() == pytest.approx(
        [math.exp(3) / (1 + math.e + math.exp(3)), math.exp(2) / (2 + math.exp(2))]
    )


def test_candidates_are_float32_whatever_the_network_ran_in() -> None:
    outputs, anchors_cxcywh = random_heads(0)
    reduced = HeadOutputs(outputs.logits.half(), outputs.deltas.half())
    boxes_xyxy, scores, labels = select_candidates(
        reduced, anchors_cxcywh, scales=SCALES, pre_topk=10
    )
    assert (boxes_xyxy.dtype, scores.dtype, labels.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )


def test_levels_give_their_best_pairs_each() -> None:
    levels, anchors, expected = [], [], []
    for number, count in enumerate((40, 7, 2)):
        outputs, anchors_cxcywh = random_heads(number)
        levels.append(HeadOutputs(outputs.logits[:, :count], outputs.deltas[:, :count]))
        anchors.append(anchors_cxcywh[:count])
        pairs = [
            (logit, place, label)
            for place, row in enumerate(levels[-1].logits[1].tolist())
            for label, logit in enumerate(row)
        ]
        best = sorted(pairs, reverse=True)[:20]  # the last level has only 8
        expected += [(logit, number, place, label) for logit, place, label in best]
    boxes_xyxy, scores, labels = select_level_candidates(
        levels, anchors, scales=SCALES, pre_topk=20
    )
    assert scores.shape == labels.shape == (2, 20 + 20 + 8)
    assert labels[1].tolist() == [label for *_, label in expected]
    wanted = [1 / (1 + math.exp(-logit)) for logit, *_ in expected]
    assert scores[1].tolist() == pytest.approx(wanted, rel=1e-6)
    for found, (_, number, place, _) in zip(boxes_xyxy[1].tolist(), expected, strict=True):
        deltas = levels[number].deltas[1, place].tolist()
        corners = decode_slowly(deltas, anchors[number][place].tolist())
        rows, columns = IMAGE_HW
        clipped = np.clip(found, 0, [columns, rows, columns, rows])
        assert clipped.tolist() == pytest.approx(corners, abs=1e-3)


def test_candidates_of_levels_are_float32_whatever_the_network_ran_in() -> None:
    outputs, anchors_cxcywh = random_heads(0)
    reduced = HeadOutputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16())
    found = select_level_candidates([reduced], [anchors_cxcywh], scales=SCALES, pre_topk=10)
    assert [part.dtype for part in found] == [torch.float32, torch.float32, torch.int64]


def test_boxes_are_clipped_by_width_and_height() -> None:
    clipped = clip_to_image(torch.tensor([-5.0, -6.0, 400.0, 250.0]), (200, 300))
    assert clipped.tolist() == [0, 0, 300, 200]


def crowd(seed: int, *, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, 1, size, 2, generator=generator) * 60
    return torch.cat([corner, corner + side], dim=-1), torch.rand(1, size, generator=generator)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 80, 600])
def test_boxes_of_different_classes_never_compete(num_classes: int) -> None:
    """One box as large as the image for each class: all survive."""
    boxes_xyxy = torch.tensor([0.0, 0, 300, 200]).expand(1, num_classes, 4)
    scores = torch.linspace(0.9, 0.1, num_classes)[None]
    labels = torch.arange(num_classes)[None]
    limits = parameters(iou=0.0, max_detections=num_classes)
    found = postprocess(
        boxes_xyxy, scores, labels, num_classes=num_classes, image_hw=IMAGE_HW, parameters=limits
    )
    assert torch.equal(found[0], boxes_xyxy)
    assert torch.equal(found[2], labels)


@pytest.mark.parametrize("num_classes", [3, 80, 600])
def test_classes_keep_their_boxes_apart_on_the_grid(num_classes: int) -> None:
    boxes_xyxy = torch.tensor([0.0, 0, 300, 200]).expand(1, num_classes, 4)
    apart = separate_classes(
        boxes_xyxy, torch.arange(num_classes)[None], num_classes=num_classes, image_hw=IMAGE_HW
    )[0]
    # Some coordinate of every two has a gap.
    gap_x = apart[:, None, 0] > apart[None, :, 2]
    gap_y = apart[:, None, 1] > apart[None, :, 3]
    separate = gap_x | gap_x.T | gap_y | gap_y.T
    assert torch.equal(separate, ~torch.eye(num_classes, dtype=torch.bool))
    assert apart.max() <= math.ceil(math.sqrt(num_classes)) * 301


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([2, 80, 600]))
def test_all_classes_together_equal_each_class_alone(seed: int, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes_xyxy, scores = crowd(seed, size=60)
    labels = torch.randint(max(0, num_classes - 5), num_classes, (1, 60), generator=generator)

    def run(places: Tensor) -> list[tuple[float, int, list[float]]]:
        boxes, best, classes, num_dets = postprocess(
            *reorder((boxes_xyxy, scores, labels), places),
            num_classes=num_classes,
            image_hw=IMAGE_HW,
            parameters=parameters(max_detections=len(places)),
        )
        rows = zip(best[0].tolist(), classes[0].tolist(), boxes[0].tolist(), strict=True)
        return list(rows)[: int(num_dets)]

    together = run(torch.arange(60))
    alone = [
        row
        for label in set(labels[0].tolist())
        for row in run((labels[0] == label).nonzero()[:, 0])
    ]
    assert sorted(together) == sorted(alone)
    assert together == sorted(together, key=lambda row: -row[0])


def reorder(candidates: Candidates, order: Tensor) -> Candidates:
    return candidates[0][:, order], candidates[1][:, order], candidates[2][:, order]


def test_order_of_candidates_does_not_matter() -> None:
    boxes_xyxy, scores = crowd(1, size=80)
    candidates = (boxes_xyxy, scores, torch.arange(80)[None] % 3)
    shuffled = reorder(candidates, torch.randperm(80, generator=torch.Generator().manual_seed(2)))
    first, second = (
        postprocess(*value, num_classes=3, image_hw=IMAGE_HW, parameters=parameters())
        for value in (candidates, shuffled)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_order_of_images_does_not_matter() -> None:
    outputs, anchors_cxcywh = random_heads(3, num_images=4)
    order = torch.tensor([2, 0, 3, 1])
    straight = detect(outputs, anchors_cxcywh, parameters())
    permuted = detect(
        HeadOutputs(outputs.logits[order], outputs.deltas[order]), anchors_cxcywh, parameters()
    )
    for one, other in zip(straight, permuted, strict=True):
        assert torch.equal(one[order], other)


def test_an_image_of_nan_gives_nothing_and_harms_no_other() -> None:
    outputs, anchors_cxcywh = random_heads(4)
    expected = detect(outputs, anchors_cxcywh, parameters())
    for value in outputs:
        value[1] = math.nan
    found = detect(outputs, anchors_cxcywh, parameters())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[0], other[0])
    boxes_xyxy, scores, labels, num_dets = (value[1] for value in found)
    assert num_dets == 0
    assert not boxes_xyxy.any() and not scores.any() and (labels == -1).all()
