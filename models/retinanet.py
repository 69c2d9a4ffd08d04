"""RetinaNet (Lin et al. 2017, Focal Loss) on a ResNet, in the form of mmdetection 2.9.

Where published RetinaNets differ (torchvision, Detectron2, mmdetection) there is an argument, whose
default is mmdetection's. Images may have any size; multiples of 32 pixels waste nothing.

Shape letters: N images, H W rows and columns of the network input, A anchors (201,600 at 800x1344),
K = num_classes logits: sigmoids, without background.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.anchors import (
    RETINANET_SHAPES,
    Rounding,
    build_retinanet_anchors,
    build_retinanet_shapes,
    retinanet_cells,
)
from models.detector import Detector
from models.fpn import FeaturePyramid, P6Source
from models.losses import Normaliser, retinanet_loss
from models.matching import LowQuality
from models.postprocess import (
    Candidates,
    PaddedDetections,
    PostprocessParameters,
    select_level_candidates,
)
from models.published_postprocess import published_retinanet_postprocess
from models.resnet import Padding, ResNet, scale_channels
from models.structures import HeadOutputs, Target

BOX_SCALES = (1.0, 1.0)
_CHANNELS = 256
_TOWER_DEPTH = 4
# Probability of an object that every anchor starts with, so that the many negatives do not swamp
# the first steps (Lin et al. 2017, 4.1).
_PRIOR = 0.01


class RetinaNetHead(nn.Module):
    """Two towers of four 3x3 convolutions with ReLU, shared by all levels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.class_tower = _build_tower(channels)
        self.box_tower = _build_tower(channels)
        self.class_out = nn.Conv2d(channels, RETINANET_SHAPES * num_classes, 3, padding=1)
        self.box_out = nn.Conv2d(channels, RETINANET_SHAPES * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        assert self.class_out.bias is not None
        nn.init.constant_(self.class_out.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map one level [N,C,h,w] to logits [N,9*K,h,w] and deltas [N,9*4,h,w]."""
        classes, boxes = features, features
        for conv in self.class_tower:
            classes = F.relu(conv(classes))
        for conv in self.box_tower:
            boxes = F.relu(conv(boxes))
        return self.class_out(classes), self.box_out(boxes)


class RetinaNet(Detector):
    """RetinaNet; `forward` gives raw head outputs, `loss` and `detect` wrap it.

    All batch norm keeps its stored statistics, also in training; its scales are trained.

    Args:
        num_classes: K.
        depth: of the ResNet: 18, 34, 50 or 101. 37,968,692 parameters with 50 and 80 classes.
        width: channel multiplier; 1.0 is the published detector.
        padding: `torch`, or `same` for backbone weights trained in TensorFlow.
        frozen_stages: of the backbone; with 1 also its stem.
        caffe_stride: stride in the 1x1 convolution of a bottleneck, not in the 3x3.
        p6_from: the map P6 is computed from.
        relu_before_p7: whether P7 is computed from the rectified P6.
        anchors: see `build_retinanet_shapes` and `build_retinanet_anchors`.
        normaliser: see `retinanet_loss`.
        low_quality: see `match_with_ignored`.
    """

    class_head_prefix = "head.class_out."

    def __init__(
        self,
        num_classes: int,
        *,
        depth: int,
        width: float = 1.0,
        padding: Padding = "torch",
        frozen_stages: int = 1,
        caffe_stride: bool = False,
        p6_from: P6Source = "c5",
        relu_before_p7: bool = False,
        anchors: Rounding = "exact",
        normaliser: Normaliser = "batch",
        low_quality: LowQuality = "forced",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_logits = num_classes
        self.rounding = anchors
        self.normaliser = normaliser
        self.low_quality = low_quality
        backbone = ResNet(
            depth,
            width=width,
            padding=padding,
            frozen_stages=frozen_stages,
            caffe_stride=caffe_stride,
        )
        channels = scale_channels(_CHANNELS, width)
        self.backbone = backbone
        self.neck = FeaturePyramid(
            backbone.channels[1:], channels, p6_from=p6_from, relu_before_p7=relu_before_p7
        )
        self.head = RetinaNetHead(channels, num_classes)
        self.register_buffer("anchor_shapes", build_retinanet_shapes(anchors), persistent=False)
        self.anchor_shapes: Tensor

    def train(self, mode: bool = True) -> RetinaNet:
        """Switch between training and evaluation; batch norm stays in evaluation."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> HeadOutputs:
        """Map normalised images [N,3,H,W] to logits [N,A,K] and deltas [N,A,4]."""
        levels = [self.head(level) for level in self.neck(self.backbone(images)[1:])]
        return HeadOutputs(
            logits=torch.cat([_flatten(logits, self.num_classes) for logits, _ in levels], 1),
            deltas=torch.cat([_flatten(deltas, 4) for _, deltas in levels], 1),
        )

    def num_anchors(self, image_hw: tuple[int, int]) -> int:
        """Return A for an input of this size."""
        return sum(rows * columns for rows, columns in retinanet_cells(image_hw)) * RETINANET_SHAPES

    def anchors(self, image_hw: tuple[int, int]) -> list[Tensor]:
        """Return each level's anchors `_cxcywh` [A_l,4] for an input of this size."""
        return build_retinanet_anchors(image_hw, self.anchor_shapes, rounding=self.rounding)

    def loss(
        self, outputs: HeadOutputs, target: Target, *, image_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return {"classification", "box"} for boxes in pixels of the input."""
        return retinanet_loss(
            outputs,
            target,
            torch.cat(self.anchors(image_hw)),
            normaliser=self.normaliser,
            low_quality=self.low_quality,
        )

    def candidates(
        self, outputs: HeadOutputs, *, image_hw: tuple[int, int], pre_topk: int
    ) -> Candidates:
        """Return the best (anchor, class) pairs of each level, joined."""
        return select_level_candidates(
            _split_levels(outputs, image_hw),
            self.anchors(image_hw),
            scales=BOX_SCALES,
            pre_topk=pre_topk,
        )

    def detect_as_published(
        self,
        outputs: HeadOutputs,
        parameters: PostprocessParameters,
        *,
        image_hw: tuple[int, int],
    ) -> PaddedDetections:
        """Return what `detect` returns, by mmdetection's postprocess."""
        return published_retinanet_postprocess(
            _split_levels(outputs, image_hw),
            self.anchors(image_hw),
            scales=BOX_SCALES,
            image_hw=image_hw,
            parameters=parameters,
        )


def _build_tower(channels: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(_TOWER_DEPTH)])


def _flatten(output: Tensor, size: int) -> Tensor:
    """Bring one level's [N,9*size,h,w] into the order of the anchors, [N,h*w*9,size]."""
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, size)


def _split_levels(outputs: HeadOutputs, image_hw: tuple[int, int]) -> list[HeadOutputs]:
    levels, start = [], 0
    for rows, columns in retinanet_cells(image_hw):
        end = start + rows * columns * RETINANET_SHAPES
        levels.append(HeadOutputs(outputs.logits[:, start:end], outputs.deltas[:, start:end]))
        start = end
    return levels
