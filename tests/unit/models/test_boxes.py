"""Box arithmetic against scalar float64 formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.boxes import (
    box_area,
    cxcywh_to_xyxy,
    decode,
    encode,
    intersection_over_union,
    xyxy_to_cxcywh,
)

SCALES = (0.1, 0.2)
Box = tuple[float, float, float, float]

# Whole and half pixels: exact in float32, with many touching, equal, nested and empty boxes.
halves = st.integers(0, 40).map(lambda number: number / 2)
boxes = st.tuples(halves, halves, halves, halves).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
box_lists = st.lists(boxes, min_size=1, max_size=6)


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


def tensor(rows: list[Box]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@settings(deadline=None, max_examples=80)
@given(box_lists, box_lists)
def test_overlap_equals_the_scalar_formula(first: list[Box], second: list[Box]) -> None:
    found = intersection_over_union(tensor(first), tensor(second))
    expected = [[overlap(one, other) for other in second] for one in first]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(box_lists)
def test_overlap_is_symmetric_and_one_with_itself(rows: list[Box]) -> None:
    found = intersection_over_union(tensor(rows), tensor(rows))
    assert torch.equal(found, found.T)
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found.diagonal(), (box_area(tensor(rows)) > 0).float())


def test_overlap_keeps_leading_dimensions() -> None:
    many = torch.rand(2, 3, 4).cumsum(dim=-1)
    together = intersection_over_union(many, many[:, :2])
    assert together.shape == (2, 3, 2)
    assert torch.equal(together[1], intersection_over_union(many[1], many[1, :2]))


@settings(deadline=None, max_examples=40)
@given(box_lists)
def test_formats_are_inverse(rows: list[Box]) -> None:
    assert torch.equal(cxcywh_to_xyxy(xyxy_to_cxcywh(tensor(rows))), tensor(rows))
    centre_x, centre_y, width, height = xyxy_to_cxcywh(tensor(rows))[0].tolist()
    x0, y0, x1, y1 = rows[0]
    assert (centre_x, centre_y, width, height) == ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)


def random_boxes(seed: int, count: int = 50) -> tuple[Tensor, Tensor]:
    """Boxes with sides of 5 to 200 px, as corners, and anchors of as many kinds, 10 to 300 px.

    So no side is further from its anchor's than `decode` lets it be.
    """
    generator = torch.Generator().manual_seed(seed)
    corner, side, centre, size = torch.rand(4, count, 2, generator=generator)
    corner, side = corner * 250, 5 + side * 195
    anchors_cxcywh = torch.cat([centre * 300, 10 + size * 290], dim=1)
    return torch.cat([corner, corner + side], dim=1), anchors_cxcywh


def test_encode_equals_the_papers_formula() -> None:
    boxes_xyxy, anchors_cxcywh = random_boxes(0)
    found = encode(boxes_xyxy, anchors_cxcywh, SCALES)
    for box, anchor, deltas in zip(
        boxes_xyxy.tolist(), anchors_cxcywh.tolist(), found.tolist(), strict=True
    ):
        expected = [
            ((box[0] + box[2]) / 2 - anchor[0]) / anchor[2] / 0.1,
            ((box[1] + box[3]) / 2 - anchor[1]) / anchor[3] / 0.1,
            math.log((box[2] - box[0]) / anchor[2]) / 0.2,
            math.log((box[3] - box[1]) / anchor[3]) / 0.2,
        ]
        assert deltas == pytest.approx(expected, abs=1e-3, rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_decode_inverts_encode(seed: int) -> None:
    boxes_xyxy, anchors_cxcywh = random_boxes(seed)
    back = decode(encode(boxes_xyxy, anchors_cxcywh, SCALES), anchors_cxcywh, SCALES)
    assert (back - boxes_xyxy).abs().max() < 2e-3


def test_zero_deltas_give_the_anchor() -> None:
    _, anchors_cxcywh = random_boxes(1)
    found = decode(torch.zeros(3, 50, 4), anchors_cxcywh, SCALES)
    assert torch.equal(found, cxcywh_to_xyxy(anchors_cxcywh).expand(3, -1, -1))


@pytest.mark.parametrize(
    ("delta", "sides"), [(1e30, (1000, 2000)), (4.2, (1000, 2000)), (-1e30, (0.256, 0.512))]
)
def test_a_wild_size_delta_stays_within_detectrons_ratio(
    delta: float, sides: tuple[float, float]
) -> None:
    # 1000/16 = 62.5 times the anchor's sides, or that part of them.
    anchor = torch.tensor([[150.0, 150.0, 16.0, 32.0]])
    for scales in (SCALES, (1.0, 1.0)):
        deltas = torch.tensor([[0.0, 0.0, delta / scales[1], delta / scales[1]]])
        x0, y0, x1, y1 = decode(deltas, anchor, scales)[0].tolist()
        assert (x1 - x0, y1 - y0) == pytest.approx(sides, rel=1e-4)


def test_a_box_without_area_encodes_to_finite_deltas() -> None:
    _, anchors_cxcywh = random_boxes(2)
    assert encode(torch.zeros(50, 4), anchors_cxcywh, SCALES).isfinite().all()
