"""What a page is made of: sections, and numbers with a link to where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.records import Record
from suite.report.entries import Entry
from suite.report.figures import Figure, format_figure, own_figure
from suite.report.html.chart import Chart
from suite.report.html.frame import text
from suite.report.layout import shorten

Numbered = tuple[int, Entry]  # the number is that of its footnote


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section; without parts it is named among what is missing.

    Attributes:
        key: makes ids unique.
        lead: what there is to see, as text.
        parts: charts, and markup; neighbouring charts stand beside each other.
        remedy: the command that makes what is missing, and what it makes, as text.
    """

    key: str
    heading: str
    lead: str = ""
    parts: Sequence[Chart | str]
    remedy: tuple[str, str]


def number_entries(entries: Sequence[Entry]) -> list[Numbered]:
    """Number entries from 1, as they stand in the tables and among the footnotes."""
    return list(enumerate(entries, start=1))


def cite(number: int) -> str:
    """Return a link to the footnote of a record."""
    return f'<a class="note" href="#source-{number}">[{number}]</a>'


def cite_row(row_id: str) -> str:
    """Return the id of a published row as a link to its source."""
    return f'<a href="#row-{text(row_id)}">{text(row_id)}</a>'


def cite_group(name: str, row_ids: Sequence[str]) -> str:
    """Return what a figure stands against with a link to its source, where it is published.

    Args:
        name: a row's id, several as in "ascend_infer x12", or the name of another record.
        row_ids: of the published rows in this report.
    """
    group, _, count = name.rpartition(" x")
    start = f"{group}-" if count.isdigit() else name
    first = next((one for one in row_ids if one.startswith(start)), None)
    return text(name) if first is None else f'<a href="#row-{text(first)}">{text(name)}</a>'


def show_figure(metric: str, figure: Figure | None, number: int) -> str:
    """Return a figure of a record with its interval and footnote; nothing where there is none."""
    return "" if figure is None else f"{text(format_figure(metric, figure))}{cite(number)}"


def show_own(entry: Entry, metric: str, number: int) -> str:
    """Return a metric of a record with its interval and footnote; nothing where it has none."""
    return show_figure(metric, own_figure(entry.record, metric), number)


def name_entry(entry: Entry, limit: int = 48) -> str:
    """Return the name of a record without the folders where all are."""
    name = entry.name.removeprefix("reports/records/").removeprefix("runs/")
    return shorten(name, limit)


def tell_way(record: Record) -> str:
    """Return with what a record's model ran: "torch bf16"; what it does not say is left out."""
    runtime = state(record, "runtime").partition(" ")[0]
    return " ".join(filter(None, (runtime, state(record, "precision"))))


def state(record: Record, *names: str) -> str:
    """Return what a record's conditions or subject say under names, joined; nothing where not."""
    facts = record["subject"] | record["conditions"]
    return ", ".join(shorten(facts[name], 40) for name in names if facts.get(name) is not None)
