"""What `suite report` shows of which records: filters, other records, rows of one, CSV."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.record_rules import SCHEMA
from suite.records import build_record, write_record
from suite.report import MAX_PAIRS
from suite.report.figures import KNOWN_METRICS

H200 = {"device": "cuda", "device_name": "NVIDIA H200", "devices": 1, "batch": 1, "scope": "global"}
CPU = {"device": "cpu", "device_name": "AMD EPYC", "devices": 1, "batch": 1, "scope": "global"}
EVIL = "\x1b[2J\r\nx | <b> [a](javascript:1)\u202e\ud800" + "y" * 5000


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(
    name: str,
    metrics: dict[str, float | None],
    *,
    kind: str = "bench-infer",
    conditions: dict[str, Any] = H200,
    subject: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    about = {"detector": "ssd_r34", "dataset": "COCO2017"} | (subject or {})
    record = build_record(kind, metrics=metrics, subject=about, conditions=conditions) | more
    path = Path(f"runs/{name}/record.json")
    write_record(record, path)
    return path


def names(run_suite: Callable[..., Any], *arguments: str) -> set[str]:
    done = run_suite("report", *arguments, "--format", "json")
    assert done.code == 0, done.stderr
    return {Path(entry["name"]).name for entry in json.loads(done.stdout)["records"]}


@pytest.fixture
def three() -> None:
    speed = {"images_per_second": 100.0, "latency_ms_p50": 9.5, "latency_ms_p99": 12.0}
    write("ssd-gpu", speed | {"images_per_second_low": 98.0, "images_per_second_high": 103.0})
    write("ssd-cpu", {"images_per_second": 10.0}, conditions=CPU)
    retina = {"detector": "retinanet_r50_fpn"}
    write("retina-eval", {"ap": 0.364}, kind="eval", conditions=CPU, subject=retina)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {"ssd-gpu", "ssd-cpu", "retina-eval"}),
        (("--model", "ssd_r34"), {"ssd-gpu", "ssd-cpu"}),
        (("--model", "RETINA"), {"retina-eval"}),
        (("--model", "*_r34", "--model", "*_fpn"), {"ssd-gpu", "ssd-cpu", "retina-eval"}),
        (("--device", "cuda"), {"ssd-gpu"}),
        (("--device", "h200"), {"ssd-gpu"}),
        (("--device", "cpu", "--model", "ssd"), {"ssd-cpu"}),
        (("--metric", "ap"), {"retina-eval"}),
        (("--metric", "ap", "--metric", "latency_ms_p99"), {"retina-eval", "ssd-gpu"}),
    ],
)
def test_filters_choose_records(
    arguments: tuple[str, ...], expected: set[str], run_suite: Callable[..., Any]
) -> None:
    assert names(run_suite, *arguments) == expected


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "yolo"), "--model yolo: no record like that; there are: retinanet_r50_fpn, s"),
        (("--device", "npu"), "--device npu: no record like that; there are: 1 x AMD EPYC, 1 x H"),
        (("--metric", "ar1"), "--metric ar1: no record like that; there are: ap, images_per_sec"),
        (("--metric", "mAP"), "mAP: no such metric; known are ap, ap50"),
        (("--format", "xml"), "'xml' is not one of 'table', 'markdown'"),
        (("--output", "a.txt"), "give a name that ends in .md"),
        (("--compare", "runs/none"), "runs/none: no record here"),
    ],
)
def test_a_choice_of_nothing_is_a_mistake_that_says_what_there_is(
    arguments: tuple[str, ...], message: str, run_suite: Callable[..., Any]
) -> None:
    done = run_suite("report", *arguments)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.usefixtures("three")
def test_metrics_asked_for_stand_a_line_each_with_interval_and_scope(
    run_suite: Callable[..., Any],
) -> None:
    shown = ("--metric", "images_per_second", "--metric", "latency_ms_p99")
    lines = run_suite("report", *shown).stdout.splitlines()
    assert lines[0].split() == ["no.", "detector", "system", "figure", "value", "interval", "scope"]
    body = [" ".join(line.split()) for line in lines[2:5]]
    assert sorted(line.partition(" ")[2] for line in body) == [
        "ssd_r34 1 x AMD EPYC infer/s 10 global",
        "ssd_r34 1 x H200 infer/s 100 98 to 103 global",
        "ssd_r34 1 x H200 latency_ms_p99 12",
    ]


@pytest.mark.usefixtures("three")
def test_other_records_are_set_beside_ours(run_suite: Callable[..., Any]) -> None:
    write("ssd-new", {"images_per_second": 110.0})
    document = json.loads(
        run_suite("report", "--compare", "runs/ssd-*/record.json", "--format", "json").stdout
    )
    found = {(one["record"], one["other_record"]): one for one in document["comparisons"]}
    assert len(found) == 6
    new = found["runs/ssd-new", "runs/ssd-gpu"]
    assert (new["verdict"], new["ratio"], new["row_id"]) == ("ahead", 1.1, None)
    assert found["runs/ssd-new", "runs/ssd-cpu"]["reasons"] == ["device cuda against cpu"]
    text = run_suite("report", "--compare", "runs/ssd-new").stdout
    assert "Against other records: 0 ahead, 0 level, 1 behind, 1 not comparable." in text
    assert max(map(len, text.splitlines())) <= 80


def test_more_pairs_than_anybody_reads_are_refused(run_suite: Callable[..., Any]) -> None:
    path = write("one", {"images_per_second": 1.0})
    rows = [{"kind": "bench-infer", "subject": {}, "conditions": {}, "metrics": {}}] * 200
    record = json.loads(path.read_text()) | {"rows": rows}
    path.write_text(json.dumps(record))
    assert MAX_PAIRS < 200 * 200
    done = run_suite("report", "--compare", "runs")
    assert done.code == 2
    assert "200 x 200 records are 40000 pairs, more than 20000" in done.stderr


def test_rows_of_one_record_stand_for_themselves(run_suite: Callable[..., Any]) -> None:
    rows = [
        {
            "kind": kind,
            "subject": {"detector": detector, "dataset": "COCO2017"},
            "conditions": H200 | {"precision": "bf16"},
            "metrics": {"images_per_second": value},
        }
        for kind, detector, value in (
            ("bench-train", "ssd_r34", 2000.0),
            ("bench-infer", "retinanet_r50_fpn", 300.0),
        )
    ]
    write("machine", {}, kind="bench-device", rows=rows)
    assert names(run_suite) == {"machine#1", "machine#2"}
    assert names(run_suite, "--model", "retina") == {"machine#2"}
    done = run_suite("report", "--compare", "reference", "--format", "json")
    found = [one for one in json.loads(done.stdout)["comparisons"] if one["row_id"] == "seed-003"]
    assert [one["record"] for one in found] == ["runs/machine#1"]


def test_a_comparison_that_was_measured_is_told_and_not_judged(
    run_suite: Callable[..., Any],
) -> None:
    metrics = {"ratio": 1.31, "ratio_low": 1.28, "ratio_high": 1.35}
    sides = {
        "detector": None,
        "a": {"file": "old.onnx", "runtime": "ort", "detector": "ssd_r34"},
        "b": {"recipe": "mine", "conditions": {"precision": "bf16"}},
    }
    write("versus", metrics, kind="bench-compare", subject=sides)
    text = run_suite("report", "--compare", "reference").stdout
    said = "mine (bf16) at 1.31 (1.28 to 1.35) times the speed of old.onnx (ort)"
    assert said in " ".join(text.split())
    assert names(run_suite, "--model", "ssd") == {"versus"}
    assert "Against" not in text
    assert text.splitlines()[2].split()[-1] == "1.310"


@pytest.mark.usefixtures("three")
def test_csv_has_a_line_for_each_number_with_its_verdict_and_origin(
    run_suite: Callable[..., Any],
) -> None:
    def lines(*arguments: str) -> list[dict[str, str]]:
        done = run_suite("report", *arguments, "--format", "csv")
        return list(csv.DictReader(io.StringIO(done.stdout)))

    plain = lines("--model", "ssd", "--device", "h200")
    assert [line["metric"] for line in plain] == [
        "images_per_second",
        "latency_ms_p50",
        "latency_ms_p99",
    ]
    first = plain[0]
    assert (first["value"], first["low"], first["high"]) == ("100.0", "98.0", "103.0")
    assert (first["device"], first["verdict"], first["command"] != "") == ("NVIDIA H200", "", True)
    compared = [line for line in lines("--compare", "reference") if line["metric"] == "ap"]
    seed = next(line for line in compared if line["against"] == "seed-002")
    assert (seed["their_value"], seed["their_trust"]) == ("0.36", "verbatim")
    assert seed["verdict"] == "not comparable"
    assert seed["why"] == "epochs not stated"
    assert seed["their_source"].startswith("Ascend/ModelZoo-PyTorch@")


def test_csv_holds_no_formula(run_suite: Callable[..., Any]) -> None:
    write("evil", {"ap": -0.5}, kind="eval", subject={"detector": "=cmd|' /C calc'!A0"})
    done = run_suite("report", "--format", "csv")
    (line,) = csv.DictReader(io.StringIO(done.stdout))
    assert line["detector"] == "'=cmd|' /C calc'!A0"
    assert line["value"] == "-0.5"


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
@pytest.mark.parametrize("compare", ["reference", "runs"])
def test_hostile_text_and_numbers_are_shown_as_text(
    form: str, compare: str, run_suite: Callable[..., Any]
) -> None:
    metrics = {"images_per_second": 1e308, "ap": 0.0, EVIL: 1.0}
    subject = {"detector": EVIL, "dataset": EVIL, "reference": ["seed-003"]}
    conditions = {
        "device": EVIL,
        "device_name": EVIL,
        "precision": EVIL,
        "devices": 8,
        "scope": EVIL,
    }
    for number in (1, 2):
        write(f"evil-{number}", metrics, kind="train", conditions=conditions, subject=subject,
              notes=[EVIL])  # fmt: skip
    done = run_suite("report", "--compare", compare, "--format", form)
    assert done.code == 0, done.stderr
    assert not {"\x1b", "\r", "\u202e", "\ud800"} & set(done.stdout)
    if form == "table":
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert len(done.stdout) < 10_000
    if form == "json":
        json.loads(done.stdout)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"fast"', "true"])
def test_a_number_that_is_none_is_refused(value: str, run_suite: Callable[..., Any]) -> None:
    path = write("broken", {"images_per_second": 1.5})
    path.write_text(path.read_text().replace("1.5", value))
    done = run_suite("report")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("suite: runs/broken/record.json: not a record")


def test_a_name_that_no_file_can_have_is_a_mistake(run_suite: Callable[..., Any]) -> None:
    for name in ("x" * 5000, "a\0b"):
        assert run_suite("report", name).code == 2


def test_a_thousand_records_are_read_and_compared_in_seconds(
    run_suite: Callable[..., Any],
) -> None:
    text = write("0", {"images_per_second": 1.5, "ap": 0.2}, kind="train").read_text()
    for number in range(1, 1000):
        Path(f"runs/{number}").mkdir()
        Path(f"runs/{number}/record.json").write_text(text)
    start = time.process_time()
    done = run_suite("report", "--compare", "reference")
    assert time.process_time() - start < 20
    assert done.code == 0
    # They say the same, so they share their tables.
    assert "Not comparable: train/s of 1 to 1000" in done.stdout


def test_the_metrics_of_the_kept_records_are_known(repository: Path) -> None:
    files = (repository / "reports" / "records").glob("*.json")
    kept = [path for path in files if ".analysis" not in path.suffixes]
    usual = set()
    for path in kept:
        record = json.loads(path.read_text())
        assert record["schema"] == SCHEMA
        usual |= {name for name in record["metrics"] if name in KNOWN_METRICS}
    assert set(KNOWN_METRICS) == usual
