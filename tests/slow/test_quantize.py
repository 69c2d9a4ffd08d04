"""A detector that has learnt loses next to nothing in 8 bits, and what it loses is what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.evaluation.model import EvaluationRequest, evaluate_model, find_recipe_of
from suite.graph_file import load_graph
from suite.records import load_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_MAX_DROP = 0.005


@pytest.fixture
def learnt(finished_demo: Path) -> Path:
    """The demo's graph, in its run folder."""
    (graph,) = (finished_demo / "runs").glob("*/checkpoints/*.onnx")
    return graph


def test_a_learnt_detector_keeps_its_ap(
    learnt: Path, tmp_path: Path, run_suite: Callable[..., Any]
) -> None:
    recipe, target = find_recipe_of(learnt), tmp_path / "int8.onnx"
    done = run_suite(
        "quantize", str(learnt), "--calibrate", str(Path(recipe.data.root) / "train"),
        "--max-drop", str(_MAX_DROP), "--output", str(target), "--records", str(tmp_path),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    request = EvaluationRequest(recipe=recipe, device="cpu", output=tmp_path)
    before, after = (evaluate_model(path, request)[0].ap for path in (learnt, target))
    assert before is not None and after is not None
    assert before > 0.03  # it has learnt
    assert before - after <= _MAX_DROP
    metrics = load_record(tmp_path / f"quantize-{learnt.stem}-1" / "record.json")["metrics"]
    assert (metrics["ap_before"], metrics["ap"]) == pytest.approx((before, after))
    assert metrics["size_bytes"] < 0.5 * metrics["size_bytes_before"]


def test_a_budget_of_nothing_is_searched_or_refused(
    learnt: Path, tmp_path: Path, run_suite: Callable[..., Any]
) -> None:
    """Ranked by the detector's own heads; either the budget holds or there is no file."""
    recipe, target = find_recipe_of(learnt), tmp_path / "int8.onnx"
    done = run_suite(
        "quantize", str(learnt),
        "--calibrate", str(Path(recipe.data.root) / "train"), "--calibration-images", "16",
        "--max-drop", "0", "--max-evaluations", "5",
        "--output", str(target), "--records", str(tmp_path),
    )  # fmt: skip
    record = load_record(tmp_path / f"quantize-{learnt.stem}-1" / "record.json")
    before, *points = record["conditions"]["frontier"]
    holding = [point["num_float"] for point in points if point["ap"] >= before["ap"]]
    assert len(points) <= 5
    assert (done.code, target.exists()) == ((0, True) if holding else (3, False))
    if holding:
        calibration = load_graph(target).metadata.calibration
        assert calibration is not None
        assert len(calibration.float_nodes) in holding
