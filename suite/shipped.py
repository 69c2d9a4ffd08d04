"""Where the recipes and the published numbers lie that come with the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent
_IN_CHECKOUT = {"recipes": "recipes", "reference": "reports/reference"}


def shipped_folder(name: Literal["recipes", "reference"]) -> Path:
    """Return the folder of shipped data: the wheel carries it, else it is the checkout's own."""
    in_wheel = _PACKAGE / "_data" / name
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / _IN_CHECKOUT[name]
