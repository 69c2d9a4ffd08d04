"""`bench infer`: scenarios, blocks, and two candidates in one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.bench.candidate import InferenceRequest
from suite.bench.infer import bench_infer
from suite.bench.stable import NO_WINNER
from suite.records import load_record

Run = Callable[..., Any]


def test_offline_overlaps_loading_and_prices_the_harness(small_graph: Path) -> None:
    asked = InferenceRequest(
        model=small_graph, scenario="offline", batch=4, runs=5, warmup=1, device="cpu", workers=0
    )
    record = bench_infer(asked)
    metrics, conditions = record["metrics"], record["conditions"]
    assert (conditions["scenario"], conditions["n"], conditions["workers"]) == ("offline", 5, 0)
    seconds = sum(record["series"]["batch_interval_ms"]) / 1000
    assert not any(name.startswith("latency") for name in metrics)
    assert metrics["images_per_second"] == pytest.approx(5 * 4 / seconds)
    assert metrics["images_per_second_null"] > metrics["images_per_second"]
    assert metrics["energy_j_per_image"] is None
    assert conditions["energy_sensor"] == "none"
    assert "infer_ms_p50" not in metrics


def test_stable_gives_intervals_and_says_whether_the_machine_was_calm(small_graph: Path) -> None:
    asked = InferenceRequest(model=small_graph, runs=20, warmup=1, device="cpu", stable=True)
    record = bench_infer(asked)
    metrics, conditions = record["metrics"], record["conditions"]
    assert (conditions["blocks"], conditions["n"]) == (15, 30)  # 2 runs a block, at least as asked
    for name in ("latency_ms_p50", "images_per_second"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert conditions["calm"] is (not record["notes"])
    assert (
        "latency_ms_p50_low"
        not in bench_infer(InferenceRequest(model=small_graph, runs=1, warmup=0, device="cpu"))[
            "metrics"
        ]
    )


def test_a_checkpoint_and_its_graph_in_one_run(
    small_checkpoint: Path, small_graph: Path, tmp_path: Path, run_suite: Run
) -> None:
    command = ["bench", "infer", small_checkpoint, "--vs", small_graph, "--runs", 15, "--warmup", 1]
    done = run_suite(*map(str, command), "--device", "cpu", "--output", str(tmp_path))
    assert done.code == 0, done.stderr
    record = load_record(next(tmp_path.rglob("record.json")))
    metrics, subject = record["metrics"], record["subject"]
    assert record["kind"] == "bench-compare"
    assert subject["a"]["runtime"].startswith("torch")
    assert subject["b"]["runtime"].startswith("onnxruntime")
    assert subject["b"]["file"] == small_graph.name
    assert metrics["ratio"] == pytest.approx(
        metrics["a_latency_ms_p50"] / metrics["b_latency_ms_p50"], rel=0.3
    )
    assert metrics["ratio_low"] <= metrics["ratio"] <= metrics["ratio_high"]
    winner = record["conditions"]["winner"]
    apart = {
        "a": metrics["a_latency_ms_p50_high"] < metrics["b_latency_ms_p50_low"],
        "b": metrics["b_latency_ms_p50_high"] < metrics["a_latency_ms_p50_low"],
    }
    assert winner == next((side for side, is_so in apart.items() if is_so), NO_WINNER)
    assert f"b runs at {metrics['ratio']:.4g}" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere.onnx", "--vs nowhere.onnx: no such file"),
        ("precison=bf16", "unknown setting 'precison'; known: device, precision"),
        ("runtime=trt", "--vs runtime=trt: expected one of ort, openvino"),
        ("threads=0", "--vs threads=0: expected a whole number from 1"),
        ("threads=two", "--vs threads=two: expected a whole number from 1"),
    ],
)
def test_what_is_no_other_side_is_refused(
    text: str, said: str, small_graph: Path, run_suite: Run
) -> None:
    done = run_suite("bench", "infer", str(small_graph), "--vs", text)
    assert done.code == 2
    assert said in done.stderr


def test_settings_of_one_model_against_each_other(
    small_graph: Path, tmp_path: Path, run_suite: Run
) -> None:
    command = ["bench", "infer", str(small_graph), "--vs", "threads=1,batch=2", "--runs", "1"]
    done = run_suite(*command, "--warmup", "0", "--output", str(tmp_path), "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["subject"]["b"]["threads"], record["subject"]["b"]["batch"]) == (1, 2)
    assert record["subject"]["a"]["batch"] == 1
