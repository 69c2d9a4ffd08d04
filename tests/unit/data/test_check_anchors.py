"""The best anchor of a box, found without looking at all of them: equal to looking at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.anchors import (
    SSD300_LEVELS,
    Rounding,
    build_retinanet_anchors,
    build_retinanet_shapes,
    build_ssd_anchors,
)
from models.boxes import cxcywh_to_xyxy, intersection_over_union
from suite.data.checking.anchors import build_detector_anchors, find_best_ious
from suite.recipe import load_recipe

SSD, RETINANET = build_detector_anchors(None)
SSD_ANCHORS = build_ssd_anchors(SSD300_LEVELS, 300)


def brute_force(boxes_xyxy: np.ndarray, anchors_cxcywh: torch.Tensor) -> np.ndarray:
    boxes = torch.from_numpy(boxes_xyxy).double()
    overlaps = intersection_over_union(boxes, cxcywh_to_xyxy(anchors_cxcywh.double()))
    return overlaps.amax(dim=1).numpy()


@st.composite
def boxes_in(draw: st.DrawFn, height: int, width: int) -> np.ndarray:
    """Boxes with an area inside an image; small, whole, long and touching ones included."""
    boxes = []
    for _ in range(draw(st.integers(1, 6))):
        x0 = draw(st.floats(0, width - 1) | st.integers(0, width - 1))
        y0 = draw(st.floats(0, height - 1) | st.integers(0, height - 1))
        x1 = draw(st.floats(x0 + 0.5, max(x0 + 0.5, width)) | st.just(float(width)))
        y1 = draw(st.floats(y0 + 0.5, max(y0 + 0.5, height)) | st.just(float(height)))
        boxes.append((x0, y0, x1, y1))
    return np.array(boxes, np.float64)


@settings(max_examples=60, deadline=None)
@given(boxes_in(300, 300))
def test_ssd_equals_looking_at_all_anchors(boxes_xyxy: np.ndarray) -> None:
    found = find_best_ious(boxes_xyxy, SSD.grids((300, 300)))
    np.testing.assert_allclose(found, brute_force(boxes_xyxy, SSD_ANCHORS), atol=1e-9)


@pytest.mark.parametrize("rounding", ["exact", "torchvision"])
@pytest.mark.parametrize("canvas_hw", [(96, 160), (127, 321), (32, 32)])
def test_retinanet_equals_looking_at_all_anchors(
    rounding: Rounding, canvas_hw: tuple[int, int]
) -> None:
    recipe = load_recipe("retinanet_r50_fpn_8p", {"detector.variant.anchors": rounding})
    (detector,) = build_detector_anchors(recipe)
    shapes = build_retinanet_shapes(rounding)
    anchors = torch.cat(build_retinanet_anchors(canvas_hw, shapes, rounding=rounding))
    height, width = canvas_hw
    rng = np.random.default_rng(height)
    corners = rng.uniform(0, 1, (500, 2, 2)) ** 2 * (width, height)
    low, high = corners.min(axis=1), corners.max(axis=1)
    boxes_xyxy = np.hstack([low, np.maximum(high, low + 0.1)])
    found = find_best_ious(boxes_xyxy, detector.grids(canvas_hw))
    np.testing.assert_allclose(found, brute_force(boxes_xyxy, anchors), atol=1e-9)


def test_the_whole_input_of_retinanet() -> None:
    shapes = build_retinanet_shapes()
    anchors = torch.cat(build_retinanet_anchors((800, 1344), shapes))
    assert len(anchors) == 201_600
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1, (12, 2)) * (1333, 800)
    sides = np.exp(rng.uniform(0, 6, (12, 2)))
    boxes_xyxy = np.hstack([centres - sides / 2, centres + sides / 2])
    found = find_best_ious(boxes_xyxy, RETINANET.grids((800, 1344)))
    np.testing.assert_allclose(found, brute_force(boxes_xyxy, anchors), atol=1e-9)


def test_an_anchor_reaches_itself() -> None:
    inside = cxcywh_to_xyxy(SSD_ANCHORS.double()).numpy()[::97]
    np.testing.assert_allclose(find_best_ious(inside, SSD.grids((300, 300))), 1)


def test_boxes_are_scaled_as_their_images_are() -> None:
    boxes_xyxy = np.array([[100, 50, 142, 71], [100, 50, 142, 71], [10, 20, 52, 41]], np.float32)
    image_hw = np.array([[300, 600], [600, 300], [300, 600]])
    found = SSD.best_ious(boxes_xyxy, image_hw)
    by_hand = boxes_xyxy.astype(np.float64)
    by_hand[[0, 2], 0::2] /= 2
    by_hand[1, 1::2] /= 2
    np.testing.assert_allclose(found, brute_force(by_hand, SSD_ANCHORS), atol=1e-6)

    (lying,) = RETINANET.best_ious(boxes_xyxy[:1], np.array([[400, 600]]))
    anchors = torch.cat(build_retinanet_anchors((800, 1216), build_retinanet_shapes()))
    assert lying == pytest.approx(brute_force(by_hand[:1] * 0 + boxes_xyxy[:1] * 2, anchors)[0])


def test_no_boxes() -> None:
    none = RETINANET.best_ious(np.zeros((0, 4), np.float32), np.zeros((0, 2), np.int64))
    assert none.shape == (0,)


@pytest.mark.parametrize("name", ["ssd_r34_8p", "retinanet_r50_fpn_8p"])
def test_a_recipe_brings_its_own_detector(name: str, repository: Path) -> None:
    recipe = load_recipe(name)
    (detector,) = build_detector_anchors(recipe)
    assert detector.name == recipe.detector.name
