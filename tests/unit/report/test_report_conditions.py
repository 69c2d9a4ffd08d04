"""Conditions of --fail-on are read strictly and judged on the selected records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.records import build_record, write_record

AP = {"ap": 0.355}
SPEED = {"images_per_second": 14.0}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, metrics: dict[str, Any], **conditions: Any) -> None:
    subject = {"detector": "ssd_r34" if "ssd" in name else "retinanet_r50_fpn"}
    device = {"device": "cuda", "device_name": "NVIDIA H200", "devices": 1}
    record = build_record("train", metrics=metrics, subject=subject, conditions=device | conditions)
    write_record(record, Path(f"runs/{name}/record.json"))


@pytest.mark.parametrize(
    ("condition", "fails"),
    [
        ("ap<0.36", True),
        ("ap<0.355", False),
        ("ap<=0.355", True),
        ("ap>0.355", False),
        ("ap>=0.355", True),
        (" ap > 0.35 ", True),
        ("images_per_second<14.5", True),
        ("images_per_second.per_device<14", False),
        ("images_per_second.per_device<14.5", True),
        ("images_per_second.global<112", False),
        ("images_per_second.global<=112", True),
        ("images_per_second.global>=112,ap<0.2", True),
        ("images_per_second.global>112,ap<0.2", False),
    ],
)
def test_a_condition_that_holds_is_a_failure(
    condition: str, fails: bool, run_suite: Callable[..., Any]
) -> None:
    write("run-1", AP | SPEED, devices=8, scope="per_device")
    done = run_suite("report", "--fail-on", condition)
    assert done.code == (3 if fails else 0), done.stderr
    assert "retinanet_r50_fpn" in done.stdout


def test_each_failed_condition_has_a_line_with_the_worst_record(
    run_suite: Callable[..., Any],
) -> None:
    for number, ap in enumerate((0.355, 0.31, 0.4), start=1):
        write(f"run-{number}", {"ap": ap} | SPEED)
    done = run_suite("report", "--fail-on", "ap<0.36,images_per_second.global<112,ap<0.1")
    assert done.code == 3
    assert done.stderr.splitlines() == [
        "suite: 2 of 3 conditions of --fail-on failed:",
        "ap<0.36: it is 0.31 in runs/run-2 (2 of 3 records)",
        "images_per_second.global<112: it is 14 in runs/run-1 (3 of 3 records)",
    ]


def test_only_selected_records_are_judged(run_suite: Callable[..., Any]) -> None:
    write("ssd-1", {"ap": 0.25})
    write("retina-1", {"ap": 0.36})
    assert run_suite("report", "--fail-on", "ap<0.3").code == 3
    assert run_suite("report", "--model", "retinanet", "--fail-on", "ap<0.3").code == 0
    assert run_suite("report", "runs/retina-1", "--fail-on", "ap<0.3").code == 0


def test_a_condition_that_no_record_answers_is_a_failure(run_suite: Callable[..., Any]) -> None:
    nothing = run_suite("report", "--fail-on", "ap<0.3")
    assert nothing.code == 3
    assert "ap<0.3: cannot be judged, no selected record has ap" in nothing.stderr
    write("run-1", {"ap": None} | SPEED, devices=8, scope="unknown")
    done = run_suite("report", "--fail-on", "ap<0.3,images_per_second.global<1")
    assert done.code == 3
    assert "no selected record has ap" in done.stderr
    assert "cannot be judged, runs/run-1 states no scope" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no condition"),
        ("ap<0.36,", "'' is no condition"),
        ("ap", "'ap' is no condition"),
        ("ap<", "'ap<' is no condition"),
        ("ap=0.36", "is no condition"),
        ("ap<nan", "is no condition"),
        ("ap<1e3", "is no condition"),
        ("0.3<ap<0.4", "is no condition"),
        ("ap<0.3;ap>1", "is no condition"),
        ("ap.global<0.36", "a scope is .global or .per_device, of a throughput only"),
        ("images_per_second.total<1", "a scope is .global or .per_device"),
        ("ap<36", "ap is a fraction; write 0.36"),
        ("mAP<0.36", "mAP: no such metric; known are ap, ap50, ap75"),
    ],
)
def test_another_form_is_refused_before_anything_is_printed(
    text: str, message: str, run_suite: Callable[..., Any]
) -> None:
    write("run-1", AP)
    done = run_suite("report", "--fail-on", text)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr


def test_metrics_of_the_records_at_hand_are_known(run_suite: Callable[..., Any]) -> None:
    write("run-1", {"my_own": 3.0})
    assert run_suite("report", "--fail-on", "my_own>2").code == 3
    assert run_suite("report", "--fail-on", "my_own>3").code == 0
