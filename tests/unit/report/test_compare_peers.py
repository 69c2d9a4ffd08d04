"""Records are set beside each other, with verdicts where they measured the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suite.records import build_record
from suite.report.entries import Entry
from suite.report.figures import Comparison
from suite.report.peers import compare_peers

SUBJECT = {"detector": "ssd_r34", "dataset": "COCO2017"}
GPU = {
    "device": "cuda",
    "device_name": "NVIDIA H200",
    "devices": 1,
    "batch": 1,
    "scope": "global",
    "image_hw": [300, 300],
}


def make(
    name: str = "ours",
    *,
    kind: str = "bench-infer",
    metrics: dict[str, float],
    subject: dict[str, Any] | None = None,
    conditions: dict[str, Any] | None = None,
) -> Entry:
    record = build_record(
        kind,
        metrics=metrics,
        subject=SUBJECT | (subject or {}),
        conditions=GPU | (conditions or {}),
    )
    return Entry(name=name, path=Path(f"{name}.json"), record=record)


def compare_one(one: Entry, other: Entry, *metrics: str) -> Comparison:
    (found,) = compare_peers(one, [other], metrics=metrics)
    return found


def speed(value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    bounds = {"images_per_second_low": low, "images_per_second_high": high}
    return {"images_per_second": value} | {k: v for k, v in bounds.items() if v is not None}


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (speed(103), speed(100), "ahead"),
        (speed(97), speed(100), "behind"),
        (speed(101.9), speed(100), "level"),
        (speed(103, 102.6, 103.4), speed(100, 99.7, 100.5), "ahead"),
        (speed(101, 100.5, 101.4), speed(100, 99.7, 100.5), "level"),
        (speed(150, 90, 200), speed(100), "level"),
        # An interval is of one run; another day it is elsewhere by as much as noise is.
        (speed(101, 100.5, 101.5), speed(100), "level"),
        (speed(103, 102.5, 103.5), speed(100), "ahead"),
        # An interval without its own figure is none.
        (speed(101, 200, 300), speed(100), "level"),
    ],
)
def test_intervals_decide_and_else_two_percent(
    ours: dict[str, float], theirs: dict[str, float], verdict: str
) -> None:
    found = compare_one(make(metrics=ours), make("theirs", metrics=theirs))
    assert (found.verdict, found.reasons, found.row) == (verdict, (), None)
    assert found.ratio == ours["images_per_second"] / 100
    assert found.other == "theirs"


@pytest.mark.parametrize(("ours", "verdict"), [(9.0, "ahead"), (11.0, "behind"), (10.1, "level")])
def test_of_latency_less_is_better(ours: float, verdict: str) -> None:
    one, other = (make(n, metrics={"latency_ms_p50": v}) for n, v in (("a", ours), ("b", 10.0)))
    assert compare_one(one, other).verdict == verdict


REASONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "detector": (
        {"detector": "retinanet_r50_fpn"},
        {},
        "detector ssd_r34 against retinanet_r50_fpn",
    ),
    "width": ({"width": 0.5}, {}, "backbone width 1 against 0.5"),
    "dataset": ({"dataset": "BCCD"}, {}, "dataset COCO2017 against BCCD"),
    "input": ({}, {"image_hw": [512, 512]}, "input 300x300 against 512x512"),
    "simulated": ({}, {"simulated": True}, "a device is simulated"),
    "images": ({}, {"images": "generated"}, "images not stated against generated"),
    "kind": ({}, {"device": "cpu"}, "device cuda against cpu"),
    "device": ({}, {"device_name": "NVIDIA A100"}, "device NVIDIA H200 against NVIDIA A100"),
    "devices": ({}, {"devices": 8}, "devices 1 against 8"),
    "batch": ({}, {"batch": 32}, "batch 1 against 32"),
    "photos": ({}, {"images_sha256": "0" * 64}, "other images"),
    "scenario": ({}, {"scenario": "offline"}, "scenario not stated against offline"),
    "window": ({}, {"window": "infer stage"}, "other windows of time"),
    "calm": (
        {},
        {"calm": False},
        "a machine was not calm; measure them in one run (suite bench infer --vs)",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_unlike_measurements_get_their_reasons_and_a_ratio(name: str) -> None:
    subject, conditions, reason = REASONS[name]
    other = make("other", metrics=speed(50), subject=subject, conditions=conditions)
    found = compare_one(make(metrics=speed(100)), other)
    assert found.verdict == "not comparable"
    assert found.reasons[0] == reason
    assert found.ratio == 2


def test_what_neither_record_states_is_not_the_same() -> None:
    one, other = (make(n, metrics=speed(100), subject={"dataset": None}) for n in ("a", "b"))
    assert compare_one(one, other).reasons == ("dataset not stated against not stated",)


def test_another_number_of_devices_still_has_a_ratio_of_one_device() -> None:
    many = make("many", metrics=speed(700), conditions={"devices": 8})
    found = compare_one(make(metrics=speed(100)), many)
    assert found.ratio_per_device == pytest.approx(100 / (700 / 8))


def test_precision_and_runtime_may_differ() -> None:
    other = make("other", metrics=speed(100), conditions={"precision": "bf16", "runtime": "ort"})
    assert compare_one(make(metrics=speed(120)), other).verdict == "ahead"


def test_accuracy_needs_the_same_images_but_no_device() -> None:
    one = make(kind="train", metrics={"ap": 0.25}, subject={"val_digest": "a"})
    here = {"device": "cpu", "device_name": "cpu"}
    same = make("b", kind="eval", metrics={"ap": 0.26}, conditions=here)
    other = make("c", kind="eval", metrics={"ap": 0.26}, subject={"val_digest": "b"})
    assert compare_one(one, same).verdict == "behind"
    assert compare_one(one, other).reasons == ("other images of the dataset",)


def test_speeds_of_training_and_inference_are_different_things() -> None:
    one, other = make("a", kind="train", metrics=speed(9)), make("b", metrics=speed(9))
    assert compare_peers(one, [other]) == []
    trained = make("c", kind="bench-train", metrics=speed(9))
    assert compare_one(one, trained).verdict == "level"


def test_a_record_is_not_compared_with_itself_or_where_there_is_nothing() -> None:
    one = make(metrics=speed(9))
    assert compare_peers(one, [one, make("b", metrics={"ap": 0.2})]) == []


def test_metrics_asked_for_are_compared_and_those_without_better_are_not_judged() -> None:
    one, other = (make(n, metrics={"loss": 1.0, "latency_ms_p99": 5.0}) for n in ("a", "b"))
    assert compare_one(one, other, "latency_ms_p99").verdict == "level"
    assert compare_one(one, other, "loss").reasons == ("neither more nor less of it is better",)


def test_a_ratio_that_no_number_can_hold_is_none() -> None:
    one, other = (make(n, metrics=speed(v)) for n, v in (("a", 1e308), ("b", 1e-308)))
    assert compare_one(one, other).ratio is None
    assert compare_one(one, make("c", metrics=speed(0))).ratio is None
