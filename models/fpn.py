"""The feature pyramid of RetinaNet: P3 to P7 (Lin et al. 2017, Feature Pyramid Networks).

Shape letters: N images, H W rows and columns of the network input; C3 to C5 are the backbone's maps
at strides 8, 16, 32, P3 to P7 the pyramid's at strides 8 to 128.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

P6Source = Literal["c5", "p5"]


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, summed from the top down, a 3x3 each, and two more levels.

    Convolutions have biases, no norm, no activation; Xavier weights, zero biases.

    Args:
        in_channels: of C3, C4 and C5.
        channels: of every level.
        p6_from: what P6 is computed from.
        relu_before_p7: whether P7 sees the rectified P6.
    """

    def __init__(
        self,
        in_channels: list[int],
        channels: int,
        *,
        p6_from: P6Source = "c5",
        relu_before_p7: bool = False,
    ) -> None:
        super().__init__()
        self.p6_from = p6_from
        self.relu_before_p7 = relu_before_p7
        self.lateral = nn.ModuleList([nn.Conv2d(inside, channels, 1) for inside in in_channels])
        self.output = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)])
        p6_channels = in_channels[-1] if p6_from == "c5" else channels
        self.p6 = nn.Conv2d(p6_channels, channels, 3, 2, 1)
        self.p7 = nn.Conv2d(channels, channels, 3, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map C3, C4, C5 to P3 to P7, [N,channels,H/stride,W/stride] each, rounded up."""
        laterals = [conv(level) for conv, level in zip(self.lateral, features, strict=True)]
        for finer in (1, 0):
            coarser = F.interpolate(laterals[finer + 1], size=laterals[finer].shape[-2:])
            laterals[finer] = laterals[finer] + coarser
        levels = [conv(lateral) for conv, lateral in zip(self.output, laterals, strict=True)]
        p6 = self.p6(features[-1] if self.p6_from == "c5" else levels[-1])
        p7 = self.p7(F.relu(p6) if self.relu_before_p7 else p6)
        return [*levels, p6, p7]
