"""`pip install .` into an empty environment: the installed suite works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of executables of an environment that holds the built wheel."""
    repository = Path(__file__).resolve().parents[2]
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    constraints = repository / "constraints.txt"
    command = [home / "bin" / "pip", "install", "--quiet", "--constraint", constraints, repository]
    subprocess.run(command, check=True, timeout=900)
    return home / "bin"


def _run(installed: Path, folder: Path, *arguments: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [installed / "suite", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_and_reference_travel_with_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert "ssd_r34_8p" in _run(installed, tmp_path, "recipes", "list")
    assert "4474.27" in _run(installed, tmp_path, "report", "--compare", "reference")


def test_the_road_runs_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    _run(installed, tmp_path, "data", "synth", "data", "--train", "16", "--val", "4")
    short = [
        "schedule.epochs=1",
        "detector.width=0.125",
        "global_batch=4",
        "schedule.warmup_epochs=0",
    ]
    flags = [word for assignment in short for word in ("--set", assignment)]
    run = _run(installed, tmp_path, "train", "demo", "--data", "data", *flags).strip()
    (checkpoint,) = sorted((tmp_path / run / "checkpoints").glob("*.pth"))[-1:]
    _run(installed, tmp_path, "export", str(checkpoint))
    graph = str(checkpoint.with_suffix(".onnx"))
    _run(installed, tmp_path, "verify", graph, "--against", str(checkpoint))
    _run(installed, tmp_path, "eval", graph, "--data", "data")
    _run(installed, tmp_path, "predict", graph, "data/val")
    _run(installed, tmp_path, "bench", "infer", graph, "--runs", "3", "--warmup", "1")
    assert run in _run(installed, tmp_path, "report", "--compare", "reference")


def test_torchvision_is_not_needed(installed: Path) -> None:
    listed = subprocess.run(
        [installed / "pip", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert "torchvision" not in listed
