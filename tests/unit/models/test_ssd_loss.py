"""Matcher, mining and loss of SSD against slow float64 loops written from the definitions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.losses import hard_negatives, ssd_loss
from models.matching import UNMATCHED, gather_matched, match_anchors
from models.ssd_r34 import SSDResNet34
from models.structures import HeadOutputs, Target

SCALES = (0.1, 0.2)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Labelled:
    """One image's boxes, as people write them down."""

    boxes_xyxy: list[Box]
    labels: list[int]


def corners(anchor: Box) -> Box:
    x, y, width, height = anchor
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


def match_slowly(image: Labelled, anchors: list[Box], threshold: float) -> list[int]:
    table = [[overlap(box, corners(anchor)) for anchor in anchors] for box in image.boxes_xyxy]
    matches = [UNMATCHED] * len(anchors)
    for anchor in range(len(anchors)):
        column = [row[anchor] for row in table]
        if column and max(column) >= threshold:
            matches[anchor] = column.index(max(column))
    # Last to first: the box listed first has the last word.
    for box in reversed(range(len(table))):
        matches[table[box].index(max(table[box]))] = box
    return matches


def loss_slowly(
    logits: list[list[float]], deltas: list[list[float]], image: Labelled, anchors: list[Box]
) -> tuple[float, float]:
    """Return the classification and the box loss of one image."""
    matches = match_slowly(image, anchors, 0.5)
    entropies = []
    for row, match in zip(logits, matches, strict=True):
        wanted = 0 if match == UNMATCHED else image.labels[match] + 1
        entropies.append(math.log(sum(math.exp(value) for value in row)) - row[wanted])
    positives = [a for a, match in enumerate(matches) if match != UNMATCHED]
    negatives = [a for a, match in enumerate(matches) if match == UNMATCHED]
    hardest = sorted(negatives, key=lambda a: -entropies[a])[: 3 * len(positives)]
    classification = sum(entropies[a] for a in positives + hardest)
    box = 0.0
    for a in positives:
        x, y, width, height = anchors[a]
        x0, y0, x1, y1 = image.boxes_xyxy[matches[a]]
        wanted_deltas = (
            ((x0 + x1) / 2 - x) / width / 0.1,
            ((y0 + y1) / 2 - y) / height / 0.1,
            math.log((x1 - x0) / width) / 0.2,
            math.log((y1 - y0) / height) / 0.2,
        )
        for found, expected in zip(deltas[a], wanted_deltas, strict=True):
            error = abs(found - expected)
            box += 0.5 * error**2 if error < 1 else error - 0.5
    count = max(len(positives), 1)
    return classification / count, box / count


def pad(images: list[Labelled], *, extra: int = 0) -> Target:
    """Pad to the largest number of boxes and `extra` rows more."""
    rows = max(len(image.labels) for image in images) + extra
    boxes_xyxy = torch.zeros(len(images), rows, 4)
    labels = torch.full((len(images), rows), -1)
    for place, image in enumerate(images):
        count = len(image.labels)
        boxes_xyxy[place, :count] = torch.tensor(image.boxes_xyxy).reshape(-1, 4)
        labels[place, :count] = torch.tensor(image.labels, dtype=torch.int64)
    return Target(boxes_xyxy, labels)


# Small whole coordinates: overlaps are fractions of small numbers, so ties are exact and common,
# and float32 orders them as float64 does.
whole = st.integers(0, 12)
drawn_boxes = (
    st.tuples(whole, whole, whole, whole)
    .map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])))
    .filter(lambda box: box[2] > box[0] and box[3] > box[1])
)
drawn_images = st.lists(st.tuples(drawn_boxes, st.integers(0, 2)), max_size=5).map(
    lambda pairs: Labelled([box for box, _ in pairs], [label for _, label in pairs])
)
drawn_batches = st.lists(drawn_images, min_size=1, max_size=3).filter(
    lambda images: any(image.labels for image in images)
)
drawn_anchors = st.lists(
    st.tuples(whole, whole, st.integers(1, 8), st.integers(1, 8)), min_size=4, max_size=14
)


@settings(deadline=None, max_examples=100)
@given(drawn_batches, drawn_anchors, st.sampled_from([0.25, 0.5, 0.75]))
def test_matcher_equals_the_plain_loop(
    images: list[Labelled], anchors: list[Box], threshold: float
) -> None:
    found = match_anchors(pad(images), torch.tensor(anchors).float(), threshold)
    assert found.tolist() == [match_slowly(image, anchors, threshold) for image in images]


@settings(deadline=None, max_examples=40)
@given(drawn_batches, drawn_anchors, st.randoms(use_true_random=False))
def test_matches_depend_on_neither_padding_nor_order_of_images(
    images: list[Labelled], anchors: list[Box], random: np.random.Generator
) -> None:
    placed = torch.tensor(anchors).float()
    matches = match_anchors(pad(images), placed, 0.5)
    assert torch.equal(match_anchors(pad(images, extra=4), placed, 0.5), matches)
    order = list(range(len(images)))
    random.shuffle(order)
    shuffled = pad([images[place] for place in order])
    assert torch.equal(match_anchors(shuffled, placed, 0.5), matches[order])


def match_one(boxes_xyxy: list[Box], anchors: list[Box]) -> list[int]:
    target = pad([Labelled(boxes_xyxy, [0] * len(boxes_xyxy))])
    return match_anchors(target, torch.tensor(anchors), 0.5)[0].tolist()


def test_an_overlap_of_exactly_the_threshold_matches() -> None:
    # The second anchor shares half of the box; the first is the box itself.
    assert match_one([(0, 0, 4, 4)], [(2.0, 2.0, 4.0, 4.0), (1.0, 2.0, 2.0, 4.0)]) == [0, 0]
    assert match_one([(0, 0, 4, 4)], [(2.0, 2.0, 4.0, 4.0), (1.0, 2.0, 1.9, 4.0)]) == [0, -1]


def test_a_box_takes_its_best_anchor_below_the_threshold() -> None:
    assert match_one([(0, 0, 2, 2)], [(30.0, 30.0, 4.0, 4.0), (2.0, 2.0, 4.0, 4.0)]) == [-1, 0]


def test_a_forced_match_overrides_a_better_box() -> None:
    # The first anchor overlaps the first box by 7/8 and the second box by 1/2, which has no better.
    anchors = [(4.0, 4.0, 8.0, 8.0), (4.0, 3.5, 8.0, 7.0)]
    assert match_one([(0, 0, 8, 7)], anchors) == [0, 0]
    assert match_one([(0, 0, 8, 7), (0, 4, 8, 8)], anchors) == [1, 0]


def test_the_box_listed_first_keeps_an_anchor_both_want() -> None:
    anchors = [(4.0, 4.0, 8.0, 8.0), (40.0, 40.0, 4.0, 4.0)]
    assert match_one([(0, 0, 8, 4), (0, 0, 8, 8)], anchors) == [0, -1]
    assert match_one([(0, 0, 8, 8), (0, 0, 8, 4)], anchors) == [0, -1]


def test_matched_rows_are_gathered() -> None:
    target = pad([Labelled([(0, 0, 4, 4), (8, 8, 9, 9)], [7, 3])])
    boxes_xyxy, labels = gather_matched(target, torch.tensor([[1, UNMATCHED, 0]]))
    assert labels[0, [0, 2]].tolist() == [3, 7]
    assert boxes_xyxy[0, [0, 2]].tolist() == [[8, 8, 9, 9], [0, 0, 4, 4]]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_hard_negatives_are_the_worst_three_for_each_positive(
    anchors: list[tuple[int, bool]],
) -> None:
    entropy = torch.tensor([[float(value) for value, _ in anchors]])
    positive = torch.tensor([[flag for _, flag in anchors]])
    # sorted is stable: of equal losses the first anchor is taken.
    negatives = [a for a, (_, flag) in enumerate(anchors) if not flag]
    ranked = sorted(negatives, key=lambda a: -anchors[a][0])
    expected = sorted(ranked[: 3 * (len(anchors) - len(negatives))])
    assert hard_negatives(entropy, positive)[0].nonzero().flatten().tolist() == expected


def random_outputs(seed: int, *, num_images: int, num_anchors: int, num_logits: int) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    return HeadOutputs(
        torch.randn(num_images, num_anchors, num_logits, generator=generator) * 2,
        torch.randn(num_images, num_anchors, 4, generator=generator) * 3,
    )


def expected_losses(
    outputs: HeadOutputs, images: list[Labelled], anchors: list[Box]
) -> tuple[float, float]:
    rows = [
        loss_slowly(outputs.logits[n].tolist(), outputs.deltas[n].tolist(), image, anchors)
        for n, image in enumerate(images)
    ]
    classification, box = np.mean(rows, axis=0)
    return float(classification), float(box)


@settings(deadline=None, max_examples=60)
@given(drawn_batches, drawn_anchors, st.integers(0, 2**32))
def test_loss_equals_the_plain_loop(images: list[Labelled], anchors: list[Box], seed: int) -> None:
    outputs = random_outputs(seed, num_images=len(images), num_anchors=len(anchors), num_logits=4)
    losses = ssd_loss(
        outputs, pad(images), torch.tensor(anchors).float(), scales=SCALES, iou_threshold=0.5
    )
    expected = expected_losses(outputs, images, anchors)
    found = (losses["classification"].item(), losses["box"].item())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_detectors_loss_equals_the_plain_loop_over_its_8732_anchors() -> None:
    images = [
        Labelled([(10, 20, 40, 70), (100, 30, 290, 280), (120, 60, 160, 90)], [0, 4, 2]),
        Labelled([(5, 5, 295, 290)], [1]),
    ]
    detector = SSDResNet34(5, width=0.125)
    outputs = random_outputs(3, num_images=2, num_anchors=8732, num_logits=6)
    losses = detector.loss(outputs, pad(images), image_hw=(300, 300))
    anchors = [(x, y, w, h) for x, y, w, h in detector.anchors_cxcywh.tolist()]
    expected = expected_losses(outputs, images, anchors)
    found = (losses["classification"].item(), losses["box"].item())
    assert found == pytest.approx(expected, rel=1e-4)


def losses_of(image: Labelled, *, extra: int = 0) -> tuple[dict[str, Tensor], HeadOutputs]:
    outputs = random_outputs(5, num_images=1, num_anchors=20, num_logits=3)
    outputs = HeadOutputs(*(value.requires_grad_() for value in outputs))
    anchors = torch.rand(20, 4, generator=torch.Generator().manual_seed(6)) * 50 + 10
    losses = ssd_loss(outputs, pad([image], extra=extra), anchors, scales=SCALES, iou_threshold=0.5)
    return losses, outputs


def test_an_image_without_boxes_adds_nothing() -> None:
    losses, outputs = losses_of(Labelled([], []), extra=2)
    assert [losses["classification"].item(), losses["box"].item()] == [0.0, 0.0]
    torch.autograd.backward(sum(losses.values(), torch.zeros(())))
    for value in outputs:
        assert value.grad is not None
        assert not value.grad.any()


def test_a_box_without_area_gives_finite_losses_and_gradients() -> None:
    losses, outputs = losses_of(Labelled([(20, 20, 20, 20)], [1]))
    total = sum(losses.values(), torch.zeros(()))
    torch.autograd.backward(total)
    assert total.isfinite()
    for value in outputs:
        assert value.grad is not None
        assert value.grad.isfinite().all() and value.grad.any()


def test_only_positives_and_three_negatives_each_are_trained() -> None:
    losses, outputs = losses_of(Labelled([(20, 20, 45, 40)], [1]))
    torch.autograd.backward(sum(losses.values(), torch.zeros(())))
    logits, deltas = outputs
    assert logits.grad is not None and deltas.grad is not None
    num_positives = int(deltas.grad.any(dim=-1).sum())
    assert num_positives >= 1
    assert int(logits.grad.any(dim=-1).sum()) == 4 * num_positives


def test_losses_are_float32_whatever_the_network_ran_in() -> None:
    image = Labelled([(20, 20, 45, 40)], [1])
    outputs = random_outputs(5, num_images=1, num_anchors=20, num_logits=3)
    anchors = torch.rand(20, 4) * 50 + 10
    reduced = HeadOutputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = ssd_loss(reduced, pad([image]), anchors, scales=SCALES, iou_threshold=0.5)
    exact = HeadOutputs(*(value.float() for value in reduced))
    expected = ssd_loss(exact, pad([image]), anchors, scales=SCALES, iou_threshold=0.5)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
