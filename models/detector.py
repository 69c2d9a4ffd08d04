"""What every detector offers to code that does not care which one it has.

Shape letters: N images, H W rows and columns of the network input, A anchors, K logits per anchor,
P candidates, D `max_detections`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.postprocess import (
    Candidates,
    PaddedDetections,
    PostprocessParameters,
    postprocess,
)
from models.structures import HeadOutputs, Target


class Detector(nn.Module, ABC):
    """A network whose raw outputs `loss` and `detect` interpret.

    These take `image_hw`, the height and width of the input that the outputs came from.

    Attributes:
        num_classes: without background.
        num_logits: per anchor, K; one more than classes where logit 0 is background.
        backbone: takes published classification weights under their own key names.
        class_head_prefix: of the keys whose shape depends on the number of classes.
    """

    num_classes: int
    num_logits: int
    backbone: nn.Module
    class_head_prefix: str

    if TYPE_CHECKING:  # torch leaves it untyped

        def __call__(self, images: Tensor) -> HeadOutputs:
            """Run `forward` and the hooks."""

    @abstractmethod
    def forward(self, images: Tensor) -> HeadOutputs:
        """Map normalised images [N,3,H,W] to logits [N,A,K] and deltas [N,A,4]."""

    @abstractmethod
    def num_anchors(self, image_hw: tuple[int, int]) -> int:
        """Return A for an input of this size."""

    @abstractmethod
    def loss(
        self, outputs: HeadOutputs, target: Target, *, image_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return named scalar losses, whose sum is trained, for boxes in pixels of the input."""

    @abstractmethod
    def candidates(
        self, outputs: HeadOutputs, *, image_hw: tuple[int, int], pre_topk: int
    ) -> Candidates:
        """Return the best (anchor, class) pairs: boxes [N,P,4], scores and labels [N,P]."""

    def detect(
        self,
        outputs: HeadOutputs,
        parameters: PostprocessParameters,
        *,
        image_hw: tuple[int, int],
    ) -> PaddedDetections:
        """Return boxes [N,D,4] in pixels of the input, scores and labels [N,D], counts [N]."""
        candidates = self.candidates(outputs, image_hw=image_hw, pre_topk=parameters.pre_topk)
        return self.suppress(candidates, parameters, image_hw=image_hw)

    def suppress(
        self,
        candidates: Candidates,
        parameters: PostprocessParameters,
        *,
        image_hw: tuple[int, int],
    ) -> PaddedDetections:
        """Return what `detect` returns, of candidates: the NMS stage."""
        return postprocess(
            *candidates, num_classes=self.num_classes, image_hw=image_hw, parameters=parameters
        )

    @abstractmethod
    def detect_as_published(
        self,
        outputs: HeadOutputs,
        parameters: PostprocessParameters,
        *,
        image_hw: tuple[int, int],
    ) -> PaddedDetections:
        """Return what `detect` returns, by the exact published postprocess."""
