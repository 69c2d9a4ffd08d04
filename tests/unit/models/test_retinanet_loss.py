"""RetinaNet's loss against float64 formulas written from the papers."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.losses import Normaliser, retinanet_loss
from models.matching import IGNORED, LowQuality, match_with_ignored
from models.retinanet import RetinaNet
from models.structures import HeadOutputs, Target

NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)
CPU = torch.device("cpu")
Sums = tuple[float, float, int]


def image_sums(logits: Tensor, deltas: Tensor, target: list[Any], matches: list[int]) -> Sums:
    """Return one image's summed focal loss and L1 distance, and its number of positives."""
    boxes, labels, anchors = target
    focal = distance = 0.0
    for row, match in enumerate(matches):
        if match == IGNORED:
            continue
        for label, logit in enumerate(logits[row].tolist()):
            wanted = match >= 0 and labels[match] == label
            chance = 1 / (1 + math.exp(-logit))
            truth, weight = (chance, 0.25) if wanted else (1 - chance, 0.75)
            focal -= weight * (1 - truth) ** 2 * math.log(truth)
        if match >= 0:
            x, y, width, height = anchors[row]
            x0, y0, x1, y1 = boxes[match]
            wanted_deltas = (
                ((x0 + x1) / 2 - x) / width,
                ((y0 + y1) / 2 - y) / height,
                math.log((x1 - x0) / width),
                math.log((y1 - y0) / height),
            )
            distance += sum(
                abs(found - wanted)
                for found, wanted in zip(deltas[row].tolist(), wanted_deltas, strict=True)
            )
    return focal, distance, sum(match >= 0 for match in matches)


def loss_slowly(
    outputs: HeadOutputs,
    target: Target,
    anchors_cxcywh: Tensor,
    *,
    normaliser: Normaliser,
    low_quality: LowQuality,
) -> tuple[float, float]:
    """Return the classification and the box loss; only the matches are ours."""
    matches = match_with_ignored(
        target, anchors_cxcywh, positive_iou=0.5, negative_iou=0.4, low_quality=low_quality
    )
    anchors = anchors_cxcywh.double().tolist()
    sums = [
        image_sums(
            outputs.logits[n].double(),
            outputs.deltas[n].double(),
            [target.boxes_xyxy[n].double().tolist(), target.labels[n].tolist(), anchors],
            matches[n].tolist(),
        )
        for n in range(len(matches))
    ]
    if normaliser == "batch":
        count = sum(max(positives, 1) for _, _, positives in sums)
        return sum(focal for focal, _, _ in sums) / count, sum(far for _, far, _ in sums) / count
    parts = [(focal / max(count, 1), far / max(count, 1)) for focal, far, count in sums]
    return sum(part[0] for part in parts) / len(parts), sum(part[1] for part in parts) / len(parts)


def random_batch(seed: int, counts: tuple[int, ...]) -> tuple[HeadOutputs, Target, Tensor]:
    """As many boxes of 10 to 60 px as counted, and 60 anchors, some of them near boxes."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, *counts)
    corner, side = torch.rand(2, len(counts), rows, 2, generator=generator)
    boxes_xyxy = torch.cat([corner * 60, corner * 60 + 10 + side * 50], dim=2)
    labels = torch.randint(3, (len(counts), rows), generator=generator)
    for place, count in enumerate(counts):
        boxes_xyxy[place, count:] = 0
        labels[place, count:] = -1
    near = boxes_xyxy.flatten(0, 1)[labels.flatten() >= 0]
    near = torch.cat([(near[:, :2] + near[:, 2:]) / 2, near[:, 2:] - near[:, :2]], dim=1)
    near = near * (1 + 0.2 * torch.randn(len(near), 4, generator=generator).clamp(-1, 1))
    centre, size = torch.rand(2, 60 - len(near), 2, generator=generator)
    anchors_cxcywh = torch.cat([near, torch.cat([centre * 100, 8 + size * 60], dim=1)])
    outputs = HeadOutputs(
        torch.randn(len(counts), 60, 3, generator=generator) * 3,
        torch.randn(len(counts), 60, 4, generator=generator),
    )
    return outputs, Target(boxes_xyxy, labels), anchors_cxcywh


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple),
    st.sampled_from(NORMALISERS),
    st.sampled_from(get_args(LowQuality)),
)
def test_loss_equals_the_plain_formulas(
    seed: int, counts: tuple[int, ...], normaliser: Normaliser, low_quality: LowQuality
) -> None:
    batch = random_batch(seed, counts)
    losses = retinanet_loss(*batch, normaliser=normaliser, low_quality=low_quality)
    expected = loss_slowly(*batch, normaliser=normaliser, low_quality=low_quality)
    found = (losses["classification"].item(), losses["box"].item())
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_detectors_loss_equals_the_plain_formulas_over_its_anchors(normaliser: Normaliser) -> None:
    image_hw = (64, 96)
    detector = RetinaNet(4, depth=18, width=0.125, normaliser=normaliser)
    generator = torch.Generator().manual_seed(4)
    num_anchors = detector.num_anchors(image_hw)
    outputs = HeadOutputs(
        torch.randn(2, num_anchors, 4, generator=generator) - 4,
        torch.randn(2, num_anchors, 4, generator=generator) * 0.3,
    )
    boxes = [[[4.0, 6, 40, 30], [30, 8, 90, 60]], [[50, 40, 62, 50], [0, 0, 0, 0]]]
    target = Target(torch.tensor(boxes), torch.tensor([[0, 3], [2, -1]]))
    losses = detector.loss(outputs, target, image_hw=image_hw)
    anchors_cxcywh = torch.cat(detector.anchors(image_hw))
    expected = loss_slowly(
        outputs, target, anchors_cxcywh, normaliser=normaliser, low_quality="forced"
    )
    found = (losses["classification"].item(), losses["box"].item())
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_two_normalisers_weigh_images_differently() -> None:
    batch = random_batch(1, (5, 1))
    by_batch, by_image = (
        retinanet_loss(*batch, normaliser=normaliser, low_quality="forced")
        for normaliser in ("batch", "image")
    )
    assert by_batch["box"].item() != pytest.approx(by_image["box"].item(), rel=1e-3)
    alone = (
        HeadOutputs(*(value[:1] for value in batch[0])),
        Target(batch[1].boxes_xyxy[:1], batch[1].labels[:1]),
    )
    one, other = (
        retinanet_loss(*alone, batch[2], normaliser=normaliser, low_quality="forced")
        for normaliser in ("batch", "image")
    )
    assert {name: value.item() for name, value in one.items()} == pytest.approx(
        {name: value.item() for name, value in other.items()}
    )


def without_boxes(num_images: int) -> tuple[HeadOutputs, Target, Tensor]:
    outputs, target, anchors_cxcywh = random_batch(2, (3,) * num_images)
    nothing = Target(
        torch.zeros_like(target.boxes_xyxy), torch.full_like(target.labels, fill_value=-1)
    )
    return outputs, nothing, anchors_cxcywh


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_images_without_boxes_count_as_one_positive_each(normaliser: Normaliser) -> None:
    outputs, target, anchors_cxcywh = without_boxes(2)
    losses = retinanet_loss(
        outputs, target, anchors_cxcywh, normaliser=normaliser, low_quality="forced"
    )
    chance = outputs.logits.double().sigmoid()
    background = (-0.75 * chance**2 * (1 - chance).log()).sum().item()
    assert losses["box"].item() == 0.0
    assert losses["classification"].item() == pytest.approx(background / 2, rel=1e-5)


def test_an_empty_image_counts_among_the_positives_of_its_batch() -> None:
    outputs, target, anchors_cxcywh = random_batch(3, (4, 0))
    losses = retinanet_loss(
        outputs, target, anchors_cxcywh, normaliser="batch", low_quality="forced"
    )
    matches = match_with_ignored(
        target, anchors_cxcywh, positive_iou=0.5, negative_iou=0.4, low_quality="forced"
    )
    alone = retinanet_loss(
        HeadOutputs(*(value[:1] for value in outputs)),
        Target(target.boxes_xyxy[:1], target.labels[:1]),
        anchors_cxcywh,
        normaliser="batch",
        low_quality="forced",
    )
    positives = int((matches[0] >= 0).sum())
    assert losses["box"].item() == pytest.approx(alone["box"].item() * positives / (positives + 1))


def gradients(batch: tuple[HeadOutputs, Target, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of logits and deltas, and the matches."""
    outputs = HeadOutputs(*(value.requires_grad_() for value in batch[0]))
    losses = retinanet_loss(outputs, *batch[1:], normaliser="batch", low_quality="forced")
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    assert outputs.logits.grad is not None and outputs.deltas.grad is not None
    matches = match_with_ignored(
        *batch[1:], positive_iou=0.5, negative_iou=0.4, low_quality="forced"
    )
    return outputs.logits.grad, outputs.deltas.grad, matches


def test_ignored_anchors_are_not_trained_and_all_others_are() -> None:
    of_logits, of_deltas, matches = gradients(random_batch(7, (6, 6, 6)))
    ignored = matches == IGNORED
    assert ignored.any()
    assert torch.equal(of_logits.any(dim=-1), ~ignored)
    assert torch.equal(of_deltas.any(dim=-1), matches >= 0)


def test_a_box_without_area_gives_finite_losses_and_gradients() -> None:
    outputs, target, anchors_cxcywh = random_batch(8, (2,))
    target.boxes_xyxy[0, 1, 2:] = target.boxes_xyxy[0, 1, :2]
    of_logits, of_deltas, _ = gradients((outputs, target, anchors_cxcywh))
    assert of_logits.isfinite().all() and of_deltas.isfinite().all()
    assert of_logits.any()


def test_losses_are_float32_whatever_the_network_ran_in() -> None:
    outputs, target, anchors_cxcywh = random_batch(9, (3, 1))
    reduced = HeadOutputs(outputs.logits.bfloat16(), outputs.deltas.bfloat16())
    exact = HeadOutputs(*(value.float() for value in reduced))
    rules: dict[str, Any] = {"normaliser": "batch", "low_quality": "forced"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = retinanet_loss(reduced, target, anchors_cxcywh, **rules)
    expected = retinanet_loss(exact, target, anchors_cxcywh, **rules)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
