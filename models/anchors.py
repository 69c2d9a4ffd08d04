"""Reference boxes. All anchors are `_cxcywh` in pixels of the network input.

Order: level, row, column, shape (shape innermost), so that a head output [N,S*K,H,W] becomes
[N,H*W*S,K] by one permute and reshape. The published sources differ in this order (MLPerf keeps the
shape outermost); accuracy does not depend on it, weight conversion does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
