"""The verb `report`: our records as tables, beside published results or each other where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from suite.errors import CheckFailed, SuiteError, UsageError
from suite.files import write_text
from suite.report.compare import COMPARED_KINDS, compare_record
from suite.report.conditions import find_failures, parse_conditions
from suite.report.documents import render_csv, render_json
from suite.report.entries import Entry, Selection, load_entries, select_entries
from suite.report.html import render_html
from suite.report.markdown import render_markdown
from suite.report.peers import compare_peers
from suite.report.reference import ReferenceRow, load_reference
from suite.report.render import render_table

Format = Literal["table", "markdown", "html", "json", "csv"]
Renderer = Callable[[Sequence[Entry], Sequence[ReferenceRow]], str]

REFERENCE = "reference"
MAX_PAIRS = 20_000
_EVERYTHING = Selection()
_RENDERERS: dict[Format, Renderer] = {
    "table": render_table,
    "markdown": render_markdown,
    "json": render_json,
    "csv": render_csv,
    "html": render_html,
}
_SUFFIXES: dict[str, Format] = {
    ".md": "markdown",
    ".html": "html",
    ".json": "json",
    ".csv": "csv",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a report is made of.

    Attributes:
        found: all records that were read.
        entries: those of them that were selected, with their comparisons.
        rows: all published rows.
    """

    found: Sequence[Entry]
    entries: Sequence[Entry]
    rows: Sequence[ReferenceRow]


def report(
    records: Sequence[str | Path],
    *,
    compare: str | None,
    reference_folder: Path,
    output: Path | None,
    output_format: Format,
) -> str:
    """Return a report on records; without any record it lists the published results.

    Args:
        records: as of `collect`.
        compare: as of `collect`.
        reference_folder: the folder of published rows.
        output: where it is also written, in the form that the name's end says; None: nowhere.
        output_format: form of the returned text.

    Raises:
        UsageError: an argument is wrong or names no record.
        InputError: a record or a reference file is damaged or not ours.
    """
    if output is not None:
        format_of(output)
    findings = collect(records, compare=compare, reference_folder=reference_folder)
    if output is not None:
        write_report(findings, output)
    return render(findings, output_format)


def collect(
    records: Sequence[str | Path],
    *,
    compare: str | None,
    reference_folder: Path,
    selection: Selection = _EVERYTHING,
) -> Findings:
    """Read records, choose among them, and set each beside what it is to be compared with.

    Args:
        records: files, folders or glob patterns; none stands for runs/ and reports/records/.
        compare: "reference" for the published rows of each record's detector; else the file,
            folder or pattern of the records that each is set beside.
        reference_folder: the folder of published rows.
        selection: which records, and which metrics of them.

    Raises:
        UsageError: an argument is wrong or names no record.
        InputError: a record or a reference file is damaged or not ours.
    """
    rows = load_reference(reference_folder)
    found = load_entries(records)
    chosen = [
        replace(entry, metrics=tuple(dict.fromkeys(selection.metrics)))
        for entry in select_entries(found, selection)
    ]
    if compare == REFERENCE:
        chosen = [_beside_rows(entry, rows) for entry in chosen]
    elif compare is not None:
        chosen = _beside_records(chosen, _load_peers(compare))
    return Findings(found=found, entries=chosen, rows=rows)


def render(findings: Findings, output_format: Format) -> str:
    """Return a report as text of a form."""
    return _RENDERERS[output_format](findings.entries, findings.rows)


def format_of(output: Path) -> Format:
    """Return the form that the end of a file's name asks for.

    Raises:
        UsageError: it asks for none.
    """
    found = _SUFFIXES.get(output.suffix.lower())
    if found is None:
        raise UsageError(f"--output {output}: give a name that ends in {', '.join(_SUFFIXES)}")
    return found


def write_report(findings: Findings, output: Path) -> None:
    """Write a report in the form that the file's name asks for; it appears whole or not at all.

    Raises:
        UsageError: the name asks for no form, or is that of a record that was read.
        SuiteError: the file cannot be written.
    """
    form = format_of(output)
    if any(entry.path.absolute() == output.absolute() for entry in findings.found):
        raise UsageError(f"--output {output}: that is one of the records; give another name")
    try:
        write_text(output, render(findings, form))
    except OSError as error:
        raise SuiteError(f"{output}: the report cannot be written: {error.strerror}") from error


def require(findings: Findings, fail_on: str) -> None:
    """Hold the selected records against conditions such as ``ap<0.36,latency_ms_p50>20``.

    Raises:
        UsageError: a condition has another form or an unknown metric.
        CheckFailed: one holds, or no record can answer it; a line for each.
    """
    conditions = parse_conditions(fail_on, findings.found)
    failures = find_failures(conditions, findings.entries)
    if failures:
        heading = f"{len(failures)} of {len(conditions)} conditions of --fail-on"
        raise CheckFailed("\n".join([f"{heading} failed:", *failures]))


def _beside_rows(entry: Entry, rows: Sequence[ReferenceRow]) -> Entry:
    if entry.record["kind"] not in COMPARED_KINDS:
        return entry
    found = compare_record(entry.record, rows)
    wanted = [one for one in found if not entry.metrics or one.metric in entry.metrics]
    return replace(entry, comparisons=wanted)


def _load_peers(compare: str) -> list[Entry]:
    try:
        return load_entries([compare])
    except UsageError as error:
        raise UsageError(f"--compare: neither '{REFERENCE}' nor records: {error}") from error


def _beside_records(entries: Sequence[Entry], peers: Sequence[Entry]) -> list[Entry]:
    pairs = len(entries) * len(peers)
    if pairs > MAX_PAIRS:
        raise UsageError(
            f"{len(entries)} x {len(peers)} records are {pairs} pairs, more than {MAX_PAIRS}; "
            "narrow them with --model and --device, or name fewer after --compare"
        )
    return [
        replace(entry, comparisons=compare_peers(entry, peers, metrics=entry.metrics))
        for entry in entries
    ]
