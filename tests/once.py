"""What costs much and is needed by several tests, which may run in several processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from suite.locking import alone


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Return a folder of this test run, which `build` has filled once."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes of the run
    folder, built = base / name, base / f"{name}.built"
    with alone(base / f"{name}.lock", say=lambda _waiting: None):
        if not built.exists():
            folder.mkdir(exist_ok=True)
            build(folder)
            built.touch()
    return folder
