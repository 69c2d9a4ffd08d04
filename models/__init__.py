"""Detectors: torch only. No file access, no recipe, no device choice."""

from __future__ import annotations

from collections.abc import Callable

from models.detector import Detector
from models.resnet import Padding
from models.ssd_r34 import SSDResNet34

__all__ = ["DETECTORS", "Detector", "Padding", "build_detector"]

DETECTORS: dict[str, Callable[..., Detector]] = {"ssd_r34": SSDResNet34}


def build_detector(
    name: str, *, num_classes: int, width: float = 1.0, padding: Padding = "torch"
) -> Detector:
    """Build a detector with fresh weights.

    Args:
        name: a key of `DETECTORS`.
        num_classes: without background.
        width: channel multiplier; 1.0 is the published detector.
        padding: `torch`, or `same` for weights trained in TensorFlow.

    Raises:
        KeyError: the name is unknown.
    """
    return DETECTORS[name](num_classes, width=width, padding=padding)
