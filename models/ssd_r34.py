"""SSD-ResNet34 at 300x300: MLPerf training's detector until v1.1, as the Ascend ModelZoo has it.

Liu et al. 2016 (SSD) on ResNet-34 cut after its third stage, whose stride is 1 instead of 2. Where
the published sources disagree this follows the ModelZoo's TensorFlow code (anchor order, matcher,
loss); padding `torch` goes with torchvision's backbone weights, `same` with TensorFlow's.

Shape letters: N images, A = 8,732 anchors, K = num_classes + 1 logits (logit 0 is background).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.anchors import SSD300_LEVELS, build_ssd_anchors
from models.detector import Detector
from models.losses import ssd_loss
from models.postprocess import (
    Candidates,
    PaddedDetections,
    PostprocessParameters,
    select_candidates,
)
from models.published_postprocess import published_ssd_postprocess
from models.resnet import Padding, ResNet, pad_same, scale_channels
from models.structures import HeadOutputs, Target

IMAGE_SIZE = 300
BOX_SCALES = (0.1, 0.2)
MATCH_IOU = 0.5

# Per extra block: channels of its 1x1 and of its 3x3 convolution, stride and padding of the 3x3.
_EXTRA_BLOCKS = (
    (256, 512, 2, 1),
    (256, 512, 2, 1),
    (128, 256, 2, 1),
    (128, 256, 1, 0),
    (128, 256, 1, 0),
)


class ExtraBlock(nn.Module):
    """A 1x1 and a 3x3 convolution with biases and ReLU, no batch norm."""

    def __init__(
        self, in_channels: int, shape: tuple[int, int, int, int], *, padding: Padding
    ) -> None:
        super().__init__()
        squeezed, channels, stride, pad = shape
        self.same_padding = padding == "same" and stride == 2
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 3, stride, 0 if self.same_padding else pad)

    def forward(self, features: Tensor) -> Tensor:
        """Map [N,C,H,W] to the next, smaller level."""
        features = F.relu(self.squeeze(features))
        if self.same_padding:
            features = pad_same(features, kernel=3, stride=2)
        return F.relu(self.expand(features))


class SSDResNet34(Detector):
    """SSD-ResNet34; `forward` gives raw head outputs, `loss` and `detect` wrap it.

    Args:
        num_classes: without background.
        width: channel multiplier; 1.0 is the published detector, 19,972,534 parameters at 80
            classes.
        padding: `torch`, or `same` for weights trained in TensorFlow.
        frozen_stages: of the backbone; with 1 or more also its stem.
    """

    class_head_prefix = "class_heads."

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        padding: Padding = "torch",
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_logits = num_classes + 1
        backbone = ResNet(34, (1, 2, 1), width=width, padding=padding, frozen_stages=frozen_stages)
        self.backbone = backbone
        channels = backbone.channels[-1:]
        blocks = []
        for squeezed, expanded, stride, pad in _EXTRA_BLOCKS:
            shape = (scale_channels(squeezed, width), scale_channels(expanded, width), stride, pad)
            blocks.append(ExtraBlock(channels[-1], shape, padding=padding))
            channels.append(shape[1])
        self.extras = nn.ModuleList(blocks)
        shapes = [level.num_shapes for level in SSD300_LEVELS]
        self.class_heads = _build_heads(channels, [count * (num_classes + 1) for count in shapes])
        self.box_heads = _build_heads(channels, [count * 4 for count in shapes])
        anchors = build_ssd_anchors(SSD300_LEVELS, IMAGE_SIZE)
        self.register_buffer("anchors_cxcywh", anchors, persistent=False)
        self.anchors_cxcywh: Tensor
        self._initialise_new_layers()

    def _initialise_new_layers(self) -> None:
        # Xavier weights as in every source; zero biases as in the TensorFlow ones.
        for part in (self.extras, self.class_heads, self.box_heads):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> HeadOutputs:
        """Map normalised images [N,3,300,300] to logits [N,8732,K] and deltas [N,8732,4]."""
        levels = self.backbone(images)[-1:]
        for block in self.extras:
            levels.append(block(levels[-1]))
        return HeadOutputs(
            logits=_flatten_heads(self.class_heads, levels, self.num_classes + 1),
            deltas=_flatten_heads(self.box_heads, levels, 4),
        )

    def num_anchors(self, image_hw: tuple[int, int]) -> int:
        """Return 8,732."""
        _require_300(image_hw)
        return len(self.anchors_cxcywh)

    def loss(
        self, outputs: HeadOutputs, target: Target, *, image_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return {"classification", "box"} for boxes in pixels of the 300x300 input."""
        _require_300(image_hw)
        return ssd_loss(
            outputs, target, self.anchors_cxcywh, scales=BOX_SCALES, iou_threshold=MATCH_IOU
        )

    def candidates(
        self, outputs: HeadOutputs, *, image_hw: tuple[int, int], pre_topk: int
    ) -> Candidates:
        """Return the best (anchor, class) pairs: boxes [N,P,4], scores and labels [N,P]."""
        _require_300(image_hw)
        return select_candidates(outputs, self.anchors_cxcywh, scales=BOX_SCALES, pre_topk=pre_topk)

    def detect_as_published(
        self,
        outputs: HeadOutputs,
        parameters: PostprocessParameters,
        *,
        image_hw: tuple[int, int],
    ) -> PaddedDetections:
        """Return what `detect` returns, by the exact published postprocess."""
        _require_300(image_hw)
        return published_ssd_postprocess(
            outputs,
            self.anchors_cxcywh,
            scales=BOX_SCALES,
            image_hw=image_hw,
            parameters=parameters,
        )


def _require_300(image_hw: tuple[int, int]) -> None:
    assert image_hw == (IMAGE_SIZE, IMAGE_SIZE), "the anchors are those of 300x300 pixels"


def _build_heads(in_channels: list[int], out_channels: list[int]) -> nn.ModuleList:
    pairs = zip(in_channels, out_channels, strict=True)
    return nn.ModuleList([nn.Conv2d(inside, outside, 3, padding=1) for inside, outside in pairs])


def _flatten_heads(heads: nn.ModuleList, levels: list[Tensor], size: int) -> Tensor:
    outputs = [head(level) for head, level in zip(heads, levels, strict=True)]
    return torch.cat(
        [out.permute(0, 2, 3, 1).reshape(out.shape[0], -1, size) for out in outputs], 1
    )
