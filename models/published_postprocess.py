"""SSD's postprocess exactly as published, to price what `models.postprocess` does differently.

Per class the best 200 scores, those above the threshold, greedy suppression at IoU >= threshold,
then the best 200 over all classes (MLPerf v0.6 by Google and the Ascend ModelZoo; both numbers are
`max_detections`). In PyTorch only and slower: it is a yardstick, not what is exported.

Shape letters: N images, A anchors, C classes without background, P kept per class and per image.
"""

from __future__ import annotations

import torch

from models.boxes import decode
from models.postprocess import (
    PaddedDetections,
    PostprocessParameters,
    clip_to_image,
    suppress,
)
from models.structures import HeadOutputs


def published_postprocess(
    outputs: HeadOutputs,
    anchors_cxcywh: torch.Tensor,
    *,
    scales: tuple[float, float],
    image_hw: tuple[int, int],
    parameters: PostprocessParameters,
) -> PaddedDetections:
    """Return the padded detections of head outputs; `pre_topk` has no meaning here."""
    size = parameters.max_detections
    scores = outputs.logits.float().softmax(dim=-1)[..., 1:].transpose(1, 2)
    num_images, num_classes, _ = scores.shape
    best_scores, anchor_index = scores.topk(size, dim=2)
    flat_index = anchor_index.flatten(1)
    deltas = outputs.deltas.float().gather(1, flat_index[..., None].expand(-1, -1, 4))
    boxes_xyxy = clip_to_image(decode(deltas, anchors_cxcywh[flat_index], scales), image_hw)
    kept_scores, index = suppress(
        boxes_xyxy.view(-1, size, 4),
        best_scores.reshape(-1, size),
        _just_below(parameters.iou_threshold),
        parameters.score_threshold,
        size,
    )
    first_of_class = torch.arange(num_classes, device=index.device)[:, None] * size
    places = index.view(num_images, num_classes, size) + first_of_class
    kept_scores, order = kept_scores.view(num_images, -1).topk(size, dim=1)
    filled = kept_scores > 0
    places = places.flatten(1).gather(1, order)
    boxes_xyxy = boxes_xyxy.gather(1, places[..., None].expand(-1, -1, 4))
    return (
        torch.where(filled[..., None], boxes_xyxy, 0.0),
        kept_scores,
        torch.where(filled, places // size, -1),
        filled.sum(dim=1),
    )


def _just_below(threshold: float) -> float:
    """Return the next smaller float32: IoU > that is IoU >= threshold."""
    value = torch.tensor(threshold, dtype=torch.float32)
    return float(torch.nextafter(value, torch.zeros(())))
