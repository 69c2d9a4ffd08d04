"""What every detector offers to code that does not care which one it has.

Shape letters: N images, H W rows and columns of the network input, A anchors, K logits per anchor,
P candidates, D `max_detections`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.postprocess import Candidates, PaddedDetections, PostprocessParameters
from models.structures import HeadOutputs, Target


class Detector(nn.Module, ABC):
    """A network whose raw outputs `loss` and `detect` interpret; declarations only.

    Attributes:
        image_hw: height and width of the network input.
        num_classes: without background.
        backbone: takes published classification weights under their own key names.
    """

    image_hw: tuple[int, int]
    num_classes: int
    backbone: nn.Module

    if TYPE_CHECKING:  # torch leaves it untyped

        def __call__(self, images: Tensor) -> HeadOutputs:
            """Run `forward` and the hooks."""

    @abstractmethod
    def forward(self, images: Tensor) -> HeadOutputs:
        """Map normalised images [N,3,H,W] to logits [N,A,K] and deltas [N,A,4]."""

    @abstractmethod
    def loss(self, outputs: HeadOutputs, target: Target) -> dict[str, Tensor]:
        """Return named scalar losses, whose sum is trained, for boxes in pixels of the input."""

    @abstractmethod
    def candidates(self, outputs: HeadOutputs, *, pre_topk: int) -> Candidates:
        """Return the best (anchor, class) pairs: boxes [N,P,4], scores and labels [N,P]."""

    @abstractmethod
    def detect(self, outputs: HeadOutputs, parameters: PostprocessParameters) -> PaddedDetections:
        """Return boxes [N,D,4] in pixels of the input, scores and labels [N,D], counts [N]."""

    @abstractmethod
    def detect_as_published(
        self, outputs: HeadOutputs, parameters: PostprocessParameters
    ) -> PaddedDetections:
        """Return what `detect` returns, by the exact published postprocess."""
