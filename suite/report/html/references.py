"""The section of AP and throughput beside what others publish, or beside other records.

Throughput is of one device each, since systems have from one to thousands of them; figures whose
scope is not known are left out of the drawing and stand in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from suite.report.entries import Entry, describe_detector, describe_devices
from suite.report.figures import (
    Comparison,
    Figure,
    format_figure,
    is_fraction,
    is_speed,
    own_figure,
)
from suite.report.html.axes import linear_axis, log_axis
from suite.report.html.chart import Chart
from suite.report.html.dots import Dot, draw_dots
from suite.report.html.frame import Table, text
from suite.report.html.section import Numbered, Section, cite, cite_row, name_entry, state, tell_way
from suite.report.layout import format_number, shorten
from suite.report.verdicts import name_figure

_MOST_OURS: Final = 10
_MOST_THEIRS: Final = 12
_LEAST: Final = 4.0  # of an axis; noise is not to look like a difference
_LEAD: Final = (
    "Orange diamonds are ours, grey circles are others; a hollow circle cannot be compared with "
    "any of ours, for the reason in the data below it. A bar is a measured 95 % interval."
)
_TITLES: Final = {"AP": "AP", "train/s": "Training, images/s a device",
                  "infer/s": "Inference, images/s a device"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What stands in one plot: our entries with one figure, and all that they stand beside."""

    metric: str
    label: str
    detector: str
    ours: list[Numbered]
    others: dict[str, list[Comparison]]


def references_section(entries: Sequence[Numbered]) -> Section:
    """Return a dot plot for each figure and detector."""
    return Section(
        key="references",
        heading="AP and throughput beside others",
        lead=_LEAD,
        parts=[chart for group in _group(entries) if (chart := _draw(group)) is not None],
        remedy=(
            "suite report --compare reference --output report.html",
            "puts published results beside ours",
        ),
    )


def _group(entries: Iterable[Numbered]) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for number, entry in entries:
        for found in entry.comparisons or ():
            label, detector = name_figure(entry, found.metric), describe_detector(entry.record)
            group = groups.setdefault(
                (detector, label),
                _Group(metric=found.metric, label=label, detector=detector, ours=[], others={}),
            )
            if all(entry is not one for _, one in group.ours):
                group.ours.append((number, entry))
            group.others.setdefault(found.other, []).append(found)
    return [groups[key] for key in sorted(groups)]


def _draw(group: _Group) -> Chart | None:
    ours = [dot for _, entry in group.ours[-_MOST_OURS:] if (dot := _own_dot(entry, group))]
    ranked = sorted(group.others.values(), key=_rank)
    others = [dot for found in ranked if (dot := _other_dot(found, group))]
    shown = _differing(others)[:_MOST_THEIRS]
    if not ours or not shown:
        return None
    dots = sorted([*ours, *shown], key=lambda dot: -dot.value)
    ends = [end for dot in dots for end in (dot.value, *(dot.interval or ()))]
    if is_speed(group.metric):
        axis = log_axis(ends, "images/s of one device", most=5)
    else:
        # Dots, unlike bars, need no 0 where all are far from it.
        label = "AP x 100" if is_fraction(group.metric) else group.label
        axis = linear_axis(ends, label, zero=min(ends) < 0.5 * max(ends), least=_LEAST)
    drawing = draw_dots(dots, axis)
    left_out = len(group.others) - len(shown)
    more = f" {left_out} others are in the table alone." if left_out else ""
    return Chart(
        title=f"{_TITLES.get(group.label, group.label)}: {group.detector}",
        description=f"{len(ours)} figures of ours beside {len(shown)} of others, from the highest "
        f"to the lowest: {'; '.join(f'{dot.name} {dot.shown}' for dot in dots)}.{more}",
        height=drawing.height,
        marks=drawing.marks,
        table=_tabulate(group, ranked),
    )


def _rank(found: Sequence[Comparison]) -> tuple[bool, int, str]:
    """Put first what a record names, then what has verdicts, then what fewest reasons forbid."""
    named = any(one.named for one in found)
    return (not named, min(len(one.reasons) for one in found), found[0].other)


def _differing(dots: Sequence[Dot]) -> list[Dot]:
    """Leave the first of those that say the same."""
    kept: dict[tuple[str, str], Dot] = {}
    for dot in dots:
        kept.setdefault((dot.detail, dot.shown), dot)
    return list(kept.values())


def _own_dot(entry: Entry, group: _Group) -> Dot | None:
    figure = own_figure(entry.record, group.metric)
    value = _drawn_value(figure, group)
    if figure is None or value is None:
        return None
    scale = value / figure.value if figure.value else 1.0
    # Of an AP the data say most, of a speed the device does.
    way = tell_way(entry.record)
    if is_fraction(group.metric):
        facts = (state(entry.record, "dataset"), way)
    else:
        facts = (way, describe_devices(entry.record))
    low, high = figure.interval or (0.0, 0.0)
    return Dot(
        name=name_entry(entry),
        detail=", ".join(filter(None, facts)),
        value=value,
        shown=_show(value),
        interval=(scale * low, scale * high) if figure.interval else None,
        ours=True,
    )


def _other_dot(found: Sequence[Comparison], group: _Group) -> Dot | None:
    first = found[0]
    value = _drawn_value(first.theirs, group)
    if value is None:
        return None
    row = first.row
    place = row.dataset if row and is_fraction(group.metric) else first.system
    about = ", ".join(filter(None, (place, row.input if row else "")))
    return Dot(
        name=first.other,
        detail=about,
        value=value,
        shown=_show(value),
        ours=False,
        hollow=all(one.reasons for one in found),
    )


def _drawn_value(figure: Figure | None, group: _Group) -> float | None:
    """Return what is drawn: throughput of one device, AP x 100, other figures as they are."""
    if figure is None:
        return None
    if is_speed(group.metric):
        return figure.per_device
    return 100 * figure.value if is_fraction(group.metric) else figure.value


def _show(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _tabulate(group: _Group, ranked: Sequence[Sequence[Comparison]]) -> Table:
    own = [
        [f"{text(name_entry(entry))}{cite(number)}", text(describe_devices(entry.record)),
         *_numbers(own_figure(entry.record, group.metric), group), "", ""]
        for number, entry in group.ours
    ]  # fmt: skip
    others = [
        [
            cite_row(found[0].other) if found[0].row else text(found[0].other),
            text(shorten(found[0].system, 60)),
            *_numbers(found[0].theirs, group),
            text(", ".join(dict.fromkeys(one.verdict for one in found))),
            text(shorten("; ".join(dict.fromkeys(_first_reasons(found))), 300)),
        ]
        for found in ranked
    ]
    return Table(
        label=f"{group.label} of {group.detector}, ours and others",
        titles=["whose", "system", group.label, "one device", "verdict", "why"],
        rows=own + others,
        numbers=(2, 3),
        wide=(5,),
    )


def _numbers(figure: Figure | None, group: _Group) -> tuple[str, str]:
    if figure is None:
        return "", ""
    one = "" if figure.per_device is None else format_number(figure.per_device)
    return text(format_figure(group.metric, figure)), text(one)


def _first_reasons(found: Iterable[Comparison]) -> Iterable[str]:
    return (one.reasons[0] for one in found if one.reasons)
