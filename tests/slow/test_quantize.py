"""A detector that has learnt loses next to nothing in 8 bits, and what it loses is what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints
from suite.data.synthetic import write_synthetic
from suite.deploy.export import export
from suite.evaluation.model import EvaluationRequest, evaluate_model
from suite.graph_file import load_graph
from suite.recipe import load_recipe
from suite.records import load_record
from suite.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_MAX_DROP = 0.005


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a recipe and the graph of the demo's detector after 3 epochs."""
    folder = tmp_path_factory.mktemp("learnt")
    write_synthetic(folder / "data", num_train=1200, num_val=60, seed=0)
    overrides = {
        "data.root": str(folder / "data"),
        "schedule.epochs": "3",
        "schedule.decay_epochs": "3",
    }
    run = train(load_recipe("demo", overrides), output=folder, evaluate_at_end=False)
    export(list_checkpoints(run / "checkpoints")[-1], output=run / "checkpoints" / "model.onnx")
    return run


def test_a_learnt_detector_keeps_its_ap(
    learnt: Path, tmp_path: Path, run_suite: Callable[..., Any]
) -> None:
    recipe = load_recipe(str(learnt / "recipe.yaml"))
    graph, target = learnt / "checkpoints" / "model.onnx", tmp_path / "int8.onnx"
    done = run_suite(
        "quantize", str(graph), "--calibrate", str(Path(recipe.data.root) / "train"),
        "--max-drop", str(_MAX_DROP), "--output", str(target), "--records", str(tmp_path),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    request = EvaluationRequest(recipe=recipe, device="cpu", output=tmp_path)
    before, after = (evaluate_model(path, request)[0].ap for path in (graph, target))
    assert before is not None and after is not None
    assert before > 0.03  # it has begun to learn
    assert before - after <= _MAX_DROP
    metrics = load_record(tmp_path / "quantize-model-1" / "record.json")["metrics"]
    assert (metrics["ap_before"], metrics["ap"]) == pytest.approx((before, after))
    assert metrics["size_bytes"] < 0.5 * metrics["size_bytes_before"]


def test_a_budget_of_nothing_is_searched_or_refused(
    learnt: Path, tmp_path: Path, run_suite: Callable[..., Any]
) -> None:
    """Ranked by the detector's own heads; either the budget holds or there is no file."""
    recipe = load_recipe(str(learnt / "recipe.yaml"))
    target = tmp_path / "int8.onnx"
    done = run_suite(
        "quantize", str(learnt / "checkpoints" / "model.onnx"),
        "--calibrate", str(Path(recipe.data.root) / "train"), "--calibration-images", "16",
        "--max-drop", "0", "--max-evaluations", "5",
        "--output", str(target), "--records", str(tmp_path),
    )  # fmt: skip
    record = load_record(tmp_path / "quantize-model-1" / "record.json")
    before, *points = record["conditions"]["frontier"]
    holding = [point["num_float"] for point in points if point["ap"] >= before["ap"]]
    assert len(points) <= 5
    assert (done.code, target.exists()) == ((0, True) if holding else (3, False))
    if holding:
        calibration = load_graph(target).metadata.calibration
        assert calibration is not None
        assert len(calibration.float_nodes) == min(holding)
