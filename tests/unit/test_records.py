"""Records survive the disk unchanged, and nothing that is not a record gets in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.errors import InputError, SuiteError
from suite.record_rules import KINDS, SCHEMA
from suite.records import MAX_RECORD_BYTES, build_record, expand, load_record, write_record

numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
# Names that have a fixed type get an x in front; the free ones are what this is about.
sections = st.dictionaries(st.text(max_size=8).map(lambda name: f"x{name}"), values, max_size=4)


@pytest.fixture
def record() -> dict[str, Any]:
    return build_record(
        "eval",
        metrics={"ap": 0.25425, "ap_small": None},
        subject={"detector": "ssd_r34", "dataset": "COCO2017"},
        conditions={"device": "cpu", "devices": 1, "precision": "fp32"},
        notes=["one sentence"],
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    kind=st.sampled_from(KINDS),
    metrics=st.dictionaries(st.text(max_size=8), numbers | st.none(), max_size=4),
    subject=sections,
    conditions=sections,
    notes=st.lists(st.text(max_size=20), max_size=2),
)
def test_a_written_record_loads_unchanged(
    record: dict[str, Any], tmp_path: Path, **parts: Any
) -> None:
    written = record | parts
    write_record(written, tmp_path / "record.json")
    assert load_record(tmp_path / "record.json") == written


def test_a_record_says_where_it_comes_from(record: dict[str, Any]) -> None:
    assert record["schema"] == SCHEMA
    assert record["hardware"]["cores"] >= 1
    assert record["hardware"]["device"] == "cpu"
    assert set(record["software"]) >= {"python", "torch", "onnx", "onnxruntime", "numpy", "pillow"}
    assert record["software"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["created"].endswith("Z")
    assert record["notes"] == ["one sentence"]


def test_the_device_may_be_described_as_by_the_device_module() -> None:
    conditions = {"kind": "npu", "name": "Ascend 910B", "devices": 8}
    hardware = build_record("train", metrics={}, subject={}, conditions=conditions)["hardware"]
    assert (hardware["device"], hardware["device_kind"]) == ("Ascend 910B", "npu")
    assert hardware["device_count"] == 8


def test_tuples_become_lists_so_that_the_disk_changes_nothing(tmp_path: Path) -> None:
    written = build_record("eval", metrics={}, subject={}, conditions={"image_hw": (300, 300)})
    write_record(written, tmp_path / "record.json")
    assert load_record(tmp_path / "record.json")["conditions"]["image_hw"] == [300, 300]


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), 10**400, "0.25", True])
def test_a_measurement_that_is_no_number_is_never_recorded(metric: Any) -> None:
    with pytest.raises(ValueError, match=r"metrics\.ap"):
        build_record("eval", metrics={"ap": metric}, subject={}, conditions={})


def test_building_a_record_does_not_import_torch() -> None:
    code = "import suite.records, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_are_sorted_indented_and_whole(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "made" / "record.json"
    write_record(record, path)
    text = path.read_text()
    assert text == json.dumps(record, indent=2, sort_keys=True) + "\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_a_place_that_cannot_be_written_is_said_in_one_sentence(
    record: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match="the record cannot be written"):
        write_record(record, tmp_path / "file" / "record.json")


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "no json": ("{", "not a record"),
    "no object": ("[]", "expected a JSON object"),
    "no utf-8": (b"\xff{}", "utf-8"),
    "nested": ("[" * 200_000, "nested too deeply"),
    "nested less": ("[" * 30 + "]" * 30, "expected a JSON object"),
    "key twice": ('{"schema": 1, "schema": 2}', "'schema' is given twice"),
    "long number": (f'{{"schema": {"9" * 5000}}}', "not a record"),
    "missing": ('{"schema": "suite.record/1"}', "field 'command' is missing"),
    "foreign": ('{"schema": "suite.record/2"}', "this version reads 'suite.record/1'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_a_record_is_refused(name: str, tmp_path: Path) -> None:
    content, message = HOSTILE[name]
    path = tmp_path / "record.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_record(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


DAMAGE = {
    "metrics": ([], "metrics: expected an object"),
    "git": ("main", "git: expected an object or null"),
    "kind": ("party", "kind: expected one of"),
    "created": ("yesterday", "created: expected a time"),
    "notes": ([1], "notes: expected text"),
    "extra": (1, "field 'extra' is unknown"),
    "subject": ({"detector": 7}, "subject.detector: expected text"),
    "conditions": ({"image_hw": ["a", 1]}, "conditions.image_hw: expected whole numbers"),
    "hardware": ({"device_count": True}, "hardware.device_count: expected a whole number"),
}


@pytest.mark.parametrize("field", DAMAGE)
def test_a_field_of_the_wrong_type_is_named(
    field: str, record: dict[str, Any], tmp_path: Path
) -> None:
    value, message = DAMAGE[field]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record | {field: value}))
    with pytest.raises(InputError, match=message):
        load_record(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400])
def test_numbers_that_no_double_holds_are_refused(
    number: str, record: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record).replace("0.25425", number))
    with pytest.raises(InputError, match="finite number"):
        load_record(path)


def test_values_nested_without_end_are_refused(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record).replace("0.25425", "[" * 40 + "]" * 40))
    with pytest.raises(InputError, match="levels deep"):
        load_record(path)


def test_a_file_larger_than_any_record_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("wb") as file:
        file.truncate(MAX_RECORD_BYTES + 1)
    with pytest.raises(InputError, match="larger than"):
        load_record(path)


def test_a_missing_file_and_a_pipe_are_no_records(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent.json", "pipe"):
        with pytest.raises(InputError, match="no such record file"):
            load_record(tmp_path / name)


ROW = {
    "kind": "bench-infer",
    "subject": {"detector": "ssd_r34"},
    "conditions": {"device": "cuda", "device_name": "Tesla T4", "devices": 1, "batch": 8},
    "metrics": {"images_per_second": 12.5},
}


def test_rows_become_records_of_the_machine_they_were_made_on() -> None:
    whole = build_record(
        "bench-device",
        metrics={"seconds": 5},
        subject={},
        conditions={},
        rows=[ROW, ROW | {"metrics": {"images_per_second": 20}}],
        series={"latency_ms": [1.0, 2]},
    )
    rows = expand(whole)
    assert [row["metrics"]["images_per_second"] for row in rows] == [12.5, 20]
    assert {row["hardware"]["device"] for row in rows} == {"Tesla T4"}
    assert {row["hardware"]["cores"] for row in rows} == {whole["hardware"]["cores"]}
    assert all(row["command"] == whole["command"] and "rows" not in row for row in rows)
    assert [expand(row) for row in rows] == [[row] for row in rows]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"series": {"latency_ms": [1, "2"]}}, "series.latency_ms: expected a list of numbers"),
        ({"rows": ["x"]}, "rows.0: expected an object"),
        ({"rows": [ROW, ROW | {"kind": "guess"}]}, "rows.1: kind: expected one of"),
        ({"rows": [ROW | {"notes": []}]}, "rows.0: field 'notes' is unknown"),
        ({"rows": [ROW | {"conditions": {"batch": "8"}}]}, "rows.0: conditions.batch: expected"),
    ],
)
def test_what_rows_and_series_may_not_hold_is_named(
    record: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record | changes))
    with pytest.raises(InputError, match=re.escape(said)):
        load_record(path)
