"""Detectors: torch only. No file access, no recipe, no device choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.ssd_r34 import SSDResNet34

DETECTORS: dict[str, Callable[..., SSDResNet34]] = {"ssd_r34": SSDResNet34}


def build_detector(name: str, *, num_classes: int, **arguments: Any) -> SSDResNet34:
    """Build a detector with fresh weights.

    Args:
        name: a key of `DETECTORS`.
        num_classes: without background.
        **arguments: of the detector's class (`width`, `padding`).

    Raises:
        KeyError: the name is unknown.
    """
    return DETECTORS[name](num_classes, **arguments)
