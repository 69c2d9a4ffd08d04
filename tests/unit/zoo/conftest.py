"""Checkpoints that a real TensorFlow wrote (tests/witnesses/tensorflow_checkpoint.py)."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

PACKED = Path(__file__).parent / "files" / "tensorflow.tar.xz"


@pytest.fixture(scope="session")
def tensorflow_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoints: SUITE_TENSORFLOW_FILES, else the packed ones."""
    if "SUITE_TENSORFLOW_FILES" in os.environ:
        return Path(os.environ["SUITE_TENSORFLOW_FILES"])
    folder = tmp_path_factory.mktemp("tensorflow")
    with tarfile.open(PACKED) as archive:
        archive.extractall(folder, filter="data")
    return folder
