"""ResNet backbones (He et al. 2016) under torchvision's parameter names, so that its weights load.

Padding `torch` is symmetric everywhere. Padding `same` is TensorFlow's for the stem's max-pool,
whose windows then start one pixel later: weights trained there expect it. (TensorFlow's ResNet pads
its strided convolutions explicitly and symmetrically, so those agree.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["torch", "same"]

_STAGE_CHANNELS = (64, 128, 256, 512)
_STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_BOTTLENECK_FROM = 50
_BOTTLENECK_EXPANSION = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _build_shortcut(in_channels, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N,C,H,W] to [N,channels,H/stride,W/stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(features)) + shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen, and a shortcut.

    Args:
        in_channels: C.
        channels: of the output; inside there are a quarter of them.
        stride: of the block.
        caffe_stride: stride in the first 1x1 convolution, as He et al. had it, not in the 3x3.
    """

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, caffe_stride: bool = False
    ) -> None:
        super().__init__()
        inside = channels // _BOTTLENECK_EXPANSION
        first, second = (stride, 1) if caffe_stride else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, inside, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _build_shortcut(in_channels, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N,C,H,W] to [N,channels,H/stride,W/stride]."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)))
        features = F.relu(self.bn2(self.conv2(features)))
        return F.relu(self.bn3(self.conv3(features)) + shortcut)


class ResNet(nn.Module):
    """The stem and the first stages of a ResNet; `forward` returns every stage's features.

    Args:
        depth: 18, 34, 50 or 101.
        strides: of the stages to build, at most four; ImageNet's are (1, 2, 2, 2).
        width: channel multiplier; 1.0 is the published network.
        padding: of the stem's max-pool, see the module's text.
        frozen_stages: this many stages are not trained, nor is the stem if it is one or more; their
            batch norm keeps its statistics.
        caffe_stride: see `Bottleneck`; 18 and 34 have none.

    Attributes:
        channels: of each stage's features.
    """

    def __init__(
        self,
        depth: int,
        strides: tuple[int, ...] = (1, 2, 2, 2),
        *,
        width: float = 1.0,
        padding: Padding = "torch",
        frozen_stages: int = 0,
        caffe_stride: bool = False,
    ) -> None:
        super().__init__()
        self.same_padding = padding == "same"
        channels = scale_channels(_STAGE_CHANNELS[0], width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        block: Callable[..., nn.Module] = BasicBlock
        expansion = 1
        if depth >= _BOTTLENECK_FROM:
            block = partial(Bottleneck, caffe_stride=caffe_stride)
            expansion = _BOTTLENECK_EXPANSION
        self.channels: list[int] = []
        for number, (stride, num_blocks) in enumerate(
            zip(strides, _STAGE_BLOCKS[depth], strict=False), start=1
        ):
            out_channels = scale_channels(_STAGE_CHANNELS[number - 1], width) * expansion
            blocks = [block(channels, out_channels, stride=stride)]
            blocks += [block(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.channels.append(out_channels)
            channels = out_channels
        self._initialise()
        self._frozen = self._freeze(frozen_stages)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock | Bottleneck):
                # Each block starts as its shortcut: the seed's choice (Goyal et al. 2017, 5.1).
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)

    def _freeze(self, num_stages: int) -> list[nn.Module]:
        names = ["conv1", "bn1", *(f"layer{n}" for n in range(1, num_stages + 1))]
        frozen = [self.get_submodule(name) for name in names] if num_stages else []
        for module in frozen:
            module.requires_grad_(False)
        return frozen

    def train(self, mode: bool = True) -> ResNet:
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images [N,3,H,W] to the features of the stages, largest map first."""
        features = F.relu(self.bn1(self.conv1(images)))
        features = max_pool_3x3(features, same=self.same_padding)
        stages = []
        for number in range(1, len(self.channels) + 1):
            features = self.get_submodule(f"layer{number}")(features)
            stages.append(features)
        return stages


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


def _build_shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )
