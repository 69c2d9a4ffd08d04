"""Box arithmetic: formats, overlap, and the SSD / Faster R-CNN box code.

Shape letters: A anchors, M boxes; `...` any leading dimensions. Everything here is float32 tensor
arithmetic without branches on values, so that it exports and never waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Decoded widths and heights are kept within exp(_MAX_LOG_RATIO) times the anchor's and its inverse,
# so that a wild delta cannot become inf. ln(1000/16) is the limit of Detectron and mmdetection.
_MAX_LOG_RATIO = 4.135166556742356


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Return centre x, centre y, width, height of boxes [...,4]."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Return the corners of boxes [...,4] given as centre and size."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] * 0.5
    return torch.cat([centre - half, centre + half], dim=-1)


def intersection_over_union(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Return the overlap in [0,1], [...,M,A], of each of [...,M,4] with each of [...,A,4].

    Boxes without area overlap nothing, themselves included.
    """
    # One plane for each coordinate: with the four of them innermost nothing is vectorised.
    left, top, right, bottom = _planes(first_xyxy)
    other_left, other_top, other_right, other_bottom = _planes(second_xyxy)
    shared = _shared_lengths(left, right, other_left, other_right)
    shared *= _shared_lengths(top, bottom, other_top, other_bottom)
    union = box_area(first_xyxy)[..., :, None] + box_area(second_xyxy)[..., None, :] - shared
    # Where the union is not positive the shared area is zero, and 0/0 must not become NaN.
    return shared / torch.where(union > 0, union, 1.0)


def _planes(boxes_xyxy: Tensor) -> tuple[Tensor, ...]:
    return boxes_xyxy.movedim(-1, 0).contiguous().unbind(0)


def _shared_lengths(start: Tensor, end: Tensor, other_start: Tensor, other_end: Tensor) -> Tensor:
    """Return the common length of each interval [...,M] with each of the others [...,A]."""
    low = torch.maximum(start[..., :, None], other_start[..., None, :])
    high = torch.minimum(end[..., :, None], other_end[..., None, :])
    return (high - low).clamp_(min=0)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Return the area of boxes [...,4] as [...]; negative sides count as zero."""
    sides = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def encode(boxes_xyxy: Tensor, anchors_cxcywh: Tensor, scales: tuple[float, float]) -> Tensor:
    """Return the deltas [...,A,4] that turn anchors into boxes.

    Args:
        boxes_xyxy: [...,A,4], one box per anchor. Boxes without area give the deltas of a box of
            1e-3 px, finite and meant to be masked out.
        anchors_cxcywh: [A,4].
        scales: divisors of the centre and of the size deltas (SSD: 0.1 and 0.2; Liu et al. 2016.
            RetinaNet: 1 and 1).
    """
    boxes = xyxy_to_cxcywh(boxes_xyxy)
    centres = (boxes[..., :2] - anchors_cxcywh[..., :2]) / anchors_cxcywh[..., 2:] / scales[0]
    sizes = (boxes[..., 2:].clamp(min=1e-3) / anchors_cxcywh[..., 2:]).log() / scales[1]
    return torch.cat([centres, sizes], dim=-1)


def decode(deltas: Tensor, anchors_cxcywh: Tensor, scales: tuple[float, float]) -> Tensor:
    """Return the boxes `_xyxy` [...,A,4] of deltas [...,A,4]; the inverse of `encode`."""
    centres = anchors_cxcywh[..., :2] + deltas[..., :2] * scales[0] * anchors_cxcywh[..., 2:]
    ratios = (deltas[..., 2:] * scales[1]).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    return cxcywh_to_xyxy(torch.cat([centres, ratios * anchors_cxcywh[..., 2:]], dim=-1))
