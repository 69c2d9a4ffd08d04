"""`bench device`: a row for each batch, within its time; what is left out is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.bench import device as bench
from suite.bench.ceiling import Ceiling
from suite.bench.device import bench_device
from suite.bench.device_rows import Subject, Timed, open_subject
from suite.device import Device, build_device
from suite.errors import MissingEnvironment
from suite.recipe import load_recipe
from suite.records import expand, load_record

Run = Callable[..., Any]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both detectors of width 0.125, at small sizes, batches of 1 and 2."""
    names = {"ssd_r34": "ssd_r34_1p", "retinanet_r50_fpn": "retinanet_r50_fpn_1p"}
    sizes = {"ssd_r34": (300, 300), "retinanet_r50_fpn": (96, 160)}

    def open_narrow(detector: str, device: Device) -> Subject:
        recipe = load_recipe(names[detector], {"detector.width": "0.125"})
        return Subject(recipe, sizes[detector], device)

    monkeypatch.setattr(bench, "open_subject", open_narrow)
    monkeypatch.setattr(bench, "_BATCHES", (1, 2))


@pytest.mark.usefixtures("narrow")
def test_one_record_with_a_row_for_each_measurement(tmp_path: Path, run_suite: Run) -> None:
    done = run_suite(
        "bench", "device", "--device", "cpu", "--minutes", "0.15", "--output", str(tmp_path)
    )
    assert done.code == 0, done.stderr
    record = load_record(next(tmp_path.rglob("record.json")))
    rows = expand(record)
    measured = {
        (row["subject"]["detector"], row["kind"], row["conditions"]["precision"]) for row in rows
    }
    assert ("ssd_r34", "bench-infer", "fp32") in measured
    assert ("retinanet_r50_fpn", "bench-train", "fp32") in measured
    for row in rows:
        metrics, batch = row["metrics"], row["conditions"]["batch"]
        assert metrics["images_per_second"] == pytest.approx(
            1000 * batch / metrics["latency_ms_p50"]
        )
        assert row["conditions"]["n"] >= 2
        ceiling = record["metrics"][f"ceiling_tflops_{row['conditions']['precision']}"] * 1e12
        assert metrics["model_flop_utilisation"] == pytest.approx(
            metrics["flops_per_image"] * metrics["images_per_second"] / ceiling
        )
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[:4])
    assert f"{rows[0]['metrics']['images_per_second']:,.4g}" in done.stdout


def test_the_published_operations_are_counted() -> None:
    """Forward 31.72 and with backward 94.75 GFLOP at 300; 500.98 and 1426.75 at 800 x 1344."""
    cpu = build_device("cpu", "fp32")
    ssd, retinanet = open_subject("ssd_r34", cpu), open_subject("retinanet_r50_fpn", cpu)
    assert ssd.flops_per_image("infer") / 1e9 == pytest.approx(31.724, abs=0.001)
    assert ssd.flops_per_image("train") / 1e9 == pytest.approx(94.749, abs=0.001)
    assert retinanet.flops_per_image("infer") / 1e9 == pytest.approx(500.98, abs=0.01)
    # Stem and first stage are frozen.
    assert retinanet.flops_per_image("train") / 1e9 == pytest.approx(1426.75, abs=0.01)


@pytest.fixture
def known_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    ceiling = Ceiling(products=1e15, convolutions=1e15)
    monkeypatch.setattr(bench, "measure_ceiling", lambda _device: ceiling)


def timed(batch: int, images_per_second: float) -> Timed:
    return Timed(
        batch=batch,
        runs=2,
        seconds=batch / images_per_second,
        peak_memory_bytes=1,
        joules_per_image=None,
    )


def measure_with(
    measure: Callable[[int, float], Timed], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Bench a device whose measurements are made up; return the rows of one group."""
    monkeypatch.setattr(Subject, "infer", lambda _self, batch, seconds: measure(batch, seconds))
    monkeypatch.setattr(Subject, "train", lambda _self, batch, seconds: measure(batch, seconds))
    record = bench_device("cpu", minutes=0.5)
    return [
        row
        for row in record["rows"]
        if row["kind"] == "bench-infer"
        and row["conditions"]["precision"] == "fp32"
        and row["subject"]["detector"] == "ssd_r34"
    ]


@pytest.mark.usefixtures("known_ceiling")
def test_batches_grow_until_they_do_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {1: 1000.0, 4: 2000.0, 16: 2010.0, 64: 9000.0}
    rows = measure_with(lambda batch, _: timed(batch, speeds[batch]), monkeypatch)
    assert [row["conditions"]["batch"] for row in rows] == [1, 4, 16]


@pytest.mark.usefixtures("known_ceiling")
def test_batches_grow_until_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(batch: int, _seconds: float) -> Timed:
        if batch > 4:
            raise MissingEnvironment("ran out of memory")
        return timed(batch, 1000.0 * batch)

    rows = measure_with(measure, monkeypatch)
    assert [row["conditions"]["batch"] for row in rows] == [1, 4]


@pytest.mark.usefixtures("known_ceiling")
def test_a_device_on_which_nothing_runs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_batch: int, _seconds: float) -> Timed:
        raise MissingEnvironment("lacks the operator aten::x")

    with pytest.raises(MissingEnvironment, match="nothing could be measured: ssd_r34 infer fp32"):
        measure_with(measure, monkeypatch)


@pytest.mark.usefixtures("known_ceiling")
def test_what_was_not_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(batch: int, _seconds: float) -> Timed:
        time.sleep(1.2)
        return timed(batch, 1.0)

    monkeypatch.setattr(Subject, "infer", lambda _self, batch, seconds: measure(batch, seconds))
    record = bench_device("cpu", minutes=1 / 60)
    assert len(record["rows"]) <= 1
    assert any(
        note.startswith("not measured, the time was up: ssd_r34") for note in record["notes"]
    )
