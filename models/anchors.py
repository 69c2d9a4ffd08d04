"""Reference boxes. All anchors are `_cxcywh` in pixels of the network input.

Order: level, row, column, shape (shape innermost), so that a head output [N,S*K,H,W] becomes
[N,H*W*S,K] by one permute and reshape. The published sources differ in this order (MLPerf keeps the
shape outermost); accuracy does not depend on it, weight conversion does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class SSDLevel:
    """One feature map of SSD: its cells and the anchors of each cell.

    Attributes:
        cells: rows and columns of the (square) map.
        step: distance of cell centres in input pixels.
        scale: side of the small square anchor in input pixels.
        next_scale: scale of the next level; the second square has the geometric mean.
        ratios: aspect ratios a > 1; each gives a wide and a tall anchor.
    """

    cells: int
    step: float
    scale: float
    next_scale: float
    ratios: tuple[float, ...]

    @property
    def num_shapes(self) -> int:
        """Anchors per cell."""
        return 2 + 2 * len(self.ratios)


# SSD300 for COCO. MLPerf training v0.5 to v1.1 (its reference, Google and NVIDIA agree) and the
# Ascend ModelZoo have the same numbers.
SSD300_LEVELS = (
    SSDLevel(38, 8, 21, 45, (2,)),
    SSDLevel(19, 16, 45, 99, (2, 3)),
    SSDLevel(10, 32, 99, 153, (2, 3)),
    SSDLevel(5, 64, 153, 207, (2, 3)),
    SSDLevel(3, 100, 207, 261, (2,)),
    SSDLevel(1, 300, 261, 315, (2,)),
)


def build_ssd_anchors(levels: tuple[SSDLevel, ...], image_size: int) -> Tensor:
    """Return float32 [A,4] `_cxcywh`; 8,732 for `SSD300_LEVELS` at 300.

    Centre and size are clamped to the image before anyone makes corners of them, as the published
    code does; that moves 116 of the 8,732 (the last row and column of the 10x10 map, the long sides
    of the 1x1 map). Corners may still lie outside.
    """
    anchors = torch.cat([_level_anchors(level) for level in levels])
    return anchors.clamp(0, image_size).float()


Rounding = Literal["exact", "torchvision"]

# RetinaNet (Lin et al. 2017): a level's anchors have 4 times its stride as side, times each of
# these octave scales, for each ratio of height to width. Shape order: ratio by ratio, as in
# mmdetection.
_RETINANET_STRIDES = (8, 16, 32, 64, 128)
_NUM_HALVINGS = 7
_OCTAVE_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RATIOS = (0.5, 1.0, 2.0)
RETINANET_SHAPES = len(_OCTAVE_SCALES) * len(_RATIOS)


def retinanet_cells(image_hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Return rows and columns of the maps P3 to P7, each half of the one before, rounded up."""
    rows, columns = image_hw
    cells = []
    for _ in range(_NUM_HALVINGS):
        # As convolutions count, so that an export with free sizes sees equal expressions.
        rows, columns = (rows - 1) // 2 + 1, (columns - 1) // 2 + 1
        cells.append((rows, columns))
    return cells[-len(_RETINANET_STRIDES) :]


def build_retinanet_shapes(rounding: Rounding = "exact") -> Tensor:
    """Return float32 [5,9,2]: width and height of each level's anchors, in the order above.

    Args:
        rounding: `torchvision` cuts the scaled sides to whole pixels and rounds half of each side.
    """
    return torch.tensor(
        [_retinanet_level_shapes(stride, rounding) for stride in _RETINANET_STRIDES]
    )


def build_retinanet_anchors(
    image_hw: tuple[int, int], shapes: Tensor, *, rounding: Rounding = "exact"
) -> list[Tensor]:
    """Return float32 [A_l,4] `_cxcywh` for each level l; 201,600 in all at 800x1344.

    Centres are whole multiples of the stride, without the half cell that SSD has.

    Args:
        image_hw: of the network input.
        shapes: of `build_retinanet_shapes`, on the device of the anchors; nothing is copied there.
        rounding: `torchvision` takes the number of pixels per cell, cut to a whole one, as stride.
    """
    levels = []
    cells_of_levels = retinanet_cells(image_hw)
    for stride, cells, level_shapes in zip(
        _RETINANET_STRIDES, cells_of_levels, shapes.unbind(), strict=True
    ):
        steps = (stride, stride)
        if rounding == "torchvision":
            steps = image_hw[0] // cells[0], image_hw[1] // cells[1]
        y = torch.arange(cells[0], device=shapes.device)[:, None, None] * float(steps[0])
        x = torch.arange(cells[1], device=shapes.device)[None, :, None] * float(steps[1])
        width, height = level_shapes.unbind(dim=-1)
        planes = torch.broadcast_tensors(x, y, width, height)  # type: ignore[no-untyped-call]  # torch's
        levels.append(torch.stack(planes, dim=-1).reshape(-1, 4))
    return levels


def _retinanet_level_shapes(stride: int, rounding: Rounding) -> list[tuple[float, float]]:
    sides = [4 * stride * scale for scale in _OCTAVE_SCALES]
    if rounding == "torchvision":
        # Python's round takes halves to even numbers, as torch.round does.
        return [
            (
                2.0 * round(int(side) / math.sqrt(ratio) / 2),
                2.0 * round(int(side) * math.sqrt(ratio) / 2),
            )
            for ratio in _RATIOS
            for side in sides
        ]
    return [
        (side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in _RATIOS for side in sides
    ]


def _level_anchors(level: SSDLevel) -> Tensor:
    shapes = torch.tensor(_level_shapes(level), dtype=torch.float64)
    centres = (torch.arange(level.cells, dtype=torch.float64) + 0.5) * level.step
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    cells = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2)
    cells = cells.expand(-1, len(shapes), -1)
    return torch.cat([cells, shapes.expand(len(cells), -1, -1)], dim=-1).reshape(-1, 4)


def _level_shapes(level: SSDLevel) -> list[tuple[float, float]]:
    geometric_mean = math.sqrt(level.scale * level.next_scale)
    shapes = [(level.scale, level.scale), (geometric_mean, geometric_mean)]
    for ratio in level.ratios:
        root = math.sqrt(ratio)
        shapes += [
            (level.scale * root, level.scale / root),
            (level.scale / root, level.scale * root),
        ]
    return shapes
