"""Comparisons in a terminal: all verdicts in one table, then what cannot be compared and why.

Rows of one source that say the same share a line; rows that a record asked for and the seeds keep a
line of their own. Records that cannot be compared with the same rows for the same reasons share a
table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple

from suite.report.entries import Entry
from suite.report.figures import Comparison, format_figure, format_metric
from suite.report.layout import fit_table, shorten, wrap_paragraph
from suite.report.reference import FIRST_GROUP

EXPLANATION = (
    "A verdict is about whole systems. It needs the same detector, input and data, and for speed "
    "the same device and number of devices. Level means that the 95 % intervals meet, or, without "
    "any, within 0.3 points of AP or 2 %. A flagged figure is never a target. ratio/dev. is "
    "ours over theirs, of one device each."
)

_LABELS = {"ap": "AP", "latency_ms_p50": "p50 ms"}
_SPEEDS = {"train": "train/s", "bench-train": "train/s", "bench-infer": "infer/s"}
_RIGHT = ("no.", "theirs", "ratio", "ratio/dev.")
_FLEXIBLE = ("ours", "against", "system", "why")

Group = list[Comparison]


def render_verdicts(entries: Sequence[Entry]) -> list[str]:
    """Return the paragraphs and tables of all comparisons; the numbers are those of the entries."""
    found = [one for entry in entries for one in entry.comparisons or ()]
    parts = [count_verdicts(found)]
    judged = judged_cells(entries)
    if judged:
        parts.append(fit_table(judged, right=_RIGHT, flexible=_FLEXIBLE))
    for heading, rows in reason_tables(entries):
        table = fit_table(rows, right=_RIGHT, flexible=_FLEXIBLE)
        parts.append(f"{wrap_paragraph(heading)}\n{table}")
    parts += _tell_without(entries)
    return [*parts, wrap_paragraph(EXPLANATION)] if found else parts


def judged_cells(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """Return a table row for each verdict; the numbers are those of the entries."""
    return [
        _verdict_cells(number, entry, group)
        for number, entry in enumerate(entries, start=1)
        for group in _groups(entry, judged=True)
    ]


def count_verdicts(comparisons: Sequence[Comparison]) -> str:
    """Say against what, and how many verdicts there are of each kind."""
    if not comparisons:
        return "Nothing to compare: no published row or record has the same figures."
    counts = Counter(one.verdict for one in comparisons)
    told = [f"{counts[kind]} {kind}" for kind in ("ahead", "level", "behind", "not comparable")]
    published = any(one.row for one in comparisons)
    return f"Against {'published results' if published else 'other records'}: {', '.join(told)}."


def name_figure(entry: Entry, metric: str) -> str:
    """Return a short name of a figure: AP, train/s, infer/s, or the metric's own."""
    if metric == "images_per_second":
        return _SPEEDS.get(entry.record["kind"], "img/s")
    return _LABELS.get(metric) or shorten(metric, 40)


def format_ratio(ratio: float | None) -> str:
    """Return a ratio with three decimals, more for a small one."""
    if ratio is None:
        return ""
    return f"{ratio:.3f}" if 0.1 <= abs(ratio) < 1e6 else f"{ratio:.3g}"


def _groups(entry: Entry, *, judged: bool) -> Iterator[Group]:
    """Yield an entry's comparisons with or without a verdict, joined where they say the same."""
    for _, found in groupby(entry.comparisons or (), key=lambda one: one.metric):
        chosen = [one for one in found if bool(one.reasons) is not judged]
        yield from _join(chosen, key=_published if judged else _weightiest)


def _published(one: Comparison) -> object:
    return one.theirs.value if one.row else one.other


def _weightiest(one: Comparison) -> object:
    return one.reasons[0]


def _join(comparisons: Sequence[Comparison], *, key: Callable[[Comparison], object]) -> list[Group]:
    groups: dict[tuple[str, object], Group] = {}
    for one in comparisons:
        apart = one.named or (one.row is not None and one.row.group == FIRST_GROUP)
        groups.setdefault((one.other if apart else _source(one), key(one)), []).append(one)
    return list(groups.values())


def _source(comparison: Comparison) -> str:
    return comparison.other.rpartition("-")[0] if comparison.row else "records"


def _verdict_cells(number: int, entry: Entry, group: Group) -> dict[str, str]:
    first = group[0]
    # Where there is a verdict, another record's system is like ours.
    systems = {shorten(one.system, 60) if one.row else "" for one in group}
    return {
        "no.": str(number),
        "ours": f"{name_figure(entry, first.metric)} {format_figure(first.metric, first.ours)}",
        "against": _name_others(group),
        "system": systems.pop() if len(systems) == 1 else "various",
        "theirs": format_metric(first.metric, first.theirs.value),
        "ratio": format_ratio(first.ratio),
        "verdict": first.verdict,
    }


def reason_tables(entries: Sequence[Entry]) -> list[tuple[str, list[dict[str, str]]]]:
    """Return what cannot be compared: tables, each with its heading."""
    tables: dict[tuple[str, tuple[_Reason, ...]], _Sharing] = {}
    for number, entry in enumerate(entries, start=1):
        by_metric = groupby(_groups(entry, judged=False), key=lambda group: group[0].metric)
        for metric, found in by_metric:
            groups = list(found)
            key = (name_figure(entry, metric), tuple(map(_reason_cells, groups)))
            sharing = tables.setdefault(key, _Sharing([], [[] for _ in groups]))
            sharing.numbers.append(number)
            for ratios, group in zip(sharing.ratios, groups, strict=True):
                ratios += _unlike_ratios(group)
    return [_reason_table(figure, rows, sharing) for (figure, rows), sharing in tables.items()]


class _Reason(NamedTuple):
    """A row of a table of what cannot be compared."""

    against: str
    theirs: str
    why: str


@dataclass(frozen=True)
class _Sharing:
    """The numbers of the records that share a table, and for each row the ratios of one device."""

    numbers: list[int]
    ratios: list[list[float]]


def _reason_table(
    figure: str, rows: Sequence[_Reason], sharing: _Sharing
) -> tuple[str, list[dict[str, str]]]:
    cells = [
        {
            "against": row.against,
            "theirs": row.theirs,
            "ratio/dev.": _range(ratios, format_ratio),
            "why": row.why,
        }
        for row, ratios in zip(rows, sharing.ratios, strict=True)
    ]
    return f"Not comparable: {figure} of {_name_numbers(sharing.numbers)}", cells


def _tell_without(entries: Sequence[Entry]) -> list[str]:
    """Name the records that were to be compared and have no counterpart."""
    alone = [n for n, entry in enumerate(entries, start=1) if entry.comparisons == []]
    if not alone or len(alone) == len(entries):
        return []
    return [wrap_paragraph(f"Without a counterpart: {_name_numbers(alone)}")]


def _reason_cells(group: Group) -> _Reason:
    figures = [one.theirs.value for one in group]
    return _Reason(
        against=_name_others(group),
        theirs=_range(figures, partial(format_metric, group[0].metric)),
        why=shorten(group[0].reasons[0], 200),
    )


def _unlike_ratios(group: Group) -> list[float]:
    """Return the ratios of one device each, where some have another number of devices."""
    if all(one.ratio_per_device in (None, one.ratio) for one in group):
        return []
    return [ratio for one in group if (ratio := one.ratio_per_device) is not None]


def _range(values: Sequence[float], write: Callable[[float], str]) -> str:
    if not values:
        return ""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low} to {high}"


def _name_others(group: Group) -> str:
    if len(group) == 1:
        return shorten(group[0].other.removeprefix("reports/records/").removeprefix("runs/"), 60)
    return f"{_source(group[0])} x{len(group)}"


def _name_numbers(numbers: Sequence[int]) -> str:
    """Write 1, 2, 3, 5 as "1 to 3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )
