"""Candidates that try the NMS stage where it can go wrong.

Crowds with and without exact ties, of many classes and of one, alone and in a batch; boxes without
area, with corners in the other order, and beyond the image; a chain in which each box overlaps only
its neighbours; more survivors than fit; one box; none above the threshold; scores exactly at it.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from models.postprocess import Candidates, PostprocessParameters

# Of the coordinates below; the postprocess clips to the detector's real size.
_EXTENT = 300


def build_nms_cases(
    parameters: PostprocessParameters, *, num_classes: int, num_candidates: int
) -> list[Candidates]:
    """Return candidates (boxes [N,P,4], scores [N,P] descending, labels [N,P]), always the same."""
    generator = torch.Generator().manual_seed(1)
    crowds = [
        _crowd(
            (num_images, num_candidates),
            num_classes=num_classes,
            one_class=one_class,
            ties=ties,
            generator=generator,
        )
        for ties, one_class, num_images in product((False, True), (False, True), (1, 2))
    ]
    boxes_xyxy, scores, labels = crowds[0]
    falling = torch.linspace(1, parameters.score_threshold, num_candidates)[None]
    nothing = torch.zeros_like(scores)
    single = nothing.clone()
    single[0, 0] = (1 + parameters.score_threshold) / 2
    at_threshold = torch.where(scores > 0.5, scores, parameters.score_threshold)
    one_label = torch.zeros_like(labels)
    return [
        *crowds,
        (boxes_xyxy, nothing, labels),
        (boxes_xyxy, single, labels),
        (boxes_xyxy, at_threshold, labels),
        (boxes_xyxy[..., [0, 1, 0, 1]], scores, labels),
        (boxes_xyxy[:, :1].expand_as(boxes_xyxy).contiguous(), torch.ones_like(scores), labels),
        (_chain(num_candidates, parameters.iou_threshold), falling, one_label),
        (_grid(num_candidates), falling, one_label),
    ]


def _crowd(
    shape: tuple[int, int],
    *,
    num_classes: int,
    one_class: bool,
    ties: bool,
    generator: torch.Generator,
) -> Candidates:
    corners = torch.rand(*shape, 2, generator=generator) * _EXTENT * 0.4 - 20
    sides = torch.rand(*shape, 2, generator=generator) * 80 - 8
    boxes_xyxy = torch.cat([corners, corners + sides], dim=-1)
    scores = torch.rand(shape, generator=generator)
    if ties:  # whole pixels and few scores: exact ties of scores and of overlaps
        boxes_xyxy, scores = boxes_xyxy.round(), (scores * 20).round() / 20
    scores = scores.sort(dim=1, descending=True).values
    if one_class:
        return boxes_xyxy, scores, torch.full(shape, num_classes - 1)
    return boxes_xyxy, scores, torch.randint(num_classes, shape, generator=generator)


def _chain(num_boxes: int, iou_threshold: float) -> Tensor:
    """Return rows of boxes; each overlaps the next by more than the threshold, and no other."""
    side = 3.0
    step = 0.9 * side * (1 - iou_threshold) / (1 + iou_threshold)
    return _squares(num_boxes, side=side, step=max(step, 0.01))


def _grid(num_boxes: int) -> Tensor:
    return _squares(num_boxes, side=3.0, step=4.0)


def _squares(num_boxes: int, *, side: float, step: float) -> Tensor:
    """Return squares [1,P,4] side by side, in as many rows as they need."""
    columns = int((_EXTENT - side) / step)
    index = torch.arange(num_boxes)
    left = (index % columns) * step
    top = torch.div(index, columns, rounding_mode="floor") * (side + 1)
    return torch.stack([left, top, left + side, top + side], dim=-1)[None]
