"""What makes a JSON document a record: its fields, their types, and the numbers they may hold."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

SCHEMA = "suite.record/1"
# A manifest is the record of a start: it has no metrics yet.
_BENCHES = ("bench-infer", "bench-train", "bench-data", "bench-device", "bench-compare")
KINDS = ("train", "eval", "export", "verify", "quantize", *_BENCHES, "manifest")

_Types = Mapping[str, tuple[type, ...]]
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
_OPTIONAL_TYPES: dict[str, tuple[type, ...]] = {"series": (dict,), "rows": (list,)}
_ROW_TYPES = {name: _FIELD_TYPES[name] for name in ("kind", "subject", "conditions", "metrics")}
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


def find_problem(record: Any) -> str:
    """Return what keeps a value from being a record, as a sentence; "" where it is one."""
    if not isinstance(record, dict):
        return "expected a JSON object"
    return (
        _find_value_problem(record, place="", depth=0)
        or _find_field_problem(record)
        or _find_content_problem(record)
        or _find_measurement_problem(record)
        or _find_series_problem(record.get("series", {}))
        or _find_row_problem(record.get("rows", []))
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
        return f"{place}: expected a JSON value, got {show(value)}"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(value, dict) and not isinstance(key, str):
            return f"{place}: expected text as key, got {show(key)}"
        inner = f"{place}.{key}" if place else str(key)
        problem = _find_value_problem(item, place=inner[:60], depth=depth + 1)
        if problem:
            return problem
    return ""


def _find_field_problem(record: dict[str, Any]) -> str:
    if record.get("schema") != SCHEMA:
        return f"schema is {show(record.get('schema'))}, this version reads '{SCHEMA}'"
    return _check_fields(record, _FIELD_TYPES, _OPTIONAL_TYPES)


def _check_fields(found: dict[str, Any], needed: _Types, optional: _Types) -> str:
    missing = sorted(needed.keys() - found.keys())
    if missing:
        return f"field {missing[0]!r} is missing"
    unknown = sorted(map(str, found.keys() - needed.keys() - optional.keys()))
    if unknown:
        return f"field {show(unknown[0])} is unknown"
    for name, types in ({**needed, **optional}).items():
        if name in found and not isinstance(found[name], types):
            return f"{name}: expected {_name_types(types)}, got {show(found[name])}"
    return ""


def _find_content_problem(record: dict[str, Any]) -> str:
    try:
        datetime.strptime(record["created"], "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return f"created: expected a time like 2026-01-31T12:00:00Z, got {show(record['created'])}"
    strange = [note for note in record["notes"] if not isinstance(note, str)]
    return f"notes: expected text, got {show(strange[0])}" if strange else ""


def _find_measurement_problem(found: dict[str, Any]) -> str:
    """Judge a record, or one of the rows in it."""
    if found["kind"] not in KINDS:
        return f"kind: expected one of {', '.join(KINDS)}, got {show(found['kind'])}"
    for name, value in found["metrics"].items():
        if not _is_number(value) and value is not None:
            return f"metrics.{name[:60]}: expected a number or null, got {show(value)}"
    for section, details in _DETAIL_TYPES.items():
        for name, types in details.items():
            value = found.get(section, {}).get(name)
            wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
            if value is not None and wrong:
                return f"{section}.{name}: expected {_name_types(types)}, got {show(value)}"
    sides = found["conditions"].get("image_hw") or ()
    if not all(type(side) is int for side in sides):
        return f"conditions.image_hw: expected whole numbers, got {show(sides)}"
    return ""


def _find_series_problem(series: dict[str, Any]) -> str:
    for name, values in series.items():
        if not isinstance(values, list) or not all(map(_is_number, values)):
            return f"series.{name[:60]}: expected a list of numbers, got {show(values)}"
    return ""


def _find_row_problem(rows: list[Any]) -> str:
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            return f"rows.{place}: expected an object, got {show(row)}"
        problem = _check_fields(row, _ROW_TYPES, {}) or _find_measurement_problem(row)
        if problem:
            return f"rows.{place}: {problem}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name_types(types: Sequence[type]) -> str:
    return " or ".join(_TYPE_NAMES[kind] for kind in types)


def show(value: Any) -> str:
    """Return a value as a message names it, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
