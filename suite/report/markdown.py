"""Records and comparisons as Markdown, with every row and every reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from suite.records import Record
from suite.report.catalogue import INTRODUCTION, build_sections
from suite.report.entries import Entry, describe_devices
from suite.report.figures import Comparison, format_figure
from suite.report.layout import escape_markdown, markdown_table
from suite.report.reference import ReferenceRow
from suite.report.render import NO_RECORDS, figure_cells, record_cells, tell_records
from suite.report.verdicts import EXPLANATION, count_verdicts, format_ratio, name_figure


def render_markdown(entries: Sequence[Entry], rows: Sequence[ReferenceRow]) -> str:
    """Return everything that the terminal shows, and what it leaves out, as Markdown."""
    parts = ["# Report"]
    parts += _mark_records(entries) if entries else _mark_catalogue(rows)
    found = [one for entry in entries for one in entry.comparisons or ()]
    if any(entry.comparisons is not None for entry in entries):
        parts += ["## Comparison", count_verdicts(found)]
    if found:
        parts.append(EXPLANATION)
    for entry in entries:
        if entry.comparisons:
            parts += [f"### {escape_markdown(_describe(entry))}", *_mark_comparisons(entry)]
    return "\n\n".join(parts) + "\n"


def tell_origin(record: Record) -> str:
    """Say when, with what and by which command a record came about."""
    facts = [record["created"].partition("T")[0], f"torch {record['software'].get('torch')}"]
    if record["conditions"].get("n") is not None:
        facts.append(f"n = {record['conditions']['n']}")
    if record["git"]:
        changed = " with changes" if record["git"].get("dirty") else ""
        facts.append(f"commit {str(record['git'].get('commit'))[:12]}{changed}")
    return ", ".join([*facts, f"by: {record['command']}"])


def _describe(entry: Entry) -> str:
    record = entry.record
    facts = (record["kind"], record["subject"].get("detector"), describe_devices(record))
    return f"{entry.name} ({', '.join(filter(None, facts))})"


def _mark_records(entries: Sequence[Entry]) -> list[str]:
    cells = figure_cells(entries) if entries[0].metrics else record_cells(entries)
    lines = [
        f"- {escape_markdown(line)}; {escape_markdown(tell_origin(entry.record))}"
        for line, entry in zip(tell_records(entries), entries, strict=True)
    ]
    return ["## Records", markdown_table(cells), "\n".join(lines)]


def _mark_comparisons(entry: Entry) -> list[str]:
    parts = []
    for metric, found in groupby(entry.comparisons or (), key=lambda one: one.metric):
        rows = list(found)
        ours = f"{name_figure(entry, metric)}: ours {format_figure(metric, rows[0].ours)}"
        parts += [escape_markdown(ours), markdown_table([_cells(one) for one in rows])]
    return parts


def _cells(one: Comparison) -> dict[str, str]:
    return {
        "against": one.other,
        "system": one.system,
        "theirs": format_figure(one.metric, one.theirs),
        "ratio": format_ratio(one.ratio),
        "per device": format_ratio(one.ratio_per_device),
        "verdict": one.verdict,
        "why": "; ".join(one.reasons),
    }


def _mark_catalogue(rows: Sequence[ReferenceRow]) -> list[str]:
    parts = [NO_RECORDS, "## Published results", INTRODUCTION]
    for section in build_sections(rows):
        parts += [f"### {escape_markdown(section.heading)}", markdown_table(section.cells)]
        if section.notes:
            parts.append("\n".join(f"- {escape_markdown(note)}" for note in section.notes))
    return parts
