"""The anchors of both detectors are the published ones, in the order the heads write."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.anchors import (
    SSD300_LEVELS,
    Rounding,
    build_retinanet_anchors,
    build_retinanet_shapes,
    build_ssd_anchors,
    retinanet_cells,
)

# As the paper and the published code have them: fractions of the image, cells of 1 / (300 / step).
CELLS = (38, 19, 10, 5, 3, 1)
STEPS = (8, 16, 32, 64, 100, 300)
SCALES = (21, 45, 99, 153, 207, 261, 315)
RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


def unclamped_anchors() -> NDArray[np.float64]:
    """Loop over level, row, column, shape; pixels of a 300x300 input."""
    anchors = []
    for level, cells in enumerate(CELLS):
        frequency = 300 / STEPS[level]
        small, large = SCALES[level] / 300, SCALES[level + 1] / 300
        sizes = [(small, small), (math.sqrt(small * large), math.sqrt(small * large))]
        for ratio in RATIOS[level]:
            wide, tall = small * math.sqrt(ratio), small / math.sqrt(ratio)
            sizes += [(wide, tall), (tall, wide)]
        for row in range(cells):
            for column in range(cells):
                for width, height in sizes:
                    anchors.append(
                        ((column + 0.5) / frequency, (row + 0.5) / frequency, width, height)
                    )
    return np.array(anchors) * 300


@pytest.fixture(scope="module")
def anchors() -> NDArray[np.float32]:
    built = build_ssd_anchors(SSD300_LEVELS, 300)
    assert built.dtype == torch.float32
    return built.numpy()


def test_equal_a_plain_loop_over_the_published_formula(anchors: NDArray[np.float32]) -> None:
    expected = unclamped_anchors().clip(0, 300)
    assert anchors.shape == (8732, 4)
    assert np.abs(anchors - expected).max() < 5e-5


def test_levels_have_the_published_counts() -> None:
    counts = [level.cells**2 * level.num_shapes for level in SSD300_LEVELS]
    assert counts == [5776, 2166, 600, 150, 36, 4]


def test_clamping_moves_116_of_them(anchors: NDArray[np.float32]) -> None:
    moved = np.abs(anchors - unclamped_anchors()).max(axis=1) > 1e-3
    assert moved.sum() == 116
    # The last row and column of the 10x10 map, and the two long ones of the 1x1 map.
    assert moved[5776 + 2166 : 5776 + 2166 + 600].sum() == (10 + 9) * 6
    assert moved[-4:].tolist() == [False, False, True, True]
    assert anchors[-2:, 2:].ravel() == pytest.approx([300, 184.555, 184.555, 300], abs=1e-3)


@pytest.mark.parametrize(
    ("start", "sizes"),
    [
        (0, [(21, 21), (30.741, 30.741), (29.698, 14.849)]),
        (5776, [(45, 45), (66.746, 66.746), (63.640, 31.820), None, (77.942, 25.981)]),
        (7942, [(99, 99), (123.073, 123.073), (140.007, 70.004), None, (171.473, 57.158)]),
        (8542, [(153, 153), (177.963, 177.963), (216.375, 108.187), None, (265.004, 88.335)]),
        (8692, [(207, 207), (232.437, 232.437), (292.742, 146.371)]),
        (8728, [(261, 261), (286.732, 286.732)]),
    ],
)
def test_first_cell_has_the_published_sizes(
    anchors: NDArray[np.float32], start: int, sizes: list[tuple[float, float] | None]
) -> None:
    for place, size in enumerate(sizes):
        wanted = size or (sizes[place - 1] or (0.0, 0.0))[::-1]
        assert anchors[start + place, 2:] == pytest.approx(wanted, abs=6e-4)


# RetinaNet: strides of the levels, the three scales of mmdetection's `octave_base_scale` 4 and
# `scales_per_octave` 3, and ratios of height to width.
STRIDES = (8, 16, 32, 64, 128)
OCTAVES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
ASPECTS = (0.5, 1.0, 2.0)
LARGE = (800, 1344)


def build_levels(
    image_hw: tuple[int, int], rounding: Rounding = "exact"
) -> list[NDArray[np.float32]]:
    shapes = build_retinanet_shapes(rounding)
    return [level.numpy() for level in build_retinanet_anchors(image_hw, shapes, rounding=rounding)]


def count_cells(side: int) -> list[int]:
    """Sizes of P3 to P7: each convolution of stride 2 halves and rounds up."""
    sizes = [side]
    for _ in range(7):
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes[3:]


def exact_anchors(image_hw: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Loop over level, row, column, ratio, scale."""
    levels = []
    for stride, rows, columns in zip(STRIDES, *map(count_cells, image_hw), strict=True):
        levels.append(
            [
                (x * stride, y * stride, size / math.sqrt(ratio), size * math.sqrt(ratio))
                for y in range(rows)
                for x in range(columns)
                for ratio in ASPECTS
                for size in (octave * stride for octave in OCTAVES)
            ]
        )
    return [np.array(level) for level in levels]


def torchvision_anchors(image_hw: tuple[int, int]) -> list[NDArray[np.float64]]:
    """Loop over corners, as torchvision's RetinaNet has them.

    Sizes are x, int(x * 2 ** (1/3)), int(x * 2 ** (2/3)) for x = 32, 64, ... 512; corners are half
    of the sides, rounded; cells are as far apart as whole pixels of the image fit.
    """
    levels = []
    for number, (rows, columns) in enumerate(zip(*map(count_cells, image_hw), strict=True)):
        base = 32 * 2**number
        sizes = [base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))]
        step_y, step_x = image_hw[0] // rows, image_hw[1] // columns
        level = []
        for y in range(rows):
            for x in range(columns):
                for ratio in ASPECTS:
                    for size in sizes:
                        root = np.sqrt(np.float32(ratio))
                        half_height = np.round(root * np.float32(size) / 2)
                        half_width = np.round(np.float32(size) / root / 2)
                        level.append((x * step_x, y * step_y, 2 * half_width, 2 * half_height))
        levels.append(np.array(level, dtype=np.float64))
    return levels


@pytest.mark.parametrize("image_hw", [(800, 1344), (1344, 800), (96, 160), (33, 129), (1, 1)])
def test_maps_are_halved_and_rounded_up(image_hw: tuple[int, int]) -> None:
    cells = list(zip(*map(count_cells, image_hw), strict=True))
    assert retinanet_cells(image_hw) == cells
    assert [len(level) for level in build_levels(image_hw)] == [9 * y * x for y, x in cells]


def test_the_published_size_has_201600_anchors() -> None:
    assert retinanet_cells(LARGE) == [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    assert sum(rows * columns for rows, columns in retinanet_cells(LARGE)) == 22_400
    levels = build_levels(LARGE)
    assert sum(map(len, levels)) == 201_600
    assert {level.dtype for level in levels} == {np.dtype(np.float32)}


def test_squares_have_the_published_sides_and_shapes_run_ratio_by_ratio() -> None:
    sides = [32, 40.317, 50.797, 64, 80.635, 101.594, 128, 161.270, 203.187]
    sides += [256, 322.540, 406.375, 512, 645.080, 812.749]
    first_cells = [level[:9] for level in build_levels(LARGE)]
    for level, cell in enumerate(first_cells):
        wanted = sides[3 * level : 3 * level + 3]
        for ratio, shapes in zip(ASPECTS, cell.reshape(3, 3, 4), strict=True):
            assert shapes[:, 3] / shapes[:, 2] == pytest.approx(ratio)
            assert np.sqrt(shapes[:, 2] * shapes[:, 3]) == pytest.approx(wanted, abs=6e-4)


def test_centres_are_multiples_of_the_stride_without_half_a_cell() -> None:
    for stride, level in zip(STRIDES, build_levels((96, 160)), strict=True):
        assert not level[:9, :2].any()
        assert not (level[:, :2] % stride).any()
    first = build_levels((96, 160))[0].reshape(12, 20, 9, 4)
    assert (first[3, 7, :, :2] == [7 * 8, 3 * 8]).all()


@pytest.mark.parametrize("image_hw", [(96, 160), (100, 70), (352, 192)])
def test_retinanets_equal_a_plain_loop(image_hw: tuple[int, int]) -> None:
    for found, wanted in zip(build_levels(image_hw), exact_anchors(image_hw), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("image_hw", [(96, 160), (100, 70), (352, 192)])
def test_torchvisions_rounding_equals_a_plain_loop(image_hw: tuple[int, int]) -> None:
    found = build_levels(image_hw, "torchvision")
    for level, wanted in zip(found, torchvision_anchors(image_hw), strict=True):
        np.testing.assert_array_equal(level, wanted)


def test_torchvisions_rounding_moves_cells_of_maps_that_are_no_whole_fraction() -> None:
    # 96 pixels over 2 cells of P6 are 48 each, not the 64 of the stride; 160 over 3 are 53.
    level = build_levels((96, 160), "torchvision")[3].reshape(2, 3, 9, 4)
    assert level[1, 2, 0, :2].tolist() == [2 * 53, 48]
    assert level[0, 0, 3:6, 2:].tolist() == [[256, 256], [322, 322], [406, 406]]
