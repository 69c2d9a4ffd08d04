"""From head outputs to detections, once for eager PyTorch and for the exported graph.

The recipe: softmax, the `pre_topk` best (anchor, class) pairs of the whole image, decode only
those, clip, greedy suppression within each class, `max_detections` best. Published SSD code instead
takes the best 200 of every class first and suppresses at IoU >= threshold; we take one flat TopK
and suppress at IoU > threshold, because that is what ONNX's NonMaxSuppression does and one small
TopK is several times cheaper than eighty.

Shape letters: N images, A anchors, K logits per anchor, P candidates (`pre_topk`),
D `max_detections`. All shapes are static but for N; unused rows are padded with box 0, score 0,
label -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.boxes import decode
from models.structures import HeadOutputs

# Boxes `_xyxy` [N,P,4], scores [N,P], labels [N,P].
Candidates = tuple[Tensor, Tensor, Tensor]
# Boxes `_xyxy` [N,D,4], scores [N,D], labels [N,D], number of used rows [N].
PaddedDetections = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class PostprocessParameters:
    """Thresholds and limits of the postprocess.

    Attributes:
        score_threshold: detections must score strictly more, in [0, 1).
        iou_threshold: a box is suppressed when it overlaps a better one of its class strictly more.
        max_detections: kept per image.
        pre_topk: candidates per image that reach suppression; at least `max_detections`.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int
    pre_topk: int


def select_candidates(
    outputs: HeadOutputs, anchors_cxcywh: Tensor, *, scales: tuple[float, float], pre_topk: int
) -> Candidates:
    """Return the best pairs of anchor and class.

    Scores are softmax probabilities, descending; background (logit 0) is no candidate.
    """
    scores = outputs.logits.float().softmax(dim=-1)[..., 1:]
    num_classes = scores.shape[-1]
    best_scores, index = scores.flatten(1).topk(min(pre_topk, scores[0].numel()), dim=1)
    # `//` on integers: torch.div with a rounding mode exports as a float division, which is wrong
    # above 2**24.
    anchor_index = index // num_classes
    deltas = outputs.deltas.float().gather(1, anchor_index[..., None].expand(-1, -1, 4))
    boxes_xyxy = decode(deltas, anchors_cxcywh[anchor_index], scales)
    return boxes_xyxy, best_scores, index - anchor_index * num_classes


def clip_to_image(boxes_xyxy: Tensor, image_hw: tuple[int, int]) -> Tensor:
    """Return boxes [...,4] with every corner inside the image."""
    height, width = image_hw
    columns = boxes_xyxy[..., 0::2].clamp(0, width)
    rows = boxes_xyxy[..., 1::2].clamp(0, height)
    return torch.stack([columns, rows], dim=-1).flatten(-2)


def separate_classes(
    boxes_xyxy: Tensor, labels: Tensor, *, num_classes: int, image_hw: tuple[int, int]
) -> Tensor:
    """Move each class to its own cell of a square grid, so that one suppression serves all classes.

    A grid keeps the shifts, and with them the rounding of float32 coordinates, nine times smaller
    for 80 classes than a single row of offsets would.

    Args:
        boxes_xyxy: [N,P,4], inside the image.
        labels: [N,P], from 0 to num_classes - 1.
    """
    side = math.ceil(math.sqrt(num_classes))
    span = float(max(image_hw) + 1)
    classes = torch.arange(num_classes, device=labels.device)
    cells = torch.stack([classes % side, classes // side], dim=-1).to(boxes_xyxy.dtype)
    # A table of the few classes, not arithmetic on every label: it exports as one constant.
    return boxes_xyxy + F.embedding(labels, (cells * span).repeat(1, 2))


def postprocess(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    image_hw: tuple[int, int],
    parameters: PostprocessParameters,
) -> PaddedDetections:
    """Clip candidates to the image and suppress duplicates; the NMS stage."""
    boxes_xyxy = clip_to_image(boxes_xyxy, image_hw)
    apart = separate_classes(boxes_xyxy, labels, num_classes=num_classes, image_hw=image_hw)
    kept_scores, index = torch.ops.suite.suppress(
        apart,
        scores,
        parameters.iou_threshold,
        parameters.score_threshold,
        parameters.max_detections,
    )
    # Where, not a product: a NaN in the input must not leak into padding rows.
    filled = kept_scores > 0
    boxes_xyxy = boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))
    boxes_xyxy = torch.where(filled[..., None], boxes_xyxy, 0.0)
    return (
        boxes_xyxy,
        kept_scores,
        torch.where(filled, labels.gather(1, index), -1),
        filled.sum(dim=1),
    )


@torch.library.custom_op("suite::suppress", mutates_args=())
def suppress(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_dets: int
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression, exact, in tensor form; bit-equal to ONNX NonMaxSuppression.

    A custom operator because its result depends on values while its shape does not: the exporter
    sees the static shape, and the graph gets the standard ONNX operator in its place.

    For inference only: it waits for the device, once to learn how many boxes compete and once in
    each round of `_greedy_fixed_point`.

    Args:
        boxes_xyxy: float32 [N,P,4]; boxes that must not compete do not overlap. As in ONNX, corners
            may come in either order.
        scores: float32 [N,P].
        iou_threshold: a box goes when it overlaps a kept box of higher score strictly more.
        score_threshold: a box competes only if it scores strictly more.
        max_dets: kept per image.

    Returns:
        scores [N,max_dets] of the kept boxes, descending (ties in order of index), 0 where there is
        none, and their index [N,max_dets] into P.
    """
    # What does not compete ranks last, NaN included, and the pairwise part leaves it out.
    ranked = torch.where(scores > score_threshold, scores, -1.0).sort(
        dim=1, descending=True, stable=True
    )
    competes = ranked.values > score_threshold
    num_competing = int(competes.sum(dim=1).max())
    order = ranked.indices[:, :num_competing]
    suppresses = _suppresses(
        boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4)), iou_threshold
    )
    keep = torch.zeros_like(competes)
    keep[:, :num_competing] = _greedy_fixed_point(suppresses, competes[:, :num_competing])
    # Kept boxes first, each group in its order: a stable sort of a flag.
    first = (~keep).int().argsort(dim=1, stable=True)[:, :max_dets]
    kept_scores = torch.where(keep.gather(1, first), ranked.values.gather(1, first), 0.0)
    return kept_scores, ranked.indices.gather(1, first)


@suppress.register_fake
def _suppress_shape(
    _boxes_xyxy: Tensor, scores: Tensor, _iou: float, _score: float, max_dets: int
) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], max_dets)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def _suppresses(boxes_xyxy: Tensor, iou_threshold: float) -> Tensor:
    """Return bool [N,P,P]: if box i (row) is kept it suppresses box j (column); i before j."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(dim=-1)
    left, right = torch.minimum(x0, x1), torch.maximum(x0, x1)
    top, bottom = torch.minimum(y0, y1), torch.maximum(y0, y1)
    shared = _shared_lengths(left, right) * _shared_lengths(top, bottom)
    area = (right - left) * (bottom - top)
    union = area[:, :, None] + area[:, None, :] - shared
    # The quotient, not a product with the threshold: it rounds as ONNX Runtime's kernel does. Where
    # nothing is shared it may be 0/0, which not every accelerator compares as False: masked.
    return ((shared / union > iou_threshold) & (shared > 0)).triu(diagonal=1)


def _shared_lengths(start: Tensor, end: Tensor) -> Tensor:
    """Return the common length of every two of the intervals [N,P] as [N,P,P]."""
    low = torch.maximum(start[:, :, None], start[:, None, :])
    high = torch.minimum(end[:, :, None], end[:, None, :])
    return (high - low).clamp(min=0)


def _greedy_fixed_point(suppresses: Tensor, competes: Tensor) -> Tensor:
    """Return bool [N,P]: the boxes a greedy pass keeps, found in as many rounds as chains are long.

    A box stays when no kept box before it suppresses it. Applied again and again from "all stay"
    that settles from the best box downwards and stops at the one answer a sequential pass gives.
    Each round ends in a comparison the host waits for.
    """
    weights = suppresses.to(torch.float32)
    keep = competes
    while True:
        hit = torch.bmm(keep[:, None, :].to(torch.float32), weights)[:, 0] > 0
        following = competes & ~hit
        if torch.equal(following, keep):
            return keep
        keep = following
