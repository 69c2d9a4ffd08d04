"""A photo that the tests of several annotation formats share."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of 64 x 48 pixels."""
    path = tmp_path_factory.mktemp("photo") / "a.jpg"
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(path)
    return path
