"""`suite eval` on saved results: referee, analysis, interval, comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.evaluation import referees
from suite.evaluation.coco import evaluate_coco
from suite.records import Record, load_record
from tests.benchmarks.evaluation_speed import generate_set

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Flags naming results and annotations of a generated set."""
    truth, results = generate_set(
        num_images=20, num_classes=3, num_detections=300, decimals=4, seed=2
    )
    for name, content in (("truth", truth), ("results", results), ("half", results[::2])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return [
        *("--results", str(tmp_path / "results.json")),
        *("--annotations", str(tmp_path / "truth.json")),
        *("--output", str(tmp_path / "runs")),
    ]


def last_record(tmp_path: Path, number: int = 1) -> Record:
    return load_record(tmp_path / "runs" / f"eval-results-{number}" / "record.json")


def test_referees_agree_and_the_record_says_who_judged(
    run_suite: Run, files: list[str], tmp_path: Path
) -> None:
    for number, name in enumerate(("hotcoco", "pycocotools"), start=1):
        done = run_suite("eval", *files, "--referee", name, "--json")
        assert done.code == 0
        assert json.loads(done.stdout)["referee"].startswith(f"{name} ")
        assert last_record(tmp_path, number)["conditions"]["referee"].startswith(f"{name} ")
    assert last_record(tmp_path, 1)["metrics"] == last_record(tmp_path, 2)["metrics"]
    assert "ap_low" not in last_record(tmp_path)["metrics"]
    assert "analysis" not in last_record(tmp_path)["conditions"]


def test_analysis_stands_beside_the_record(
    run_suite: Run, files: list[str], tmp_path: Path
) -> None:
    done = run_suite("eval", *files, "--analyse")
    assert done.code == 0
    assert "AP50 lost" in done.stdout and "worst image: " in done.stdout
    assert max(map(len, done.stdout.split("Eval results")[0].splitlines())) <= 80
    named = last_record(tmp_path)["conditions"]["analysis"]
    assert named == "eval/analysis.json"
    analysis = json.loads((tmp_path / "runs" / "eval-results-1" / named).read_text())
    assert analysis["schema"] == "suite.eval-analysis/1"
    assert analysis["errors"]["ap50"] == pytest.approx(last_record(tmp_path)["metrics"]["ap50"])
    assert [entry["name"] for entry in analysis["classes"]] == ["class 0", "class 1", "class 2"]


def test_interval_is_in_the_record_with_how_it_was_made(
    run_suite: Run, files: list[str], tmp_path: Path
) -> None:
    done = run_suite("eval", *files, "--bootstrap", "120", "--seed", "4")
    assert "AP, 95 % interval: " in done.stdout
    record = last_record(tmp_path)
    metrics, conditions = record["metrics"], record["conditions"]
    assert metrics["ap_low"] < metrics["ap"] < metrics["ap_high"]
    assert (conditions["bootstrap_resamples"], conditions["bootstrap_seed"]) == (120, 4)


def test_comparison_prints_a_document(run_suite: Run, files: list[str], tmp_path: Path) -> None:
    pair = ("--compare", str(tmp_path / "half.json"), str(tmp_path / "results.json"))
    done = run_suite("eval", *pair, *files[2:], "--bootstrap", "200", "--json")
    assert done.code == 0
    document = json.loads(done.stdout)
    assert document["schema"] == "suite.eval-compare/1"
    truth, half = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("truth", "half"))
    assert document["first"]["ap"] == evaluate_coco(truth, half).ap
    assert document["low"] <= document["difference"] <= document["high"]
    assert (document["resamples"], document["seed"]) == (200, 0)
    assert "second - first" in run_suite("eval", *pair, *files[2:], "--bootstrap", "100").stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flags: flags[:2], "give MODEL, or --results or --compare together with"),
        (lambda flags: flags[2:], "give MODEL, or --results or --compare together with"),
        (lambda flags: ["model.pth", *flags], "give MODEL, or --results or --compare"),
        (lambda flags: [*flags, "--compare", "a", "b"], "give MODEL, or --results or --compare"),
        (lambda flags: [*flags[2:], "--compare", "a", "b", "--analyse"], "--analyse is for one"),
        (lambda flags: [*flags, "--bootstrap", "5"], "'--bootstrap'"),
        (lambda flags: [*flags, "--referee", "nobody"], "'--referee'"),
        (lambda flags: [*flags, "--as-published"], "--as-published: is for MODEL"),
        (lambda flags: [*flags, "--batch", "8"], "--batch: is for MODEL"),
    ],
)
def test_flags_that_do_not_go_together(
    run_suite: Run, files: list[str], change: Callable[[list[str]], list[str]], message: str
) -> None:
    done = run_suite("eval", *change(files))
    assert done.code == 2
    assert message in done.stderr


def test_absent_referee_says_what_to_install(
    run_suite: Run, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(referees, "INSTALLED", False)
    done = run_suite("eval", *files, "--referee", "hotcoco")
    assert done.code == 4
    assert 'pip install "npu-detection-suite[fast]"' in done.stderr
    assert not (tmp_path / "runs").exists()
