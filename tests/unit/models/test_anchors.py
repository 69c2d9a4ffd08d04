"""The anchors are the 8,732 published ones, in the order the heads write."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.anchors import SSD300_LEVELS, build_ssd_anchors

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
