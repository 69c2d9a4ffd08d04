"""Verdicts are given where two figures can be compared, and reasons where they cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suite.records import build_record
from suite.report.compare import compare_record
from suite.report.devices import is_same_device
from suite.report.figures import Comparison
from suite.report.reference import ReferenceRow, load_reference

FOLDER = Path(__file__).resolve().parents[3] / "reports" / "reference"
SSD = {"detector": "ssd_r34", "dataset": "COCO2017"}
NPU8 = {
    "device": "npu",
    "device_name": "Ascend 910",
    "devices": 8,
    "scope": "global",
    "epochs": 115.2,
}
CPU1 = {"device": "cpu", "device_name": "Xeon 8380", "devices": 1, "batch": 1}


@pytest.fixture(scope="module")
def rows() -> list[ReferenceRow]:
    return load_reference(FOLDER)


@pytest.fixture
def row(rows: list[ReferenceRow]) -> ReferenceRow:
    """The published training of SSD-ResNet34 on eight NPUs, its AP unflagged."""
    seed = next(row for row in rows if row.row_id == "seed-003")
    return replace(seed, ap_flag="", trust="verbatim")


def make(
    kind: str = "train",
    *,
    metrics: dict[str, float],
    subject: dict[str, Any] = SSD,
    conditions: dict[str, Any] = NPU8,
) -> dict[str, Any]:
    return build_record(kind, metrics=metrics, subject=subject, conditions=conditions)


def compare_one(record: dict[str, Any], row: ReferenceRow) -> Comparison:
    (found,) = compare_record(record, [row])
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("NVIDIA H200", "NVIDIA H200-SXM-141GB", True),
        ("Tesla V100-SXM2-16GB", "NVIDIA V100 (DGX-1)", True),
        ("NVIDIA A10", "NVIDIA A100", False),
        ("Ascend910B3", "Ascend 910B", True),
        ("Ascend910B3", "Ascend 910", False),
        ("Ascend 310", "Ascend 310P", False),
        ("Ascend 310 x4 chips", "Ascend 310", True),
        ("AMD EPYC", "amd-epyc", True),
        ("AMD EPYC", "2x Xeon", False),
        ("", "Ascend NPU", False),
    ],
)
def test_a_device_is_the_same_product_however_it_is_written(
    ours: str, theirs: str, same: bool
) -> None:
    assert is_same_device(ours, theirs) is is_same_device(theirs, ours) is same


def test_one_device_is_set_beside_one_device_where_scopes_are_known(row: ReferenceRow) -> None:
    one = NPU8 | {"devices": 1, "scope": "global"}
    found = compare_one(make(metrics={"images_per_second": 500.0}, conditions=one), row)
    assert found.verdict == "not comparable"
    assert found.ratio == pytest.approx(500 / 4474.27)
    assert found.ratio_per_device == pytest.approx(500 / (4474.27 / 8))
    per_rank = NPU8 | {"devices": 4, "scope": "per_device"}
    found = compare_one(make(metrics={"images_per_second": 500.0}, conditions=per_rank), row)
    assert found.ratio_per_device == pytest.approx(500 / (4474.27 / 8))
    for ours, published in (({"scope": "unknown"}, {}), ({}, {"train_scope": "unknown"})):
        record = make(metrics={"images_per_second": 500.0}, conditions=NPU8 | ours)
        assert compare_one(record, replace(row, **published)).ratio_per_device is None
    assert compare_one(make(metrics={"ap": 0.2}), row).ratio_per_device is None


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.021, "ahead"), (1.02, "level"), (1.0, "level"), (0.98, "level"), (0.979, "behind")],
)
def test_two_percent_of_throughput_are_noise(
    factor: float, verdict: str, row: ReferenceRow
) -> None:
    found = compare_one(make(metrics={"images_per_second": 4474.27 * factor}), row)
    assert (found.metric, found.verdict, found.reasons) == ("images_per_second", verdict, ())
    assert found.ratio == pytest.approx(factor)


@pytest.mark.parametrize(
    ("ap", "verdict"),
    [(0.2573, "ahead"), (0.25725, "level"), (0.25125, "level"), (0.2512, "behind")],
)
def test_three_tenths_of_a_point_of_ap_are_noise(
    ap: float, verdict: str, row: ReferenceRow
) -> None:
    assert compare_one(make(metrics={"ap": ap}), row).verdict == verdict


def test_an_interval_of_our_own_decides_instead(row: ReferenceRow) -> None:
    narrow = {"ap": 0.2550, "ap_low": 0.2549, "ap_high": 0.2551}
    wide = {"ap": 0.2700, "ap_low": 0.2500, "ap_high": 0.2900}
    assert compare_one(make(metrics=narrow), row).verdict == "ahead"
    assert compare_one(make(metrics=wide), row).verdict == "level"


THROUGHPUT = {"images_per_second": 5000.0}
REASONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "flag": ({}, {}, {"throughput_flag": "odd"}, "flagged: odd"),
    "simulated": ({}, {"simulated": True}, {}, "our device is simulated"),
    "width": ({"width": 0.25}, {}, {}, "backbone width 0.25 against 1"),
    "dataset": ({"dataset": "VOC2007"}, {}, {}, "dataset VOC2007 against COCO2017"),
    "silent dataset": ({"dataset": None}, {}, {}, "our dataset is not stated"),
    "input": ({}, {"image_hw": [512, 512]}, {}, "input 512x512 against 300x300"),
    "kind": ({}, {"device": "cpu"}, {}, "device cpu against npu"),
    "model": ({}, {"device_name": "Ascend 910B"}, {}, "device Ascend 910B against Ascend 910"),
    "vague model": ({}, {}, {"device": "Ascend NPU"}, "published device only known as Ascend NPU"),
    "silent device": ({}, {}, {"device": ""}, "published device not stated"),
    "generated": ({}, {"images": "generated"}, {}, "our images are generated"),
    "devices": ({}, {"devices": 1}, {}, "devices 1 against 8"),
    "silent devices": ({}, {}, {"device_count": None}, "published device count not stated"),
    "scope": ({}, {"scope": "per_device"}, {}, "scope per device against global"),
    "their scope": ({}, {}, {"train_scope": "per_device"}, "scope global against per device"),
    "unknown scope": ({}, {"scope": "unknown"}, {"train_scope": "unknown"}, "scope unknown"),
}


@pytest.mark.parametrize("name", REASONS)
def test_throughput_of_unlike_runs_is_not_compared(name: str, row: ReferenceRow) -> None:
    subject, conditions, published, reason = REASONS[name]
    record = make(metrics=THROUGHPUT, subject=SSD | subject, conditions=NPU8 | conditions)
    found = compare_one(record, replace(row, **published))
    assert found.verdict == "not comparable"
    assert found.reasons[0].startswith(reason)
    assert found.ratio == pytest.approx(5000 / 4474.27)


def test_the_weightiest_reason_comes_first(row: ReferenceRow) -> None:
    subject = SSD | {"dataset": "VOC2007"}
    record = make(metrics=THROUGHPUT, subject=subject, conditions=CPU1 | {"scope": "per_device"})
    assert compare_one(record, replace(row, throughput_flag="odd")).reasons == (
        "flagged: odd",
        "dataset VOC2007 against COCO2017",
        "device cpu against npu",
        "devices 1 against 8",
        "scope per device against global",
    )


def test_on_one_device_the_scope_makes_no_difference(row: ReferenceRow) -> None:
    record = make(metrics=THROUGHPUT, conditions=NPU8 | {"devices": 1, "scope": "per_device"})
    assert compare_one(record, replace(row, device_count=1)).verdict == "ahead"


def test_names_of_a_dataset_and_padded_inputs_are_the_same_thing(rows: list[ReferenceRow]) -> None:
    row = next(row for row in rows if row.row_id == "seed-002")
    subject = {"detector": "retinanet_r50_fpn", "dataset": "coco-2017"}
    conditions = {"device": "npu", "devices": 8, "image_hw": [800, 1344], "epochs": 12}
    record = make(metrics={"ap": 0.37}, subject=subject, conditions=conditions)
    assert compare_one(record, row).verdict == "ahead"


def test_ap_is_not_compared_with_a_run_that_stopped_at_its_target(row: ReferenceRow) -> None:
    found = compare_one(make(metrics={"ap": 0.25}), replace(row, ap=0.2319, ap_target=0.23))
    assert found.reasons == ("that run stopped at its target of 23.0",)


def test_a_pure_target_is_a_figure_to_reach(row: ReferenceRow) -> None:
    found = compare_one(make(metrics={"ap": 0.25}), replace(row, ap=None, ap_target=0.23))
    assert (found.theirs.value, found.verdict) == (0.23, "ahead")


def test_ap_of_unknown_epochs_is_not_judged(row: ReferenceRow) -> None:
    conditions = {key: value for key, value in NPU8.items() if key != "epochs"}
    record = make("eval", metrics={"ap": 0.25}, conditions=conditions)
    assert "epochs not stated" in compare_one(record, row).reasons


@pytest.mark.parametrize(("epochs", "comparable"), [(117.9, True), (60, False), (240, False)])
def test_ap_needs_about_as_many_epochs(epochs: float, comparable: bool, row: ReferenceRow) -> None:
    record = make(metrics={"ap": 0.25}, conditions=NPU8 | {"epochs": epochs})
    assert (compare_one(record, row).reasons == ()) is comparable


def test_inference_needs_the_same_batch_and_devices(row: ReferenceRow) -> None:
    published = replace(
        row,
        train_images_per_second=None,
        infer_images_per_second=10.0,
        infer_batch=8,
        infer_device_count=None,
        device="2x Xeon 8380",
    )
    record = make("bench-infer", metrics={"images_per_second": 13.0}, conditions=CPU1)
    assert compare_one(record, published).reasons == (
        "published device count not stated",
        "batch 1 against 8",
    )
    same = replace(published, infer_batch=1, infer_device_count=1)
    assert compare_one(record, same).verdict == "ahead"


def test_the_flagged_ap_of_the_seeds_is_shown_but_never_a_target(rows: list[ReferenceRow]) -> None:
    found = {one.row.row_id: one for one in compare_record(make(metrics={"ap": 0.3}), rows)}
    assert found["seed-003"].verdict == "not comparable"
    assert found["seed-003"].theirs.value == 0.25425
    assert found["seed-003"].reasons == ("flagged: device count not stated",)


def test_rows_of_the_same_detector_are_found_by_themselves(rows: list[ReferenceRow]) -> None:
    found = compare_record(make(metrics=THROUGHPUT | {"ap": 0.25}), rows)
    assert {one.row.detector for one in found} == {"ssd_r34"}
    assert [one.metric for one in found] == sorted(one.metric for one in found)


def test_a_detector_that_nobody_published_stands_beside_its_family(
    rows: list[ReferenceRow],
) -> None:
    subject = SSD | {"detector": "retinanet_r9_fpn"}
    found = compare_record(make(metrics={"ap": 0.3}, subject=subject), rows)
    assert {one.verdict for one in found} == {"not comparable"}
    seed = next(one for one in found if one.other == "seed-002")
    assert seed.reasons[0] == "detector retinanet_r9_fpn against RetinaNet R50-FPN"
    assert all("retinanet" in one.row.model.lower() for one in found if one.row)
    assert compare_record(make(metrics={"ap": 0.3}, subject=SSD | {"detector": "yolo"}), rows) == []


def test_a_row_asked_for_by_name_comes_first_whatever_it_is(rows: list[ReferenceRow]) -> None:
    record = make(metrics={"ap": 0.25}, subject=SSD | {"reference": ["nvidia_dle-006"]})
    first, second = compare_record(record, rows)[:2]
    assert (first.row.row_id, first.named, second.named) == ("nvidia_dle-006", True, False)
    assert first.reasons[0].startswith("detector ssd_r34 against SSD300 v1.1 ResNet-50")


@pytest.mark.parametrize("kind", ["export", "verify", "manifest"])
def test_kinds_without_a_published_counterpart_have_no_comparison(
    kind: str, rows: list[ReferenceRow]
) -> None:
    assert compare_record(make(kind, metrics={"ap": 0.25} | THROUGHPUT), rows) == []


def test_a_record_without_detector_matches_no_row(rows: list[ReferenceRow]) -> None:
    for subject in ({}, {"detector": ""}):
        assert compare_record(make(metrics={"ap": 0.25}, subject=subject), rows) == []
