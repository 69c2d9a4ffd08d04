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
        pixels: uint8 [N,3,H,W], RGB.
        affine: float32 [N,3,4]; normalised = affine[:, :, :3] @ rgb / 255 + affine[:, :, 3].
            Holds normalisation and, in training, the colour jitter of each image.
        original_hw: int64 [N,2]; height and width of the image before resizing.
    """

    pixels: Tensor
    affine: Tensor
    original_hw: Tensor

    def to(self, device: torch.device) -> Images:
        """Copy to `device`; asynchronous when the memory is pinned."""
        return Images(
            self.pixels.to(device, non_blocking=True),
            self.affine.to(device, non_blocking=True),
            self.original_hw.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Images:
        """Copy into page-locked memory, which makes `to` asynchronous."""
        return Images(
            self.pixels.pin_memory(), self.affine.pin_memory(), self.original_hw.pin_memory()
        )

    def normalised(self) -> Tensor:
        """Return float32 [N,3,H,W], what a detector's `forward` takes."""
        num_images, _, height, width = self.pixels.shape
        flat = self.pixels.flatten(2).float()
        mixed = torch.baddbmm(self.affine[:, :, 3:], self.affine[:, :, :3] / 255.0, flat)
        return mixed.view(num_images, 3, height, width)


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
