"""Each detector's postprocess exactly as published, to price what `models.postprocess` changes.

In PyTorch only and slower: yardsticks, not what is exported.

Shape letters: N images, A anchors, C classes without background, P kept per class, D
`max_detections`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.boxes import decode
from models.postprocess import (
    PaddedDetections,
    PostprocessParameters,
    clip_to_image,
    suppress,
)
from models.structures import HeadOutputs


def published_ssd_postprocess(
    outputs: HeadOutputs,
    anchors_cxcywh: Tensor,
    *,
    scales: tuple[float, float],
    image_hw: tuple[int, int],
    parameters: PostprocessParameters,
) -> PaddedDetections:
    """Return the padded detections of head outputs; `pre_topk` has no meaning here.

    Per class the best 200 scores, those above the threshold, greedy suppression at IoU >=
    threshold, then the best 200 over all classes (MLPerf v0.6 by Google and the Ascend ModelZoo;
    both numbers are `max_detections`).
    """
    scores = outputs.logits.float().softmax(dim=-1)[..., 1:].transpose(1, 2)
    best_scores, anchor_index = scores.topk(parameters.max_detections, dim=2)
    flat_index = anchor_index.flatten(1)
    deltas = outputs.deltas.float().gather(1, flat_index[..., None].expand(-1, -1, 4))
    boxes_xyxy = clip_to_image(decode(deltas, anchors_cxcywh[flat_index], scales), image_hw)
    return _keep_best(
        boxes_xyxy.view(*anchor_index.shape, 4),
        best_scores,
        parameters,
        iou_threshold=_just_below(parameters.iou_threshold),
    )


def published_retinanet_postprocess(
    levels: Sequence[HeadOutputs],
    anchors_cxcywh: Sequence[Tensor],
    *,
    scales: tuple[float, float],
    image_hw: tuple[int, int],
    parameters: PostprocessParameters,
) -> PaddedDetections:
    """Return the padded detections of each level's head outputs.

    Of each level the `pre_topk` anchors of the highest class score, each with all its classes,
    scores above the threshold, greedy suppression within each class at IoU > threshold, the
    `max_detections` best (mmdetection 2.9, which clips boxes to the picture, not to the padded
    input, before it suppresses).
    """
    all_boxes, all_scores = [], []
    for level, anchors in zip(levels, anchors_cxcywh, strict=True):
        scores = level.logits.float().sigmoid()
        index = scores.amax(dim=2).topk(min(parameters.pre_topk, len(anchors)), dim=1).indices
        deltas = level.deltas.float().gather(1, index[..., None].expand(-1, -1, 4))
        all_boxes.append(decode(deltas, anchors[index], scales))
        all_scores.append(scores.gather(1, index[..., None].expand(-1, -1, scores.shape[2])))
    boxes_xyxy = clip_to_image(torch.cat(all_boxes, dim=1), image_hw)
    class_scores = torch.cat(all_scores, dim=1).transpose(1, 2)
    return _keep_best(
        boxes_xyxy[:, None].expand(-1, class_scores.shape[1], -1, -1),
        class_scores,
        parameters,
        iou_threshold=parameters.iou_threshold,
    )


def _keep_best(
    boxes_xyxy: Tensor, scores: Tensor, parameters: PostprocessParameters, *, iou_threshold: float
) -> PaddedDetections:
    """Suppress within each class and keep the best of boxes [N,C,P,4] with scores [N,C,P]."""
    num_classes, num_boxes = scores.shape[1:]
    size = min(parameters.max_detections, num_classes * num_boxes)
    kept = min(size, num_boxes)
    # Image by image: every class is a row that is compared with itself.
    rows = [
        suppress(one_boxes, one_scores, iou_threshold, parameters.score_threshold, kept)
        for one_boxes, one_scores in zip(boxes_xyxy, scores.contiguous(), strict=True)
    ]
    kept_scores = torch.stack([row[0] for row in rows]).flatten(1)
    index = torch.stack([row[1] for row in rows])
    first_of_class = torch.arange(num_classes, device=index.device)[:, None] * num_boxes
    kept_scores, order = kept_scores.topk(size, dim=1)
    filled = kept_scores > 0
    places = (index + first_of_class).flatten(1).gather(1, order)
    found_xyxy = boxes_xyxy.flatten(1, 2).gather(1, places[..., None].expand(-1, -1, 4))
    return (
        torch.where(filled[..., None], found_xyxy, 0.0),
        kept_scores,
        torch.where(filled, places // num_boxes, -1),
        filled.sum(dim=1),
    )


def _just_below(threshold: float) -> float:
    """Return the next smaller float32: IoU > that is IoU >= threshold."""
    value = torch.tensor(threshold, dtype=torch.float32)
    return float(torch.nextafter(value, torch.zeros(())))
