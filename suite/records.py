"""Records: one JSON document for one measurement, with all that is needed to repeat and judge it.

A record says what was measured (`subject`), how (`conditions`), on what (`hardware`, `software`,
`git`, `command`) and the result (`metrics`: flat names that hold their unit, such as ``ap``,
``images_per_second`` and ``latency_ms_p50``; null where nothing could be measured). AP is a
fraction.

What reports and comparisons read, where the caller gives it:

- subject: ``detector``, ``width``, ``dataset`` (``COCO2017``), ``recipe``, ``recipe_digest``,
  ``reference`` (ids of rows to compare with beside those of the same detector)
- conditions: ``kind`` (cpu, cuda, npu) and ``name`` of the device as in `Device.describe`, or
  ``device`` and ``device_name``; ``devices`` (count), ``precision``, ``batch`` (images a call),
  ``global_batch``, ``epochs``, ``image_hw``, ``scope`` of images_per_second (``global`` or
  ``per_device``), ``window``, ``n``, ``warmup``, ``simulated`` (true where the device is not real)
- metrics: ``<name>_low`` and ``<name>_high`` are the bounds of the 95 % interval of ``<name>``

Two more fields may be there: ``series`` (name -> list of numbers, such as each counted
``latency_ms``), and ``rows``, where one command made many measurements on one machine: each with a
``kind``, ``subject``, ``conditions`` and ``metrics`` of its own (`expand` makes records of them).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from tabulate import tabulate

from suite.errors import InputError, SuiteError
from suite.files import write_text
from suite.provenance import describe_command, describe_git, describe_machine, describe_software
from suite.record_rules import SCHEMA, find_problem, show

Record = dict[str, Any]

MAX_RECORD_BYTES = 16 * 1024 * 1024


def build_record(
    kind: str,
    *,
    metrics: Mapping[str, float | int | None],
    subject: Mapping[str, Any],
    conditions: Mapping[str, Any],
    notes: Sequence[str] = (),
    series: Mapping[str, Sequence[float]] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
) -> Record:
    """Complete a measurement with the time, command, hardware, software and git state.

    Args:
        kind: One of `KINDS`.
        metrics: Flat names with their unit; None where nothing could be measured.
        subject: What was measured.
        conditions: Under which conditions.
        notes: Sentences a reader must know before believing the numbers, such as
            "unverified on Ascend hardware".
        series: Numbers behind a metric, by their name.
        rows: Measurements with `kind`, `subject`, `conditions` and `metrics` of their own.

    Raises:
        ValueError: The result would not be a valid record (a metric is NaN, say).
    """
    record: Record = {
        "schema": SCHEMA,
        "kind": kind,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": describe_command(sys.argv),
        "hardware": describe_machine() | _describe_device(conditions),
        "software": describe_software(),
        "git": describe_git(),
        "subject": _to_json(subject),
        "conditions": _to_json(conditions),
        "metrics": _to_json(metrics),
        "notes": list(notes),
    }
    if series:
        record["series"] = _to_json(series)
    if rows:
        record["rows"] = _to_json(rows)
    problem = find_problem(record)
    if problem:
        raise ValueError(f"not a valid record: {problem}")
    return record


def write_record(record: Record, path: Path) -> None:
    """Write a record as indented JSON with sorted keys; the file appears whole or not at all."""
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        raise SuiteError(f"{path}: the record cannot be written: {error.strerror}") from error


def expand(record: Record) -> list[Record]:
    """Return a record for each of the rows of one; the record itself where it has none."""
    rows = record.get("rows")
    if not rows:
        return [record]
    shared = {name: value for name, value in record.items() if name not in ("rows", "series")}
    return [
        shared | row | {"hardware": record["hardware"] | _describe_device(row["conditions"])}
        for row in rows
    ]


def format_metrics(record: Record) -> str:
    """Render a record's metrics and conditions, one a line."""
    rows = [(name, _show_number(value)) for name, value in sorted(record["metrics"].items())]
    rows += [(name, str(value)) for name, value in sorted(record["conditions"].items())]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _show_number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.4g}" if value < 1e6 else f"{value:,.0f}"


def load_record(path: Path) -> Record:
    """Read a record and check its structure, types and numbers.

    Raises:
        InputError: The file is missing, larger than 16 MiB, not JSON, or not a record.
    """
    try:
        record: Record = json.loads(
            _read_text(path), parse_constant=_refuse_constant, object_pairs_hook=_unite_pairs
        )
    except RecursionError as error:
        raise InputError(f"{path}: not a record: nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: not a record: {error}") from error
    problem = find_problem(record)
    if problem:
        raise InputError(f"{path}: not a record: {problem}")
    return record


def _describe_device(conditions: Mapping[str, Any]) -> dict[str, Any]:
    kind = conditions.get("device") or conditions.get("kind") or "cpu"
    return {
        "device": conditions.get("device_name") or conditions.get("name") or kind,
        "device_kind": kind,
        "device_count": conditions.get("devices", 1),
    }


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return value


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such record file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_RECORD_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_RECORD_BYTES:
        raise InputError(f"{path}: larger than the {MAX_RECORD_BYTES} bytes a record may have")
    return content.decode("utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _unite_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {show(twice)} is given twice")
    return found
