"""Detectors: torch only. No file access, no recipe, no device choice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from models.detector import Detector
from models.resnet import Padding
from models.retinanet import RetinaNet
from models.ssd_r34 import SSDResNet34

__all__ = ["DETECTORS", "Detector", "Padding", "build_detector"]

DETECTORS: dict[str, Callable[..., Detector]] = {
    "ssd_r34": SSDResNet34,
    "retinanet_r18_fpn": partial(RetinaNet, depth=18),
    "retinanet_r34_fpn": partial(RetinaNet, depth=34),
    "retinanet_r50_fpn": partial(RetinaNet, depth=50),
    "retinanet_r101_fpn": partial(RetinaNet, depth=101),
}


def build_detector(name: str, *, num_classes: int, **options: Any) -> Detector:
    """Build a detector with fresh weights.

    Args:
        name: a key of `DETECTORS`.
        num_classes: without background.
        options: `width`, `padding`, `frozen_stages` of every detector; see `RetinaNet` for more.

    Raises:
        KeyError: the name is unknown.
    """
    return DETECTORS[name](num_classes, **options)
