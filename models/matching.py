"""Which anchor learns which box.

Shape letters: N images, A anchors, M boxes of one image (padded), no Python loop over any of them
but on the CPU, where image by image is several times as fast: nothing is computed for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from models.boxes import cxcywh_to_xyxy, intersection_over_union
from models.structures import Target

UNMATCHED = -1
IGNORED = -2

LowQuality = Literal["forced", "own_best"]


def match_anchors(target: Target, anchors_cxcywh: Tensor, iou_threshold: float) -> Tensor:
    """Return int64 [N,A]: the index of the box each anchor learns, `UNMATCHED` where none.

    An anchor takes its best box when their IoU is at least the threshold (the seed's matcher; the
    MLPerf reference asks for strictly more). Besides, every box takes its best anchor whatever the
    IoU, and where two boxes want the same anchor the one listed first keeps it.
    """

    def match(overlaps: Tensor, valid: Tensor) -> Tensor:
        best_iou, best_box = overlaps.max(dim=1)
        matches = torch.where(best_iou >= iou_threshold, best_box, UNMATCHED)
        forced = _forced_matches(overlaps.argmax(dim=2), valid, num_anchors=overlaps.shape[2])
        return torch.where(forced < valid.shape[1], forced, matches)

    return _match_images(target, anchors_cxcywh, match)


def match_with_ignored(
    target: Target,
    anchors_cxcywh: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: LowQuality,
) -> Tensor:
    """Return int64 [N,A]: the index of the box each anchor learns, `UNMATCHED` or `IGNORED`.

    An anchor takes its best box when their IoU is at least `positive_iou`, learns that it has none
    when every IoU is below `negative_iou`, and learns nothing in between. Besides, the anchors that
    overlap a box most, all of them where they are equal, learn

    - `forced`: that box, the last one where several want the same anchor (mmdetection);
    - `own_best`: the box which they overlap most themselves (torchvision, Detectron2).
    """

    def match(overlaps: Tensor, _valid: Tensor) -> Tensor:
        best_iou, best_box = overlaps.max(dim=1)
        matches = torch.where(best_iou < negative_iou, UNMATCHED, IGNORED)
        matches = torch.where(best_iou >= positive_iou, best_box, matches)
        most = overlaps.amax(dim=2, keepdim=True)
        # A box that overlaps nothing, such as padding, has no best anchor: no overlap is 2.
        is_best = overlaps == torch.where(most > 0, most, 2.0)
        if low_quality == "own_best":
            return torch.where(is_best.any(dim=1), best_box, matches)
        # Numbers of boxes in 16 bits: a quarter of the memory to go through.
        numbers = torch.arange(1, overlaps.shape[1] + 1, dtype=torch.int16, device=overlaps.device)
        forced = (is_best * numbers[:, None]).amax(dim=1).long() - 1
        return torch.where(forced >= 0, forced, matches)

    return _match_images(target, anchors_cxcywh, match)


def gather_matched(target: Target, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matched boxes `_xyxy` [N,A,4] and labels [N,A]; arbitrary where unmatched."""
    index = matches.clamp(min=0)
    boxes_xyxy = target.boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
    return boxes_xyxy, target.labels.gather(1, index)


def _match_images(
    target: Target, anchors_cxcywh: Tensor, match: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Apply `match` (overlaps [N,M,A], valid [N,M] -> [N,A]) to the batch, or image by image."""
    anchors_xyxy = cxcywh_to_xyxy(anchors_cxcywh)
    boxes_xyxy, valid = target.boxes_xyxy, target.labels >= 0
    if not valid.is_cpu:
        # Padding rows are empty boxes and overlap nothing.
        return match(intersection_over_union(boxes_xyxy, anchors_xyxy), valid)
    matches = []
    for row, count in enumerate(valid.sum(dim=1).clamp(min=1).tolist()):
        overlaps = intersection_over_union(boxes_xyxy[row, :count], anchors_xyxy)
        matches.append(match(overlaps[None], valid[row : row + 1, :count]))
    return torch.cat(matches)


def _forced_matches(best_anchor: Tensor, valid: Tensor, *, num_anchors: int) -> Tensor:
    """Return [N,A]: the lowest valid box index whose best anchor this is, M where none."""
    num_images, num_boxes = valid.shape
    box_index = torch.arange(num_boxes, device=valid.device).expand(num_images, -1)
    nobody = torch.full((num_images, num_anchors), num_boxes, device=valid.device)
    wanted = torch.where(valid, box_index, num_boxes)
    return nobody.scatter_reduce(1, best_anchor, wanted, "amin")
