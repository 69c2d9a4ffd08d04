"""ResNet backbones (He et al. 2016) under torchvision's parameter names, so that its weights load.

Padding `torch` is symmetric everywhere. Padding `same` is TensorFlow's for the stem's max-pool,
whose windows then start one pixel later: weights trained there expect it. (TensorFlow's ResNet pads
its strided convolutions explicitly and symmetrically, so those agree.)
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["torch", "same"]

R34_BLOCKS = (3, 4, 6, 3)
_STAGE_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Map [N,C,H,W] to [N,channels,H/stride,W/stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(features)) + shortcut)


class ResNet34(nn.Module):
    """The stem and the first stages of ResNet-34.

    Args:
        strides: of the stages to build, at most four; ImageNet's are (1, 2, 2, 2).
        width: channel multiplier; 1.0 is the published network.
        padding: of the stem's max-pool, see the module's text.
    """

    def __init__(
        self,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        *,
        width: float = 1.0,
        padding: Padding = "torch",
    ) -> None:
        super().__init__()
        self.same_padding = padding == "same"
        channels = scale_channels(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stage_names: list[str] = []
        for number, (stride, num_blocks) in enumerate(
            zip(strides, R34_BLOCKS, strict=False), start=1
        ):
            out_channels = scale_channels(_STAGE_CHANNELS[number - 1], width)
            stage = _build_stage(channels, out_channels, num_blocks=num_blocks, stride=stride)
            self.add_module(f"layer{number}", stage)
            self.stage_names.append(f"layer{number}")
            channels = out_channels
        self.out_channels = channels
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                # Each block starts as its shortcut: the seed's choice (Goyal et al. 2017, 5.1).
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images [N,3,H,W] to the last stage's features."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = max_pool_3x3(features, same=self.same_padding)
        for name in self.stage_names:
            features = self.get_submodule(name)(features)
        return features


def scale_channels(channels: int, width: float) -> int:
    """Return `channels` times `width` as a multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def max_pool_3x3(features: Tensor, *, same: bool) -> Tensor:
    """Halve [N,C,H,W]; with `same` an even side is padded after its end only, as by TensorFlow."""
    if not same:
        return F.max_pool2d(features, 3, 2, 1)
    return F.max_pool2d(pad_same(features, kernel=3, stride=2, value=float("-inf")), 3, 2)


def pad_same(features: Tensor, *, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad [N,C,H,W] as TensorFlow's SAME does: the odd pixel goes after the end."""
    height, width = features.shape[-2:]
    top, bottom = _same_amounts(height, kernel, stride)
    left, right = _same_amounts(width, kernel, stride)
    return F.pad(features, (left, right, top, bottom), value=value)


def _same_amounts(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _build_stage(in_channels: int, channels: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(in_channels, channels, stride=stride)]
    blocks += [BasicBlock(channels, channels, stride=1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)
