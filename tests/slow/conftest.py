"""What costs minutes and is needed by several tests: a TensorFlow of its own, a finished demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from suite.demo import demo
from tests.once import build_once

PACKAGES = ("tensorflow-cpu==2.21.0", "tf-keras==2.21.0")  # they wrote the stored files


@pytest.fixture(scope="session")
def tensorflow_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment that holds TensorFlow."""
    home = tmp_path_factory.mktemp("tensorflow")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([home / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True, timeout=900)
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a demo that ran to its end: data, runs and report."""

    def run(folder: Path) -> None:
        demo(folder)

    return build_once(tmp_path_factory, "demo", run)
