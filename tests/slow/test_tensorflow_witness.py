"""Checkpoints that TensorFlow writes here and now, read by the tests of the stored ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import build_detector
from suite.weights import load_backbone_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(tensorflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of checkpoints that TensorFlow wrote."""
    folder = tmp_path_factory.mktemp("checkpoints")
    script = REPOSITORY / "tests" / "witnesses" / "tensorflow_checkpoint.py"
    command = [tensorflow_python, script, folder, "--published"]
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


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("model.ckpt-28152", "180 keys mapped, 113 ignored, 0 unknown, 0 missing"),
        ("model.ckpt-120000", "145 keys mapped, 92 ignored, 0 unknown, 0 missing"),
    ],
    ids=["classifier", "detector"],
)
def test_a_whole_checkpoint_starts_ssd(
    written: Path, tmp_path: Path, name: str, counts: str
) -> None:
    """At the published width, which is too large to be stored with the tests."""
    output = tmp_path / "ours.pth"
    command = [sys.executable, "-m", "suite", "weights", "import", written / "published" / name]
    done = subprocess.run(
        [*command, "--from", "tf-resnet34", "--output", output], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert counts in done.stdout
    assert "note: goes with detector.padding: same" in done.stdout
    backbone = build_detector("ssd_r34", num_classes=80, padding="same").backbone
    load_backbone_weights(backbone, str(output))
    values = np.load(written / "published" / f"{name}.npz")
    scope = "resnet34/" if "resnet34/conv2d/kernel" in values else ""
    kernel = values[f"{scope}conv2d_28/kernel"].transpose(3, 2, 0, 1)
    assert np.array_equal(backbone.state_dict()["layer3.5.conv2.weight"].numpy(), kernel)
