"""Records and comparisons for programs: one JSON document, or CSV with one line per number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from suite.report.entries import Entry, describe_detector
from suite.report.figures import Comparison, Figure, own_figure
from suite.report.layout import clean
from suite.report.reference import ReferenceRow

SCHEMA = "suite.report/2"

_COLUMNS = (
    "record", "kind", "created", "detector", "dataset", "device_kind", "device", "device_count",
    "precision", "batch", "scope", "metric", "value", "low", "high", "against", "their_system",
    "their_value", "ratio", "ratio_per_device", "verdict", "why", "their_source", "their_trust",
    "torch", "commit", "changed", "command",
)  # fmt: skip
# A spreadsheet takes text that starts so for a formula.
_FORMULA = ("=", "+", "-", "@")


def render_json(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return one JSON document: the records, their comparisons, and the published rows in them."""
    listed = [(entry.name, found) for entry in entries for found in entry.comparisons or ()]
    used = {found.other for _, found in listed if found.row}
    document = {
        "schema": SCHEMA,
        "records": [{"name": entry.name, "record": entry.record} for entry in entries],
        "comparisons": [_comparison_data(name, found) for name, found in listed],
        "reference": [asdict(row) for row in rows if row.row_id in used or not entries],
    }
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def render_csv(entries: Sequence[Entry], _rows: Sequence[ReferenceRow]) -> str:
    """Return a line for every number of the records, or for each of its comparisons.

    AP is a fraction. Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    target = io.StringIO()
    writer = csv.DictWriter(target, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        about = _describe(entry)
        for facts in _numbers(entry):
            writer.writerow({name: _cell(value) for name, value in (about | facts).items()})
    return target.getvalue()


def _comparison_data(name: str, found: Comparison) -> dict[str, Any]:
    return {
        "record": name,
        "metric": found.metric,
        "row_id": found.other if found.row else None,
        "other_record": None if found.row else found.other,
        "system": found.system,
        "named": found.named,
        "ours": asdict(found.ours),
        "theirs": asdict(found.theirs),
        "ratio": found.ratio,
        "ratio_per_device": found.ratio_per_device,
        "verdict": found.verdict,
        "reasons": list(found.reasons),
    }


def _describe(entry: Entry) -> dict[str, Any]:
    record = entry.record
    hardware, subject, conditions = record["hardware"], record["subject"], record["conditions"]
    git = record["git"] or {}
    return {
        "record": entry.name,
        "kind": record["kind"],
        "created": record["created"],
        "detector": describe_detector(record),
        "dataset": subject.get("dataset"),
        "device_kind": hardware.get("device_kind"),
        "device": hardware.get("device"),
        "device_count": hardware.get("device_count"),
        "precision": conditions.get("precision"),
        "batch": conditions.get("batch"),
        "scope": conditions.get("scope"),
        "torch": record["software"].get("torch"),
        "commit": git.get("commit"),
        "changed": git.get("dirty"),
        "command": record["command"],
    }


def _numbers(entry: Entry) -> Iterator[dict[str, Any]]:
    names = entry.metrics or sorted(entry.record["metrics"])
    for name in names:
        figure = own_figure(entry.record, name)
        if figure is None or _is_bound(entry, name):
            continue
        own = {"metric": name, "value": figure.value} | _bounds(figure)
        found = [one for one in entry.comparisons or () if one.metric == name]
        yield from (own | _verdict(one) for one in found) if found else (own,)


def _is_bound(entry: Entry, name: str) -> bool:
    """Whether a metric is a bound that stands beside its number."""
    base = name.removesuffix("_low").removesuffix("_high")
    figure = own_figure(entry.record, base) if base != name else None
    return figure is not None and figure.interval is not None


def _bounds(figure: Figure) -> dict[str, float]:
    return dict(zip(("low", "high"), figure.interval or (), strict=False))


def _verdict(one: Comparison) -> dict[str, Any]:
    return {
        "against": one.other,
        "their_system": one.system,
        "their_value": one.theirs.value,
        "ratio": one.ratio,
        "ratio_per_device": one.ratio_per_device,
        "verdict": one.verdict,
        "why": "; ".join(one.reasons),
        "their_source": one.row.source if one.row else None,
        "their_trust": one.row.trust if one.row else None,
    }


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
