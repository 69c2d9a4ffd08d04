"""Training losses. Shape letters: N images, A anchors, K logits per anchor.

Everything is float32 whatever the autocast state, and nothing here reads a value on the host.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.boxes import encode
from models.focal import focal_loss_sum
from models.matching import (
    UNMATCHED,
    LowQuality,
    gather_matched,
    match_anchors,
    match_with_ignored,
)
from models.structures import HeadOutputs, Target

NEGATIVES_PER_POSITIVE = 3

Normaliser = Literal["batch", "image"]


def ssd_loss(
    outputs: HeadOutputs,
    target: Target,
    anchors_cxcywh: Tensor,
    *,
    scales: tuple[float, float],
    iou_threshold: float,
) -> dict[str, Tensor]:
    """Return scalars {"classification", "box"}; their sum is SSD's loss (Liu et al. 2016, 2.2).

    Each image's sums are divided by its number of matched anchors, then averaged over the batch.
    Logit 0 is background, so a box of label l is class l + 1.
    """
    matches = match_anchors(target, anchors_cxcywh, iou_threshold)
    boxes_xyxy, labels = gather_matched(target, matches)
    positive = matches != UNMATCHED
    num_matched = positive.sum(dim=1).clamp(min=1)

    classes = torch.where(positive, labels + 1, 0)
    # Flat: with the classes in the last dimension it is three times as fast on the CPU.
    cross_entropy = F.cross_entropy(
        outputs.logits.flatten(0, 1).float(), classes.flatten(), reduction="none"
    ).view_as(classes)
    chosen = positive | hard_negatives(cross_entropy.detach(), positive)
    classification = torch.where(chosen, cross_entropy, 0.0).sum(dim=1)

    wanted = encode(boxes_xyxy, anchors_cxcywh, scales)
    distance = F.smooth_l1_loss(outputs.deltas.float(), wanted, reduction="none").sum(dim=-1)
    box = torch.where(positive, distance, 0.0).sum(dim=1)
    return {
        "classification": (classification / num_matched).mean(),
        "box": (box / num_matched).mean(),
    }


def hard_negatives(cross_entropy: Tensor, positive: Tensor) -> Tensor:
    """Return bool [N,A]: the negatives of highest loss, three for each positive of the image.

    Exactly 3 x positives, or all negatives where there are fewer. (The Ascend seed takes one more
    through a `>=` against the threshold value, and counts positives twice once more negatives are
    wanted than have any loss; not copied.)
    """
    # A positive ranks below every negative: a cross-entropy is never negative.
    ranked = torch.where(positive, -1.0, cross_entropy)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    num_wanted = NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)
    return (rank < num_wanted) & ~positive


def retinanet_loss(
    outputs: HeadOutputs,
    target: Target,
    anchors_cxcywh: Tensor,
    *,
    normaliser: Normaliser,
    low_quality: LowQuality,
) -> dict[str, Tensor]:
    """Return scalars {"classification", "box"}: focal loss (Lin et al. 2017) and L1 on deltas.

    Args:
        outputs: K logits per anchor, without background.
        target: boxes in pixels of the input.
        anchors_cxcywh: [A,4].
        normaliser: `batch` divides the sums of the batch by its positive anchors, each image
            counted as at least one (mmdetection); `image` divides each image's sums by its own and
            averages over the images (torchvision).
        low_quality: see `match_with_ignored`.
    """
    matches = match_with_ignored(
        target, anchors_cxcywh, positive_iou=0.5, negative_iou=0.4, low_quality=low_quality
    )
    boxes_xyxy, labels = gather_matched(target, matches)
    positive = matches >= 0
    num_positive = positive.sum(dim=1).clamp(min=1)
    # Where no box is learnt, the match itself says what: background or nothing.
    classification = focal_loss_sum(outputs.logits, torch.where(positive, labels, matches))

    wanted = encode(boxes_xyxy, anchors_cxcywh, (1.0, 1.0))
    distance = (outputs.deltas.float() - wanted).abs().sum(dim=-1)
    box = torch.where(positive, distance, 0.0).sum(dim=1)
    if normaliser == "image":
        return {
            "classification": (classification / num_positive).mean(),
            "box": (box / num_positive).mean(),
        }
    total = num_positive.sum()
    return {"classification": classification.sum() / total, "box": box.sum() / total}
