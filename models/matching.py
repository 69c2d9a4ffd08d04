"""Which anchor learns which box.

Shape letters: N images, A anchors, M boxes of one image (padded), no Python loop over any of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.boxes import cxcywh_to_xyxy, intersection_over_union
from models.structures import Target

UNMATCHED = -1


def match_anchors(target: Target, anchors_cxcywh: Tensor, iou_threshold: float) -> Tensor:
    """Return int64 [N,A]: the index of the box each anchor learns, `UNMATCHED` where none.

    An anchor takes its best box when their IoU is at least the threshold (the seed's matcher; the
    MLPerf reference asks for strictly more). Besides, every box takes its best anchor whatever the
    IoU, and where two boxes want the same anchor the one listed first keeps it.
    """
    valid = target.labels >= 0
    # Padding rows are empty boxes and overlap nothing; only their forced matches must be left out.
    overlaps = intersection_over_union(target.boxes_xyxy, cxcywh_to_xyxy(anchors_cxcywh))
    best_iou, best_box = overlaps.max(dim=1)
    matches = torch.where(best_iou >= iou_threshold, best_box, UNMATCHED)
    forced = _forced_matches(overlaps.argmax(dim=2), valid, num_anchors=len(anchors_cxcywh))
    return torch.where(forced < valid.shape[1], forced, matches)


def _forced_matches(best_anchor: Tensor, valid: Tensor, *, num_anchors: int) -> Tensor:
    """Return [N,A]: the lowest valid box index whose best anchor this is, M where none."""
    num_images, num_boxes = valid.shape
    box_index = torch.arange(num_boxes, device=valid.device).expand(num_images, -1)
    nobody = torch.full((num_images, num_anchors), num_boxes, device=valid.device)
    wanted = torch.where(valid, box_index, num_boxes)
    return nobody.scatter_reduce(1, best_anchor, wanted, "amin")


def gather_matched(target: Target, matches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matched boxes `_xyxy` [N,A,4] and labels [N,A]; arbitrary where unmatched."""
    index = matches.clamp(min=0)
    boxes_xyxy = target.boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
    return boxes_xyxy, target.labels.gather(1, index)
