"""Records and comparisons as text for a terminal, as Markdown and as one JSON document.

Text never holds colour codes and is at most 80 columns wide. Markdown and JSON name every row and
every reason; the terminal prints the rows one looks for and joins the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from suite.records import Record
from suite.report.catalogue import INTRODUCTION, build_sections, render_catalogue, shorten_device
from suite.report.compare import Comparison
from suite.report.layout import (
    clean,
    escape_markdown,
    fit_table,
    format_ap,
    format_number,
    markdown_table,
    wrap_paragraph,
)
from suite.report.reference import ReferenceRow
from suite.report.verdicts import EXPLANATION, mark_comparisons, render_comparisons

SCHEMA = "suite.report/1"

_NO_RECORDS = "No records of our own yet; these are the published results."
_RIGHT = ("no.", "AP", "images/s", "p50 ms")
_FLEXIBLE = ("detector", "system", "prec.")
_USUAL_METRICS = frozenset({"ap", "images_per_second", "latency_ms_p50"})


@dataclass(frozen=True)
class Entry:
    """A record, the name it goes by, and its comparisons where they were asked for."""

    name: str
    record: Record
    comparisons: Sequence[Comparison] | None = None


def render_table(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return the records, and where asked for their comparisons, as text for a terminal.

    Without any record it is the published rows.
    """
    if not entries:
        return f"{_NO_RECORDS}\n\n{render_catalogue(rows)}"
    cells = [_record_cells(number, entry) for number, entry in enumerate(entries, start=1)]
    lines = [wrap_paragraph(line, hanging=4) for line in _tell_records(entries)]
    parts = ["\n".join([fit_table(cells, right=_RIGHT, flexible=_FLEXIBLE), "", *lines])]
    for entry in entries:
        if entry.comparisons is not None:
            title = wrap_paragraph(f"{_describe(entry)} against published results:", hanging=2)
            parts += [title, *_tell_nothing(entry), *render_comparisons(entry.comparisons)]
    if any(entry.comparisons for entry in entries):
        parts.append(wrap_paragraph(EXPLANATION))
    return "\n\n".join(parts) + "\n"


def render_markdown(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return everything that `render_table` shows, with every row and reason, as Markdown."""
    parts = ["# Report"]
    parts += _mark_records(entries) if entries else _mark_catalogue(rows)
    if any(entry.comparisons for entry in entries):
        parts += ["## Against published results", EXPLANATION]
    for entry in entries:
        if entry.comparisons is not None:
            title = f"### {escape_markdown(_describe(entry))}"
            parts += [title, *_tell_nothing(entry), *mark_comparisons(entry.comparisons)]
    return "\n\n".join(parts) + "\n"


def render_json(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return one JSON document: the records, their comparisons, and the published rows in them."""
    listed = [(entry.name, found) for entry in entries for found in entry.comparisons or ()]
    used = {found.row.row_id for _, found in listed}
    document = {
        "schema": SCHEMA,
        "records": [{"name": entry.name, "record": entry.record} for entry in entries],
        "comparisons": [_comparison_data(name, found) for name, found in listed],
        "reference": [asdict(row) for row in rows if row.row_id in used or not entries],
    }
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _record_cells(number: int, entry: Entry) -> dict[str, str]:
    record, metrics = entry.record, entry.record["metrics"]
    cells = {
        "no.": str(number),
        "kind": record["kind"],
        "detector": record["subject"].get("detector") or "",
        "system": _describe_system(record),
        "prec.": record["conditions"].get("precision") or "",
        "AP": format_ap(metrics.get("ap")),
        "images/s": format_number(metrics.get("images_per_second")),
        "p50 ms": format_number(metrics.get("latency_ms_p50")),
    }
    return {title: clean(text) for title, text in cells.items()}


def _describe_system(record: Record) -> str:
    hardware = record["hardware"]
    name = shorten_device(hardware.get("device") or "?")
    simulated = " (simulated)" if record["conditions"].get("simulated") else ""
    return f"{hardware.get('device_count') or '?'} x {name}{simulated}"


def _tell_records(entries: Sequence[Entry]) -> list[str]:
    """Name the record behind each table row, with its notes and what the columns do not hold."""
    lines = []
    for number, entry in enumerate(entries, start=1):
        texts = [entry.name, *entry.record["notes"], _tell_unusual_metrics(entry.record)]
        lines.append(f"{number}: {'; '.join(clean(text) for text in texts if text)}")
    return lines


def _tell_unusual_metrics(record: Record) -> str:
    """Give an export or a verification something to show: it has none of the usual metrics."""
    metrics: dict[str, float | None] = record["metrics"]
    if metrics.keys() & _USUAL_METRICS:
        return ""
    return ", ".join(f"{name} {format_number(metrics[name]) or '-'}" for name in sorted(metrics))


def _describe(entry: Entry) -> str:
    record = entry.record
    facts = (record["kind"], record["subject"].get("detector"), _describe_system(record))
    return clean(f"{entry.name} ({', '.join(filter(None, facts))})")


def _tell_nothing(entry: Entry) -> list[str]:
    if entry.comparisons:
        return []
    return ["No published row of this detector has a metric that this record has."]


def _mark_records(entries: Sequence[Entry]) -> list[str]:
    cells = [_record_cells(number, entry) for number, entry in enumerate(entries, start=1)]
    lines = [
        f"- {escape_markdown(line)}; {escape_markdown(_tell_origin(entry.record))}"
        for line, entry in zip(_tell_records(entries), entries, strict=True)
    ]
    return ["## Records", markdown_table(cells), "\n".join(lines)]


def _tell_origin(record: Record) -> str:
    """Say when, with what and by which command a record came about."""
    facts = [record["created"].partition("T")[0], f"torch {record['software'].get('torch')}"]
    if record["conditions"].get("n") is not None:
        facts.append(f"n = {record['conditions']['n']}")
    if record["git"]:
        changed = " with changes" if record["git"].get("dirty") else ""
        facts.append(f"commit {str(record['git'].get('commit'))[:12]}{changed}")
    return ", ".join([*facts, f"by: {record['command']}"])


def _mark_catalogue(rows: Sequence[ReferenceRow]) -> list[str]:
    parts = [_NO_RECORDS, "## Published results", INTRODUCTION]
    for section in build_sections(rows):
        parts += [f"### {escape_markdown(section.heading)}", markdown_table(section.cells)]
        if section.notes:
            parts.append("\n".join(f"- {escape_markdown(note)}" for note in section.notes))
    return parts


def _comparison_data(name: str, found: Comparison) -> dict[str, Any]:
    data = asdict(found) | {"record": name, "row_id": found.row.row_id}
    del data["row"]
    return data
