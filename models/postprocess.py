"""From head outputs to detections, once for eager PyTorch and for the exported graph.

The recipe: scores, the `pre_topk` best (anchor, class) pairs of the whole image (SSD) or of each
pyramid level (RetinaNet), decode only those, clip, greedy suppression within each class,
`max_detections` best. Published SSD code instead takes the best 200 of every class first and
suppresses at IoU >= threshold; mmdetection takes the best 1,000 anchors of each level, each with
all its classes. We take flat TopKs and suppress at IoU > threshold, because that is what ONNX's
NonMaxSuppression does and one small TopK is several times cheaper than eighty.

Shape letters: N images, A anchors, K logits per anchor, P candidates, D `max_detections`. All
shapes follow from those of the images; unused rows are padded with box 0, score 0, label -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.boxes import decode
from models.structures import HeadOutputs

# Boxes that `suppress` compares with each other at a time.
_BLOCK = 256

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
        pre_topk: candidates that reach suppression, per image or per level; at least
            `max_detections`.
    """

    score_threshold: float
    iou_threshold: float
    max_detections: int
    pre_topk: int


def select_candidates(
    outputs: HeadOutputs, anchors_cxcywh: Tensor, *, scales: tuple[float, float], pre_topk: int
) -> Candidates:
    """Return the best pairs of anchor and class of an image.

    Scores are softmax probabilities, descending; background (logit 0) is no candidate.
    """
    scores = outputs.logits.float().softmax(dim=-1)[..., 1:]
    return _decode_best(scores, outputs.deltas, anchors_cxcywh, scales=scales, pre_topk=pre_topk)


def select_level_candidates(
    levels: Sequence[HeadOutputs],
    anchors_cxcywh: Sequence[Tensor],
    *,
    scales: tuple[float, float],
    pre_topk: int,
) -> Candidates:
    """Return the best pairs of anchor and class of each level, level after level.

    Scores are sigmoids, descending within a level; levels with fewer pairs give all of them.
    """
    found = [
        _decode_best(level.logits, level.deltas, anchors, scales=scales, pre_topk=pre_topk)
        for level, anchors in zip(levels, anchors_cxcywh, strict=True)
    ]
    boxes_xyxy, logits, labels = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return boxes_xyxy, logits.float().sigmoid(), labels


def _decode_best(
    scores: Tensor,
    deltas: Tensor,
    anchors_cxcywh: Tensor,
    *,
    scales: tuple[float, float],
    pre_topk: int,
) -> Candidates:
    """Return the boxes, scores and labels of the highest of scores [N,A,C]."""
    num_anchors, num_classes = scores.shape[1:]
    # sym_min and sym_max: in an export with free height and width these are expressions.
    wanted = torch.sym_min(pre_topk, num_anchors * num_classes)  # type: ignore[no-untyped-call]  # torch's
    best_scores, index = scores.flatten(1).topk(wanted, dim=1)
    # `//` on integers: torch.div with a rounding mode exports as a float division, which is wrong
    # above 2**24.
    anchor_index = index // num_classes
    chosen = deltas.gather(1, anchor_index[..., None].expand(-1, -1, 4)).float()
    boxes_xyxy = decode(chosen, anchors_cxcywh[anchor_index], scales)
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
    span = torch.sym_max(*image_hw) + 1  # type: ignore[no-untyped-call]  # torch's
    classes = torch.arange(num_classes, device=labels.device)
    cells = torch.stack([classes % side, classes // side], dim=-1).to(boxes_xyxy.dtype)
    # A table of the few classes, not arithmetic on every label.
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

    It works in blocks of descending score, each compared with what is kept before it and within
    itself, and ends when every image has enough: what no longer fits is not looked at.

    For inference only: it waits for the device, to learn how many boxes compete and in each round
    of `_greedy_fixed_point`.

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
    keep = torch.zeros_like(competes)
    for start in range(0, int(competes.sum(dim=1).max()), _BLOCK):
        end = start + _BLOCK
        kept = _first_marked(keep[:, :start], max_dets)
        earlier = _take_boxes(boxes_xyxy, ranked.indices.gather(1, kept))
        block = _take_boxes(boxes_xyxy, ranked.indices[:, start:end])
        hits = _suppresses(earlier, block, iou_threshold) & keep.gather(1, kept)[..., None]
        within = _suppresses(block, block, iou_threshold).triu(diagonal=1)
        keep[:, start:end] = _greedy_fixed_point(within, competes[:, start:end] & ~hits.any(dim=1))
        if int(keep.sum(dim=1).min()) >= max_dets:
            break
    first = _first_marked(keep, max_dets)
    kept_scores = torch.where(keep.gather(1, first), ranked.values.gather(1, first), 0.0)
    return kept_scores, ranked.indices.gather(1, first)


@suppress.register_fake
def _suppress_shape(
    _boxes_xyxy: Tensor, scores: Tensor, _iou: float, _score: float, max_dets: int
) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], max_dets)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def _first_marked(flags: Tensor, limit: int) -> Tensor:
    """Return the places [N,<=limit] of the true flags [N,P] in their order, then of false ones."""
    return (~flags).int().argsort(dim=1, stable=True)[:, :limit]


def _take_boxes(boxes_xyxy: Tensor, index: Tensor) -> Tensor:
    return boxes_xyxy.gather(1, index[..., None].expand(-1, -1, 4))


def _suppresses(first_xyxy: Tensor, second_xyxy: Tensor, iou_threshold: float) -> Tensor:
    """Return bool [N,P,Q]: whether box i of [N,P,4] overlaps box j of [N,Q,4] too much."""
    left, top, right, bottom = _sorted_corners(first_xyxy[:, :, None])
    other_left, other_top, other_right, other_bottom = _sorted_corners(second_xyxy[:, None])
    width = torch.minimum(right, other_right) - torch.maximum(left, other_left)
    height = torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)
    shared = width.clamp(min=0) * height.clamp(min=0)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    union = area + other_area - shared
    # The quotient, not a product with the threshold: it rounds as ONNX Runtime's kernel does. Where
    # nothing is shared it may be 0/0, which not every accelerator compares as False: masked.
    return (shared / union > iou_threshold) & (shared > 0)


def _sorted_corners(boxes_xyxy: Tensor) -> tuple[Tensor, ...]:
    x0, y0, x1, y1 = boxes_xyxy.unbind(dim=-1)
    return (
        torch.minimum(x0, x1),
        torch.minimum(y0, y1),
        torch.maximum(x0, x1),
        torch.maximum(y0, y1),
    )


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
