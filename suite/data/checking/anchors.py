"""Which boxes no anchor of a detector reaches: the best IoU of each box with all anchors, exactly.

All anchors of one shape on one level stand on a grid of columns times rows, so the overlap with a
box is the product of an overlap in x, which only the column decides, and one in y, which only the
row decides. Both fall with the distance of the centres: the nearest column and the nearest row make
the best anchor of that shape, and no other needs to be looked at. The grids are taken from the
detector's real anchors.

Shape letters: M boxes, L levels, S shapes of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anchors import (
    RETINANET_SHAPES,
    SSD300_LEVELS,
    Rounding,
    build_retinanet_anchors,
    build_retinanet_shapes,
    build_ssd_anchors,
    retinanet_cells,
)
from suite.recipe import Recipe
from suite.recipe_sections import Resize
from suite.sizing import Sizing, build_sizing

REACHED_IOU: Final = 0.5  # from here on both detectors make an anchor learn a box

Hw = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """The anchors of one level: every shape at every crossing of a column and a row.

    Attributes:
        columns, rows: float64, ascending; x and y of the centres.
        shapes_wh: float64 [S,2].
    """

    columns: NDArray[np.float64]
    rows: NDArray[np.float64]
    shapes_wh: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DetectorAnchors:
    """A detector's anchors, and how images are fitted to its input.

    Attributes:
        name: of the detector.
        sizing: in evaluation; training crops and varies it.
        grids: from the height and width of the input to the levels.
    """

    name: str
    sizing: Sizing
    grids: Callable[[Hw], tuple[Grid, ...]]

    def best_ious(
        self, boxes_xyxy: NDArray[np.float32], image_hw: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the IoU of each box with the anchor that overlaps it most, float64 [M].

        Args:
            boxes_xyxy: [M,4], in pixels of the images.
            image_hw: [M,2], the size of the image of each box.
        """
        sizes, owner = np.unique(image_hw, axis=0, return_inverse=True)
        owner = owner.reshape(-1)
        from_hw = [(height, width) for height, width in sizes.tolist()]
        to_hw = np.array([self.sizing.resized_hw(hw) for hw in from_hw]).reshape(-1, 2)
        factors = (to_hw / sizes)[:, ::-1]
        scaled = boxes_xyxy * np.tile(factors, 2)[owner]

        canvases = [self.sizing.canvas_hw(hw) for hw in from_hw]
        best = np.zeros(len(boxes_xyxy))
        for canvas in set(canvases):
            rows = np.flatnonzero(np.array([canvas == other for other in canvases])[owner])
            best[rows] = find_best_ious(scaled[rows], self.grids(canvas))
        return best


def find_best_ious(boxes_xyxy: NDArray[np.float64], grids: Sequence[Grid]) -> NDArray[np.float64]:
    """Return the largest IoU of each box with any anchor, float64 [M]; boxes have an area."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    areas = sides.prod(axis=1)
    best = np.zeros(len(boxes_xyxy))
    for grid in grids:
        x = _find_nearest(grid.columns, centres[:, 0])
        y = _find_nearest(grid.rows, centres[:, 1])
        for width, height in grid.shapes_wh.tolist():
            overlap = _overlap(x, width, boxes_xyxy[:, 0::2]) * _overlap(
                y, height, boxes_xyxy[:, 1::2]
            )
            np.maximum(best, overlap / (areas + width * height - overlap), out=best)
    return best


def build_detector_anchors(recipe: Recipe | None) -> tuple[DetectorAnchors, ...]:
    """Return the detector of a recipe; without one, SSD at 300 and RetinaNet at 800 x 1333."""
    if recipe is None:
        pad = Resize(mode="pad", short_side=800, long_side=1333)
        return _build_ssd(Resize()), _build_retinanet("retinanet", pad, "exact")
    if recipe.detector.name == "ssd_r34":
        return (_build_ssd(recipe.resize),)
    rounding = recipe.detector.variant.anchors
    return (_build_retinanet(recipe.detector.name, recipe.resize, rounding),)


def _build_ssd(resize: Resize) -> DetectorAnchors:
    @cache
    def grids(image_hw: Hw) -> tuple[Grid, ...]:
        counts = [level.cells**2 * level.num_shapes for level in SSD300_LEVELS]
        anchors = torch.split(build_ssd_anchors(SSD300_LEVELS, image_hw[0]), counts)
        return tuple(
            _to_grid(part, (level.cells, level.cells), level.num_shapes)
            for part, level in zip(anchors, SSD300_LEVELS, strict=True)
        )

    return DetectorAnchors(name="ssd_r34", sizing=build_sizing(resize), grids=grids)


def _build_retinanet(name: str, resize: Resize, rounding: Rounding) -> DetectorAnchors:
    shapes = build_retinanet_shapes(rounding)

    @cache
    def grids(image_hw: Hw) -> tuple[Grid, ...]:
        levels = build_retinanet_anchors(image_hw, shapes, rounding=rounding)
        return tuple(
            _to_grid(level, cells, RETINANET_SHAPES)
            for level, cells in zip(levels, retinanet_cells(image_hw), strict=True)
        )

    return DetectorAnchors(name=name, sizing=build_sizing(resize), grids=grids)


def _to_grid(anchors_cxcywh: Tensor, cells: Hw, num_shapes: int) -> Grid:
    planes = anchors_cxcywh.double().numpy().reshape(*cells, num_shapes, 4)
    return Grid(planes[0, :, 0, 0].copy(), planes[:, 0, 0, 1].copy(), planes[0, 0, :, 2:].copy())


def _find_nearest(places: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    nearest: NDArray[np.float64] = places[np.searchsorted((places[1:] + places[:-1]) / 2, values)]
    return nearest


def _overlap(
    centres: NDArray[np.float64], side: float, ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how much of a side lies between each box's two `ends` [M,2]."""
    first = np.maximum(centres - side / 2, ends[:, 0])
    last = np.minimum(centres + side / 2, ends[:, 1])
    overlap: NDArray[np.float64] = np.maximum(last - first, 0.0)
    return overlap
