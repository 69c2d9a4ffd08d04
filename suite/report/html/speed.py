"""The sections of scaling and of latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from suite.records import Record
from suite.report.entries import Entry, describe_detector
from suite.report.figures import scoped_value
from suite.report.html.axes import linear_axis, log_axis, unit_axis
from suite.report.html.chart import Chart, Drawing, Series, draw_lines
from suite.report.html.frame import Table
from suite.report.html.section import (
    Numbered,
    Section,
    cite,
    name_entry,
    state,
    tell_way,
)
from suite.report.layout import format_number, shorten

_MOST_PLOTS: Final = 12
_MOST_STEPS: Final = 400
_QUANTILES: Final = (0.5, 0.9, 0.99)
_SERIES: Final = {"latency_ms": "latency", "step_ms": "time of a step"}


def scaling_section(entries: Sequence[Numbered]) -> Section:
    """Return throughput by number of devices, for each recipe that was measured on several."""
    groups: dict[tuple[str, ...], dict[int, tuple[float, int]]] = {}
    for number, entry in entries:
        speed = scoped_value(entry.record, "images_per_second", "global")
        count = entry.record["hardware"].get("device_count")
        if entry.record["kind"] in ("train", "bench-train") and speed and count:
            groups.setdefault(_scaling_key(entry.record), {})[count] = (speed, number)
    return Section(
        key="scaling",
        heading="Scaling",
        lead="Images a second of all devices together; the dashed line is that of the fewest "
        "devices times their number.",
        parts=[_draw_scaling(key, found) for key, found in groups.items() if len(found) > 1],
        remedy=(
            "suite bench train RECIPE --devices N",
            "measures a recipe on 1, 2, 4 devices: a record for each",
        ),
    )


def latency_section(entries: Sequence[Numbered]) -> Section:
    """Return the distribution of every measured series."""
    found = [
        (number, entry, name, values)
        for number, entry in entries
        for name in _SERIES
        if len(values := entry.record.get("series", {}).get(name, ())) > 1 and min(values) > 0
    ]
    more = f" The latest {_MOST_PLOTS} of {len(found)}." if len(found) > _MOST_PLOTS else ""
    return Section(
        key="latency",
        heading="Latency",
        lead="The share of calls that were done within a time; dots mark the median, 90 % and "
        f"99 %.{more}",
        parts=[_draw_distribution(*one) for one in found[-_MOST_PLOTS:]],
        remedy=("suite bench infer MODEL", "keeps the time of every call in its record"),
    )


def _scaling_key(record: Record) -> tuple[str, ...]:
    hardware = record["hardware"]
    return (
        state(record, "recipe") or describe_detector(record),
        state(record, "precision"),
        shorten(hardware.get("device") or "?", 40),
        record["kind"],
    )


def _draw_scaling(key: tuple[str, ...], found: dict[int, tuple[float, int]]) -> Chart:
    counts = sorted(found)
    points = [(float(count), found[count][0]) for count in counts]
    fewest, speed = points[0]
    ideal = [(count, speed * count / fewest) for count, _ in points]
    counted = log_axis([count for count, _ in points], "devices")
    x = replace(counted, ticks=[count for count, _ in points])
    y = log_axis([value for _, value in (*points, *ideal)], "images/s")
    series = [
        Series(name="measured", points=points, style=0, dots=True),
        Series(name="in proportion", points=ideal, style=1),
    ]
    drawing = draw_lines(series, x, y)
    told = "; ".join(f"{count:g}: {format_number(value)}" for count, value in points)
    rows = [
        [f"{count:g}", f"{format_number(value)}{cite(found[int(count)][1])}",
         f"{value / ideal_value:.3f}"]
        for (count, value), (_, ideal_value) in zip(points, ideal, strict=True)
    ]  # fmt: skip
    return Chart(
        title=", ".join(filter(None, key)),
        description=f"Images a second by number of devices: {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="Images a second by number of devices",
                    titles=["devices", "images/s", "efficiency"], rows=rows, numbers=(0, 1, 2)),
    )  # fmt: skip


def _draw_distribution(number: int, entry: Entry, name: str, values: Sequence[float]) -> Chart:
    ordered = sorted(map(float, values))
    what = _SERIES[name]
    quantiles = [(_quantile(ordered, share), share) for share in _QUANTILES]
    drawing = _mark_quantiles(
        [Series(name="", points=_steps(ordered), style=0)], quantiles, x_values=ordered, label=what
    )
    told = ", ".join(f"{100 * share:g} % within {value:.4g} ms" for value, share in quantiles)
    rows = [[f"{100 * share:g} %", f"{value:.4g}{cite(number)}"] for value, share in quantiles]
    rows += [["least", f"{ordered[0]:.4g}"], ["most", f"{ordered[-1]:.4g}"]]
    batch = state(entry.record, "batch")
    about = ", ".join(filter(None, (tell_way(entry.record), batch and f"batch {batch}")))
    return Chart(
        title=f"{name_entry(entry)}: {about or what}",
        description=f"Share of {len(ordered)} calls by {what}: {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label=f"Quantiles of the {what} of {len(ordered)} calls",
                    titles=["share of calls", "ms"], rows=rows, numbers=(0, 1)),
    )  # fmt: skip


def _mark_quantiles(
    series: Sequence[Series],
    quantiles: Sequence[tuple[float, float]],
    *,
    x_values: Sequence[float],
    label: str,
) -> Drawing:
    axis = log_axis if x_values[-1] > 4 * x_values[0] else linear_axis
    marked = [
        Series(
            name=f"p{100 * share:g} {value:.4g} ms",
            points=[(value, share)],
            style=style,
            line=False,
            dots=True,
        )
        for style, (value, share) in enumerate(quantiles, start=1)
    ]
    return draw_lines(
        [*series, *marked], axis(x_values, f"{label}, ms"), unit_axis("share of calls"), height=170
    )


def _steps(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the distribution's steps, of at most `_MOST_STEPS` of them."""
    every = math.ceil(len(ordered) / _MOST_STEPS)
    kept = [*range(every - 1, len(ordered) - 1, every), len(ordered) - 1]
    rises = [(ordered[place], (place + 1) / len(ordered)) for place in kept]
    points = [(ordered[0], 0.0)]
    for (value, share), before in zip(rises, [0.0, *(share for _, share in rises)], strict=False):
        points += [(value, before), (value, share)]
    return points


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile between the two nearest values, as numpy.percentile does."""
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])
