"""Records and comparisons as text for a terminal: at most 80 columns, never a colour code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.records import Record
from suite.report.catalogue import render_catalogue
from suite.report.entries import Entry, compared_sides, describe_detector, describe_devices
from suite.report.figures import Figure, format_figure, own_figure
from suite.report.layout import (
    fit_table,
    format_ap,
    format_number,
    shorten,
    wrap_paragraph,
)
from suite.report.reference import ReferenceRow
from suite.report.verdicts import format_ratio, name_figure, render_verdicts

NO_RECORDS = "No records of our own yet; these are the published results."
_RIGHT = ("no.", "AP", "img/s", "p50 ms", "ratio", "value")
_FLEXIBLE = ("detector", "system", "prec.", "figure", "interval", "value")
_USUAL_COLUMNS = frozenset({"ap", "images_per_second", "latency_ms_p50"})
_LONGEST_CELL = 60
_LONGEST_TEXT = 400


def render_table(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return the records, and where asked for their comparisons, as text for a terminal.

    Without any record it is the published rows.
    """
    if not entries:
        return f"{NO_RECORDS}\n\n{render_catalogue(rows)}"
    cells = figure_cells(entries) if entries[0].metrics else record_cells(entries)
    shortened = [{t: shorten(text, _LONGEST_CELL) for t, text in line.items()} for line in cells]
    lines = [
        wrap_paragraph(shorten(line, _LONGEST_TEXT), hanging=4) for line in tell_records(entries)
    ]
    parts = ["\n".join([fit_table(shortened, right=_RIGHT, flexible=_FLEXIBLE), "", *lines])]
    if any(entry.comparisons is not None for entry in entries):
        parts += render_verdicts(entries)
    return "\n\n".join(parts) + "\n"


def record_cells(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Return a table row for each record, with its usual figures."""
    return [_record_cells(number, entry) for number, entry in enumerate(entries, start=1)]


def figure_cells(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Return a table row for each figure that was asked for."""
    return [
        _figure_cells(number, entry, name, figure)
        for number, entry in enumerate(entries, start=1)
        for name in entry.metrics
        if (figure := own_figure(entry.record, name)) is not None
    ]


def tell_records(entries: Sequence[Entry]) -> list[str]:
    """Name the record behind each number, with its notes and what the columns do not hold."""
    lines = []
    for number, entry in enumerate(entries, start=1):
        texts = [entry.name, _tell_ratio(entry.record), *entry.record["notes"]]
        if not entry.metrics:
            texts.append(_tell_unusual_metrics(entry.record))
        lines.append(f"{number}: {'; '.join(filter(None, texts))}")
    return lines


def _record_cells(number: int, entry: Entry) -> dict[str, str]:
    record, metrics = entry.record, entry.record["metrics"]
    ratio = metrics.get("ratio") if record["kind"] == "bench-compare" else None
    return {
        "no.": str(number),
        "kind": record["kind"],
        "detector": describe_detector(record),
        "system": describe_devices(record),
        "prec.": record["conditions"].get("precision") or "",
        "AP": format_ap(metrics.get("ap")),
        "img/s": format_number(metrics.get("images_per_second")),
        "p50 ms": format_number(metrics.get("latency_ms_p50")),
        "ratio": format_ratio(ratio),
    }


def _figure_cells(number: int, entry: Entry, metric: str, figure: Figure) -> dict[str, str]:
    record = entry.record
    value, _, interval = format_figure(metric, figure).partition(" (")
    scope = str(record["conditions"].get("scope") or "").replace("_", " ")
    return {
        "no.": str(number),
        "detector": describe_detector(record),
        "system": describe_devices(record),
        "figure": name_figure(entry, metric),
        "value": value,
        "interval": interval.removesuffix(")"),
        "scope": scope if figure.per_device is not None else "",
    }


def _tell_ratio(record: Record) -> str:
    """Say what a `bench-compare` record found: how much faster `b` is than `a`."""
    ratio = own_figure(record, "ratio") if record["kind"] == "bench-compare" else None
    if ratio is None:
        return ""
    one, other = (_name_side(side) for side in compared_sides(record))
    judged = "" if record["conditions"].get("winner") in ("a", "b") else ", no winner"
    return f"{other} at {format_figure('ratio', ratio)} times the speed of {one}{judged}"


def _name_side(side: Mapping[str, Any]) -> str:
    """Say what a side is by what usually tells sides apart."""
    conditions = side.get("conditions")
    facts = (conditions if isinstance(conditions, dict) else {}) | dict(side)
    name = facts.get("file") or facts.get("recipe") or "?"
    told = ", ".join(str(facts[key]) for key in ("runtime", "precision") if facts.get(key))
    return f"{name} ({told})" if told else str(name)


def _tell_unusual_metrics(record: Record) -> str:
    """Give an export or a verification something to show: it has none of the usual metrics."""
    metrics: dict[str, float | None] = record["metrics"]
    if metrics.keys() & _USUAL_COLUMNS or record["kind"] == "bench-compare":
        return ""
    return ", ".join(f"{name} {format_number(metrics[name]) or '-'}" for name in sorted(metrics))
