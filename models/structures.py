"""The plain data that flows through a detector.

Shape letters: N images, A anchors, M boxes of one image, K logits per anchor, H W rows and columns.
Box tensors carry their format in the name; `_xyxy` is (x0, y0, x1, y1) in pixels of the network
input unless a docstring says otherwise, x1 and y1 exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A batch of network inputs, kept as bytes until it is on the device.

    Attributes:
        pixels: uint8 [N,3,H,W], RGB; each picture lies in the upper left corner, the rest is
            padding, all zero.
        affine: float32 [N,3,4]; normalised = affine[:, :, :3] @ rgb / 255 + affine[:, :, 3].
            Holds normalisation and, in training, the colour jitter of each image.
        original_hw: int64 [N,2]; height and width of the image before resizing.
        resized_hw: int64 [N,2]; height and width of the picture within H and W.
    """

    pixels: Tensor
    affine: Tensor
    original_hw: Tensor
    resized_hw: Tensor

    def to(self, device: torch.device) -> Images:
        """Copy to `device`; asynchronous when the memory is pinned."""
        return Images(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))

    def pin_memory(self) -> Images:
        """Copy into page-locked memory, which makes `to` asynchronous."""
        return Images(*(tensor.pin_memory() for tensor in vars(self).values()))

    def normalised(self) -> Tensor:
        """Return float32 [N,3,H,W], what a detector's `forward` takes; padding is zero."""
        height, width = self.pixels.shape[2:]
        flat = self.pixels.flatten(2).float()
        rows = torch.arange(height, device=flat.device) < self.resized_hw[:, :1]
        columns = torch.arange(width, device=flat.device) < self.resized_hw[:, 1:]
        # Padding gets no offset and so stays zero; a mask over the result would cost twice as much.
        by_row = self.affine[:, :, 3:] * rows[:, None]
        offsets = by_row[..., None] * columns[:, None, None].float()
        mixed = offsets.flatten(2).baddbmm_(self.affine[:, :, :3] / 255.0, flat)
        return mixed.view(self.pixels.shape)


@dataclass(frozen=True)
class Target:
    """Ground truth of a batch, padded to the largest number of boxes.

    Attributes:
        boxes_xyxy: float32 [N,M,4]; padding rows are zero.
        labels: int64 [N,M]; 0-based class indices, -1 in padding rows.
    """

    boxes_xyxy: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Target:
        """Copy to `device`; asynchronous when the memory is pinned."""
        return Target(
            self.boxes_xyxy.to(device, non_blocking=True), self.labels.to(device, non_blocking=True)
        )

    def pin_memory(self) -> Target:
        """Copy into page-locked memory, which makes `to` asynchronous."""
        return Target(self.boxes_xyxy.pin_memory(), self.labels.pin_memory())


class HeadOutputs(NamedTuple):
    """What a detector's `forward` gives, before any score or box exists.

    Attributes:
        logits: [N,A,K].
        deltas: [N,A,4], encoded boxes relative to the anchors.
    """

    logits: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class Detections:
    """One image's answer, best first, without padding.

    Attributes:
        boxes_xyxy: float32 [D,4], pixels of the original image.
        scores: float32 [D], in (0, 1], descending.
        labels: int64 [D], 0-based class indices.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
