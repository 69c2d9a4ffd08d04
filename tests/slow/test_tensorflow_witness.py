"""Checkpoints that TensorFlow writes here and now, read by the tests of the stored ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of checkpoints that a freshly installed TensorFlow wrote."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    packages = ["tensorflow-cpu", "tf-keras"]
    subprocess.run([home / "bin" / "pip", "install", "--quiet", *packages], check=True, timeout=900)
    folder = tmp_path_factory.mktemp("checkpoints")
    script = REPOSITORY / "tests" / "witnesses" / "tensorflow_checkpoint.py"
    command = [home / "bin" / "python", script, folder, "--published"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def test_what_tensorflow_writes_is_read(written: Path) -> None:
    tests = [f"tests/unit/zoo/{name}.py" for name in ("test_tensor_bundle", "test_tf_resnet34")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--no-skips", *tests],
        cwd=REPOSITORY,
        env=os.environ | {"SUITE_TENSORFLOW_FILES": str(written)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout


def test_a_whole_checkpoint_is_imported(written: Path, tmp_path: Path) -> None:
    """At the published width, which is too large to be stored with the tests."""
    output = tmp_path / "ours.pth"
    source = written / "published" / "model.ckpt-28152"
    command = [sys.executable, "-m", "suite", "weights", "import", source]
    done = subprocess.run(
        [*command, "--from", "tf-resnet34", "--output", output], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "180 keys mapped, 113 ignored, 0 unknown, 0 missing" in done.stdout
    assert "note: goes with detector.padding: same" in done.stdout
    assert output.is_file()
