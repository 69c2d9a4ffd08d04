"""Crops, resizes, flips and colours against facts and independent float64 arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from suite.data.transforms import (
    MEAN,
    STD,
    CropRule,
    average_colour,
    choose_crop,
    crop_boxes,
    flip_boxes,
    jitter_affine,
    normalisation_affine,
    resize_image,
    scale_boxes,
)

Window = tuple[int, int, int, int]


def boxes(*rows: Sequence[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


# Resize


def antialiased_weights(size: int, target: int) -> NDArray[np.float64]:
    """Weights [target,size] of a triangle as wide as the pixel it makes, half-pixel centres."""
    scale = max(size / target, 1.0)
    centres = (np.arange(target) + 0.5) * size / target
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / scale
    weights = (1 - distance).clip(min=0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("image_hw", [(300, 300), (61, 97), (10, 31), (24, 200)])
def test_resize_is_bilinear_and_antialiased(image_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (97, 61, 3), np.uint8)
    rows = antialiased_weights(97, image_hw[0])
    columns = antialiased_weights(61, image_hw[1])
    wanted = np.einsum("yh,hwc,xw->cyx", rows, image.astype(float), columns)
    got = resize_image(image, image_hw)
    assert (got.dtype, got.shape) == (torch.uint8, (3, *image_hw))
    assert np.abs(got.numpy() - wanted).max() <= 1.01


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(resize_image(image, (20, 30)).numpy(), image.transpose(2, 0, 1))


# Crop


class Script:
    """Stands for a generator whose draws are known."""

    def __init__(self, *rounds: tuple[int, Sequence[Sequence[float]]]) -> None:
        """Each round: place of the minimum in {0,.1,.3,.5,.7,.9}, windows (x0, y0, w, h) in [0,1].

        Windows are the last ones of the 50, all others are far too narrow. After the rounds comes
        the whole image.
        """
        self.rounds = list(rounds)
        self.sides, self.fractions = np.zeros((2, 2, 4, 50))

    def random(self, size: int | tuple[int, ...]) -> NDArray[np.float64]:
        if size == (2, 4, 50):
            return self.fractions
        # Just above and just below one in seven.
        return np.array([1 / 7 if place < len(self.rounds) else 1 / 7 - 1e-9 for place in range(4)])

    def integers(self, count: int, size: int) -> NDArray[np.int64]:
        assert (count, size) == (6, 4)
        places = np.zeros(4, np.int64)
        for number, (place, windows) in enumerate(self.rounds):
            rows = np.tile([0.0, 0.0, 1.0, 0.3], (50, 1))
            rows[50 - len(windows) :] = windows
            spare = 1 - rows[:, 2:]
            fractions = np.divide(rows[:, :2], spare, out=np.zeros((50, 2)), where=spare > 0)
            self.fractions[:, number] = fractions.T
            self.sides[:, number] = rows[:, 2:].T
            places[number] = place
        return places

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> NDArray[np.float64]:
        assert (low, high, shape) == (0.3, 1.0, (2, 4, 50))
        return self.sides


def crop(
    *rounds: tuple[int, Sequence[Sequence[float]]],
    truth: NDArray[np.float32],
    image_hw: tuple[int, int] = (200, 200),
    rule: CropRule = "all_boxes",
    factor: float = 1.0,
) -> Window:
    rng = cast(np.random.Generator, Script(*rounds))
    return choose_crop(rng, truth, image_hw=image_hw, rule=rule, factor=factor)


WHOLE = (0, 0, 200, 200)
HALF = (0.0, 0.0, 0.5, 0.5)  # of 200 x 200: (0, 0, 100, 100)


def test_the_last_valid_window_of_a_round_wins() -> None:
    off = (0.6, 0.6, 0.4, 0.4)
    windows = [HALF, (0.1, 0.1, 0.5, 0.4), off, off]
    assert crop((0, windows), truth=boxes((40, 40, 60, 60))) == (20, 20, 120, 100)


def test_the_overlap_has_to_be_strictly_more_than_the_minimum() -> None:
    truth = boxes((0, 0, 100, 50))  # IoU with HALF: exactly 0.5
    assert crop((3, [HALF]), truth=truth) == WHOLE
    assert crop((2, [HALF]), truth=truth) == (0, 0, 100, 100)
    assert crop((3, [HALF]), truth=truth, factor=0.99) == (0, 0, 100, 100)


def test_a_minimum_of_zero_still_asks_all_boxes_for_some_overlap() -> None:
    touching = boxes((40, 40, 60, 60), (100, 0, 150, 50))
    assert crop((0, [HALF]), truth=touching) == WHOLE
    assert crop((0, [HALF]), truth=touching, rule="any_box") == (0, 0, 100, 100)


def test_any_box_asks_one_box_for_the_minimum() -> None:
    truth = boxes((0, 0, 100, 60), (150, 150, 200, 200))
    assert crop((3, [HALF]), truth=truth, rule="any_box") == (0, 0, 100, 100)
    assert crop((4, [HALF]), truth=truth, rule="any_box") == WHOLE


@pytest.mark.parametrize(
    ("sides", "accepted"),
    [((0.6, 0.4), True), ((0.8, 0.4), False), ((0.4, 0.8), False), ((0.79, 0.4), True)],
)
def test_the_aspect_is_judged_in_fractions_of_the_image(
    sides: tuple[float, float], accepted: bool
) -> None:
    # 300 wide and 100 high: 0.6 x 0.4 is 180 x 40 pixels.
    truth = boxes((0, 0, 100, 30))
    window = crop((0, [(0.0, 0.0, *sides)]), truth=truth, image_hw=(100, 300))
    expected = (0, 0, round(300 * sides[0]), round(100 * sides[1]))
    assert window == (expected if accepted else (0, 0, 300, 100))


def test_a_centre_on_the_edge_is_not_inside() -> None:
    assert crop((0, [HALF]), truth=boxes((50, 50, 150, 100))) == WHOLE
    assert crop((0, [HALF]), truth=boxes((49, 50, 149, 100))) == (0, 0, 100, 100)


def test_a_round_without_a_valid_window_is_followed_by_another() -> None:
    truth = boxes((0, 0, 100, 50))
    assert crop((5, [HALF]), (0, [HALF]), truth=truth) == (0, 0, 100, 100)


def test_rounds_are_drawn_until_one_is_accepted() -> None:
    # No window but the whole image meets both corners, which one round in seven keeps.
    corners = boxes((0, 0, 0.4, 0.4), (8.6, 8.6, 9, 9))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        window = choose_crop(rng, corners, image_hw=(9, 9), rule="all_boxes", factor=1.0)
        assert window == (0, 0, 9, 9)


def test_no_crop_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    window = choose_crop(rng, boxes((1, 1, 2, 2)), image_hw=(7, 9), rule="none", factor=1.0)
    assert window == (0, 0, 9, 7)
    assert rng.random() == np.random.default_rng(0).random()


def test_one_image_in_seven_is_kept_whole() -> None:
    rng, truth, whole = np.random.default_rng(0), boxes((0, 0, 64, 64)), 0
    for _ in range(4000):
        window = choose_crop(rng, truth, image_hw=(64, 64), rule="all_boxes", factor=0.0)
        whole += window == (0, 0, 64, 64)
    assert abs(whole - 4000 / 7) < 5 * math.sqrt(4000 * (1 / 7) * (6 / 7))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, int], NDArray[np.float32]]:
    height, width = draw(st.integers(2, 640)), draw(st.integers(2, 640))
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        x0, y0 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
        x1, y1 = draw(st.floats(x0 + 0.5, width)), draw(st.floats(y0 + 0.5, height))
        rows.append((x0, y0, x1, y1))
    return (height, width), boxes(*rows)


@given(scenes(), st.sampled_from(["all_boxes", "any_box"]), st.integers(0, 2**32 - 1))
def test_a_crop_lies_in_the_image_and_keeps_a_box(
    scene: tuple[tuple[int, int], NDArray[np.float32]], rule: CropRule, seed: int
) -> None:
    (height, width), truth = scene
    rng = np.random.default_rng(seed)
    window = choose_crop(rng, truth, image_hw=(height, width), rule=rule, factor=1.0)
    x0, y0, x1, y1 = window
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert x1 - x0 > 0.3 * width - 1
    assert y1 - y0 > 0.3 * height - 1
    kept, stays = crop_boxes(truth, window)
    assert len(kept) == stays.sum() >= 1
    assert (kept >= 0).all()
    assert (kept <= np.array([x1 - x0, y1 - y0] * 2)).all()
    assert (kept[:, 2:] > kept[:, :2]).all()


# Boxes


def test_cropped_boxes_are_kept_by_centre_clipped_and_moved() -> None:
    truth = boxes((0, 0, 30, 30), (10, 10, 30, 30), (90, 40, 130, 60), (110, 40, 130, 60))
    kept, stays = crop_boxes(truth, (20, 10, 120, 110))
    # The centres: left of it, on its edge, inside, on its right edge.
    assert stays.tolist() == [False, False, True, False]
    assert kept.tolist() == [[70, 30, 100, 50]]
    assert kept.dtype == np.float32


def test_boxes_follow_a_resize_and_a_flip() -> None:
    truth = boxes((10, 20, 30, 60))
    assert scale_boxes(truth, from_hw=(80, 40), to_hw=(40, 80)).tolist() == [[20, 10, 60, 30]]
    assert flip_boxes(truth, width=40).tolist() == [[10, 20, 30, 60]]
    assert flip_boxes(truth, width=50).tolist() == [[20, 20, 40, 60]]
    assert flip_boxes(boxes(), width=50).shape == (0, 4)


# Colour


def test_the_average_colour_is_exact() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 301, 299), np.uint8)
    wanted = image.reshape(3, -1).astype(np.float64).mean(axis=1) / 255
    assert np.abs(average_colour(torch.from_numpy(image)) - wanted).max() < 1e-15


def apply(affine: NDArray[np.float32], rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rgb @ affine[:, :3].T.astype(float) + affine[:, 3])


def test_normalisation_gives_zero_mean_and_unit_deviation() -> None:
    got = apply(normalisation_affine(), np.stack([MEAN, MEAN + STD, MEAN - 2 * STD]))
    assert np.abs(got - [[0], [1], [-2]]).max() < 1e-6
    assert MEAN.tolist() == [0.485, 0.456, 0.406]
    assert STD.tolist() == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("seed", range(20))
def test_jitter_is_brightness_contrast_saturation_hue_in_this_order(seed: int) -> None:
    pixels = np.random.default_rng(99).random((500, 3))
    draws = np.random.default_rng(seed)
    colour = pixels + draws.uniform(-0.125, 0.125)
    contrast, saturation = draws.uniform(0.5, 1.5), draws.uniform(0.5, 1.5)
    colour = (colour - colour.mean(axis=0)) * contrast + colour.mean(axis=0)
    luma = colour @ [0.299, 0.587, 0.114]
    colour = luma[:, None] + saturation * (colour - luma[:, None])
    colour = turn_hue(colour, draws.uniform(-0.05, 0.05))
    affine = jitter_affine(np.random.default_rng(seed), pixels.mean(axis=0))
    assert np.abs(apply(affine, pixels) - (colour - MEAN) / STD).max() < 1e-5


def to_yiq(rgb: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """NTSC luma, and chroma as a complex number."""
    red, green, blue = rgb.T
    in_phase = 0.596 * red - 0.274 * green - 0.322 * blue
    quadrature = 0.211 * red - 0.523 * green + 0.312 * blue
    return 0.299 * red + 0.587 * green + 0.114 * blue, in_phase + 1j * quadrature


def turn_hue(rgb: NDArray[np.float64], turns: float) -> NDArray[np.float64]:
    luma, chroma = to_yiq(rgb)
    chroma = chroma * np.exp(2j * math.pi * turns)
    system = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    yiq = np.stack([luma, chroma.real, chroma.imag])
    return np.asarray(np.linalg.solve(system, yiq).T)


def test_jitter_fills_the_published_ranges() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([recover(jitter_affine(rng, np.zeros(3))) for _ in range(3000)])
    low, high = np.array([-0.125, 0.5, 0.5, -0.05]), np.array([0.125, 1.5, 1.5, 0.05])
    assert (drawn > low - 1e-5).all()
    assert (drawn < high + 1e-5).all()
    span = high - low
    assert (drawn.min(axis=0) < low + span / 100).all()
    assert (drawn.max(axis=0) > high - span / 100).all()
    assert np.abs(drawn.mean(axis=0) - (low + high) / 2).max() < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08


def recover(affine: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Brightness, contrast, saturation and hue (turns) from what they do to grey and to red."""
    black, grey, red = apply(affine, np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0]])) * STD + MEAN
    # The mean was given as 0: contrast scales about the brightened 0.
    brightness, contrast = black[0], grey[0] - black[0]
    _, before = to_yiq(np.array([[1.0, 0, 0]]))
    _, after = to_yiq((red - black)[None] / contrast)
    ratio = complex(after[0] / before[0])
    return brightness, contrast, abs(ratio), math.atan2(ratio.imag, ratio.real) / (2 * math.pi)
