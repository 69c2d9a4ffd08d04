"""Sigmoid focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5), summed.

Where the target is 0 the loss of a logit x is (1 - alpha) p^2 softplus(x) with p = sigmoid(x);
where it is 1, the same of -x with alpha. Alpha 0.25 and gamma 2 are the paper's. All but one target
of an anchor is 0, so each logit is first taken as such and then the one at the anchor's label is
put right: no tensor of one-hot targets exists. The gradient is computed along with the value, which
spares autograd its dozen saved tensors.

Shape letters: N images, A anchors, K logits per anchor (no background among them).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.matching import IGNORED

_ALPHA = 0.25
# Logits that are worked on at a time on the CPU, so that temporaries stay in its cache: at 201,600
# x 80 forward and backward take 47 ms, in one piece 62 (medians of 11, two cores of an AMD EPYC).
_CPU_CHUNK = 2**19


def focal_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return float32 [N], each image's focal loss summed over its anchors and classes.

    Args:
        logits: [N,A,K]; reduced precision is widened, and its gradient narrowed again.
        labels: int64 [N,A]; a class from 0, `UNMATCHED` for background, or `IGNORED`, which
            adds nothing.
    """
    return cast(Tensor, _FocalLossSum.apply(logits, labels))  # type: ignore[no-untyped-call]  # torch's


class _FocalLossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        num_images, num_anchors, num_logits = logits.shape
        chunk = num_anchors
        if logits.device.type == "cpu":
            chunk = max(1, _CPU_CHUNK // max(1, num_images * num_logits))
        # Gradients not yet scaled lie below fp16's range in easy negatives, though not bf16's.
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient = torch.empty_like(logits, dtype=kept)
        sums = torch.zeros(num_images, device=logits.device)
        for start in range(0, num_anchors, chunk):
            rows = slice(start, start + chunk)
            losses, gradient[:, rows] = _focal_terms(logits[:, rows].float(), labels[:, rows])
            sums += losses.sum(dim=(1, 2))
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        # In place: nobody else has it, and autograd refuses a second pass over what has changed.
        return gradient.mul_(wanted[:, None, None]).to(ctx.dtype), None


def _focal_terms(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of every logit and its derivative, both [N,A,K]."""
    weights = torch.where(labels == IGNORED, 0.0, 1 - _ALPHA)[..., None]
    losses, slopes = _background_terms(logits, weights)
    # Where an anchor has no class its first logit is computed anew, with the same result.
    index = labels.clamp(min=0)[..., None]
    positive = labels[..., None] >= 0
    sign = torch.where(positive, -1.0, 1.0)
    labelled_losses, labelled_slopes = _background_terms(
        logits.gather(2, index) * sign, torch.where(positive, _ALPHA, weights)
    )
    return (
        losses.scatter_(2, index, labelled_losses),
        slopes.scatter_(2, index, labelled_slopes * sign),
    )


def _background_terms(logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight p^2 softplus(x) and its derivative, weight p^2 (p + 2 (1 - p) softplus(x))."""
    probability = logits.sigmoid()
    entropy = F.softplus(logits)
    scale = probability.square().mul_(weights)
    losses = scale * entropy
    slopes = torch.add(probability, entropy.mul_(1 - probability), alpha=2)
    return losses, slopes.mul_(scale)
