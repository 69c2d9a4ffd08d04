"""The section that a reader sees first: verdicts, and the records with their figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from suite.report.entries import Entry
from suite.report.html.frame import Table, render_details, render_table, text
from suite.report.html.section import Numbered, Section, cite, cite_group, name_entry
from suite.report.layout import shorten
from suite.report.render import figure_cells, record_cells
from suite.report.verdicts import EXPLANATION, count_verdicts, judged_cells, reason_tables

_SIGNS: Final[dict[str, str]] = {
    "ahead": "\N{BLACK UP-POINTING TRIANGLE}",
    "level": "=",
    "behind": "\N{BLACK DOWN-POINTING TRIANGLE}",
    "not comparable": "\N{WHITE CIRCLE}",
}
_CITED: Final = frozenset({"AP", "img/s", "p50 ms", "ratio", "value", "ours"})
_NUMBERS: Final = _CITED | {"no.", "theirs", "ratio/dev.", "interval"}
_SENTENCES: Final = frozenset({"why"})
_FIGURES: Final = frozenset({"AP", "img/s", "p50 ms", "ratio", "figure", "value", "interval"})
_LONGEST_CELL: Final = 200


def summary_section(entries: Sequence[Numbered]) -> Section:
    """Return the verdicts where there are some, and a table of all records."""
    plain = [entry for _, entry in entries]
    parts: list[str] = []
    if any(entry.comparisons is not None for entry in plain):
        parts += _render_verdicts(plain)
    parts += ["<h3>Records</h3>\n", _render_records(plain)]
    return Section(
        key="summary",
        heading="Summary",
        lead=f"{len(plain)} records. AP is COCO's, x 100; a number in brackets leads to how the "
        "figure beside it was measured.",
        parts=parts,
        remedy=("suite train RECIPE", "makes a record"),
    )


def _render_records(entries: Sequence[Entry]) -> str:
    cells = figure_cells(entries) if entries[0].metrics else record_cells(entries)
    # The figures stand where a telephone shows them without scrolling.
    named = [
        {"no.": line["no."], "record": name_entry(entries[int(line["no."]) - 1])}
        | {title: told for title, told in line.items() if title in _FIGURES}
        | line
        for line in cells
    ]
    return _tabulate(named, "Records and their figures")


def _render_verdicts(entries: Sequence[Entry]) -> list[str]:
    found = [one for entry in entries for one in entry.comparisons or ()]
    counts = Counter[str](one.verdict for one in found)
    items = "".join(
        f'<li><span aria-hidden="true">{sign}</span> <b>{counts[kind]}</b>{kind}</li>\n'
        for kind, sign in _SIGNS.items()
    )
    parts = [f"<p>{text(count_verdicts(found))}</p>\n", f'<ul class="counts">\n{items}</ul>\n']
    if not found:
        return parts[:1]
    row_ids = sorted({one.other for one in found if one.row})
    judged = judged_cells(entries)
    if judged:
        marked = [
            line | {"verdict": f"{_SIGNS[line['verdict']]} {line['verdict']}"} for line in judged
        ]
        parts.append(_tabulate(marked, "Verdicts", row_ids))
    parts += [
        render_details(heading, _tabulate(rows, heading, row_ids), kind="optional")
        for heading, rows in reason_tables(entries)
    ]
    return [*parts, f'<p class="faint">{text(EXPLANATION)}</p>\n']


def _tabulate(rows: Sequence[dict[str, str]], label: str, row_ids: Sequence[str] = ()) -> str:
    """Lay cells out, each figure with its footnote; empty columns are left out."""
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    return render_table(
        Table(
            label=label,
            titles=titles,
            rows=[[_cell(title, row, row_ids) for title in titles] for row in rows],
            numbers=[place for place, title in enumerate(titles) if title in _NUMBERS],
            names=[place for place, title in enumerate(titles) if title == "record"],
            wide=[place for place, title in enumerate(titles) if title in _SENTENCES],
        )
    )


def _cell(title: str, row: dict[str, str], row_ids: Sequence[str]) -> str:
    if title == "against":
        return cite_group(shorten(row[title], _LONGEST_CELL), row_ids)
    told = text(shorten(row[title], _LONGEST_CELL))
    is_cited = title in _CITED and row.get("no.") and told
    return f"{told}{cite(int(row['no.']))}" if is_cited else told
