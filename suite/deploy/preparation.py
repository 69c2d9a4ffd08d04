"""What stands before a network so that its graph takes images as they are: resize, normalise, pad.

The resize is the loaders' own (`suite.data.transforms.resize_image`): torch's antialiased bilinear
kernel for bytes, which rounds its weights to 16 bits and its pixels to bytes after each direction
(aten/src/ATen/native/cpu/UpSampleKernel.cpp). Here the weights of a direction are a matrix. Its
products and sums are whole numbers, which float32 holds exactly up to reductions of 8 to 1 and
hardly rounds beyond, as they are taken of bytes about their middle. So ONNX Runtime finds the bytes
that training found, with nothing but MatMul and element-wise operators; a runtime that computes the
weights' float64 in float32, such as OpenVINO, is one grey level off here and there. ONNX's own
Resize is no way: some runtimes ignore its `antialias`, others refuse it.

Shape letters: N images, H W rows and columns of an image, h w those of the network's input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from suite.graph_metadata import GraphInput
from suite.sizing import Sizing

_MIDDLE = 128  # of a byte
_WEIGHT_BITS = 15
_PRECISIONS = range(1, 23)


class Preparation(nn.Module):
    """Maps uint8 images [N,H,W,3] to the network's input [N,3,h,w], of the sizing's only canvas."""

    factor: Tensor
    shift: Tensor

    def __init__(self, sizing: Sizing, description: GraphInput) -> None:
        super().__init__()
        self.sizing = sizing
        mean, std = torch.tensor(description.mean), torch.tensor(description.std)
        self.register_buffer("factor", (description.scale / std)[:, None, None])
        self.register_buffer("shift", (-mean / std)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's input and, float64 [2], the height and width of the picture in it.

        The rest of the input is zero.
        """
        canvas_hw = self.sizing.canvases[0]
        image_hw = measure(images)
        picture_hw = self._fit(image_hw)
        rows, columns = (
            resize_weights(
                images.shape[1 + axis], canvas_hw[axis], image_hw[axis], picture_hw[axis]
            )
            for axis in (0, 1)
        )
        # Transposed as bytes, which is a quarter of the work. Columns first, as torch does.
        pixels = images.permute(0, 3, 1, 2).float() - _MIDDLE
        pixels = _round(pixels @ columns.weights.T + columns.excess, columns.unit)
        pixels = _round(rows.weights @ pixels + rows.excess[:, None], rows.unit) + _MIDDLE
        inside = [
            torch.arange(side) < part for side, part in zip(canvas_hw, picture_hw, strict=True)
        ]
        mask = inside[0][:, None] & inside[1]
        return torch.where(mask, pixels * self.factor + self.shift, 0.0), picture_hw

    def _fit(self, image_hw: Tensor) -> Tensor:
        """Return the size of the resized picture; what `Sizing.resized_hw` computes."""
        canvas_hw = torch.tensor(self.sizing.canvases[0], dtype=torch.float64)
        if not self.sizing.keep_ratio:
            return canvas_hw
        long = self.sizing.long_side / image_hw.max()
        short = self.sizing.short_side / image_hw.min()
        scale = torch.minimum(torch.minimum(long, short), (canvas_hw / image_hw).min())
        return (image_hw * scale + 0.5).floor().clamp(min=1)


def to_image(boxes_xyxy: Tensor, image_hw: Tensor, picture_hw: Tensor) -> Tensor:
    """Return boxes [...,4] of the network's input in pixels of the image, inside of it."""
    factors = (image_hw / picture_hw).flip(0).float().repeat(2)
    return torch.minimum(boxes_xyxy * factors, image_hw.flip(0).float().repeat(2))


def measure(images: Tensor) -> Tensor:
    """Return float64 [2], the height and width of images [N,H,W,3]."""
    sides = [torch.scalar_tensor(side, dtype=torch.float64) for side in images.shape[1:3]]
    return torch.stack(sides)


class ResizeWeights(NamedTuple):
    """One direction of a resize.

    Attributes:
        weights: float32 [outputs,inputs], whole numbers.
        unit: float32, which of them make one; a power of two.
        excess: float32 [outputs], what rounding of the weights adds to a line of `_MIDDLE`.
    """

    weights: Tensor
    unit: Tensor
    excess: Tensor


def resize_weights(
    num_inputs: Any, num_outputs: int, size: Tensor, picture: Tensor
) -> ResizeWeights:
    """Return torch's weights from one line of pixels to another.

    Args:
        num_inputs: length of the line; symbolic in an export.
        num_outputs: rows of the result; those beyond `picture` mean nothing.
        size: `num_inputs`, float64.
        picture: pixels of the new line, float64.
    """
    scale = size / picture
    support = scale.clamp(min=1)
    centres = (scale * (torch.arange(num_outputs, dtype=torch.float64) + 0.5))[:, None]
    # torch looks at whole pixels from one rounded end to the other, which cuts the far ends off.
    places = torch.arange(num_inputs, dtype=torch.float64)
    first = (centres - support + 0.5).floor().clamp(min=0)
    last = (centres + support + 0.5).floor()
    seen = (places >= first) & (places < last)
    triangle = (1 - ((places - centres + 0.5) / support).abs()).clamp(min=0)
    triangle = torch.where(seen, triangle, 0.0)
    share = triangle / triangle.sum(dim=1, keepdim=True).clamp(min=1e-12)
    used = torch.arange(num_outputs)[:, None] < picture
    unit = _choose_unit(torch.where(used, share, 0.0).max())
    weights = (share * unit + 0.5).floor()
    excess = _MIDDLE * (weights.sum(dim=1) - unit)
    return ResizeWeights(weights.float(), unit.float(), excess.float())


def _choose_unit(largest: Tensor) -> Tensor:
    """Return the largest power of two that keeps the largest weight within 16 bits."""
    powers = torch.tensor([2.0**precision for precision in _PRECISIONS], dtype=torch.float64)
    fits = (largest * powers + 0.5).floor() < 2**_WEIGHT_BITS
    return torch.where(fits, powers, 1.0).max()


def _round(sums: Tensor, unit: Tensor) -> Tensor:
    """Return whole bytes about their middle."""
    return (sums / unit + 0.5).floor().clamp(-_MIDDLE, 255 - _MIDDLE)
