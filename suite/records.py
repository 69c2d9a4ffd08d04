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

Record = dict[str, Any]

SCHEMA = "suite.record/1"
# A manifest is the record of a start: it has no metrics yet.
_BENCHES = ("bench-infer", "bench-train", "bench-data")
KINDS = ("train", "eval", "export", "verify", "quantize", *_BENCHES, "manifest")
MAX_RECORD_BYTES = 16 * 1024 * 1024

_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "schema": (str,),
    "kind": (str,),
    "created": (str,),
    "command": (str,),
    "hardware": (dict,),
    "software": (dict,),
    "git": (dict, type(None)),
    "subject": (dict,),
    "conditions": (dict,),
    "metrics": (dict,),
    "notes": (list,),
}
# Where given, these have the types that reports rely on.
_DETAIL_TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "hardware": {"device": (str,), "device_kind": (str,), "device_count": (int,), "cores": (int,)},
    "subject": {"detector": (str,), "dataset": (str,), "width": (int, float), "reference": (list,)},
    "conditions": {
        "precision": (str,),
        "batch": (int,),
        "epochs": (int, float),
        "image_hw": (list,),
        "scope": (str,),
        "simulated": (bool,),
    },
}
_TYPE_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "text",
    type(None): "null",
}
_MAX_DEPTH = 16


def build_record(
    kind: str,
    *,
    metrics: Mapping[str, float | int | None],
    subject: Mapping[str, Any],
    conditions: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Record:
    """Complete a measurement with the time, command, hardware, software and git state.

    Args:
        kind: One of `KINDS`.
        metrics: Flat names with their unit; None where nothing could be measured.
        subject: What was measured.
        conditions: Under which conditions.
        notes: Sentences a reader must know before believing the numbers, such as
            "unverified on Ascend hardware".

    Raises:
        ValueError: The result would not be a valid record (a metric is NaN, say).
    """
    record = {
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
    problem = _find_problem(record)
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
    problem = _find_problem(record)
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
        raise ValueError(f"key {_show(twice)} is given twice")
    return found


def _find_problem(record: Any) -> str:
    """Say what keeps a value from being a record; nothing where it is one."""
    if not isinstance(record, dict):
        return "expected a JSON object"
    return (
        _find_value_problem(record, place="", depth=0)
        or _find_field_problem(record)
        or _find_content_problem(record)
        or _find_detail_problem(record)
    )


def _find_value_problem(value: Any, *, place: str, depth: int) -> str:
    if depth > _MAX_DEPTH:
        return f"nested more than {_MAX_DEPTH} levels deep"
    if value is None or isinstance(value, str | bool):
        return ""
    if isinstance(value, int | float):
        # Also refuses integers that no double can hold.
        finite = -sys.float_info.max <= value <= sys.float_info.max
        return "" if finite else f"{place}: expected a finite number"
    if not isinstance(value, dict | list):
        return f"{place}: expected a JSON value, got {_show(value)}"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            return f"{place}: expected text as key, got {_show(key)}"
        inner = f"{place}.{key}" if place else str(key)
        problem = _find_value_problem(item, place=inner[:60], depth=depth + 1)
        if problem:
            return problem
    return ""


def _find_field_problem(record: Record) -> str:
    if record.get("schema") != SCHEMA:
        return f"schema is {_show(record.get('schema'))}, this version reads '{SCHEMA}'"
    missing = sorted(_FIELD_TYPES.keys() - record.keys())
    if missing:
        return f"field {missing[0]!r} is missing"
    unknown = sorted(map(str, record.keys() - _FIELD_TYPES.keys()))
    if unknown:
        return f"field {_show(unknown[0])} is unknown"
    for name, types in _FIELD_TYPES.items():
        if not isinstance(record[name], types):
            return f"{name}: expected {_name_types(types)}, got {_show(record[name])}"
    return ""


def _find_content_problem(record: Record) -> str:
    if record["kind"] not in KINDS:
        return f"kind: expected one of {', '.join(KINDS)}, got {_show(record['kind'])}"
    try:
        datetime.strptime(record["created"], "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return f"created: expected a time like 2026-01-31T12:00:00Z, got {_show(record['created'])}"
    for name, value in record["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            return f"metrics.{name[:60]}: expected a number or null, got {_show(value)}"
    strange = [note for note in record["notes"] if not isinstance(note, str)]
    return f"notes: expected text, got {_show(strange[0])}" if strange else ""


def _find_detail_problem(record: Record) -> str:
    for section, details in _DETAIL_TYPES.items():
        for name, types in details.items():
            value = record[section].get(name)
            wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
            if value is not None and wrong:
                return f"{section}.{name}: expected {_name_types(types)}, got {_show(value)}"
    sides = record["conditions"].get("image_hw") or ()
    if not all(type(side) is int for side in sides):
        return f"conditions.image_hw: expected whole numbers, got {_show(sides)}"
    return ""


def _name_types(types: Sequence[type]) -> str:
    return " or ".join(_TYPE_NAMES[kind] for kind in types)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
