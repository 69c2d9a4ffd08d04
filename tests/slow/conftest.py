"""A TensorFlow of its own environment, installed once for all tests that hold us against it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("tensorflow-cpu==2.21.0", "tf-keras==2.21.0")  # they wrote the stored files


@pytest.fixture(scope="session")
def tensorflow_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment that holds TensorFlow."""
    home = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True, timeout=900)
    return home / "bin" / "python"
