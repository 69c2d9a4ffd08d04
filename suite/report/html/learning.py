"""The section of learning curves: losses, learning rate and AP over the steps of each training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from suite.report.html.axes import Axis, linear_axis, log_axis, step_axis
from suite.report.html.beside import find_metrics
from suite.report.html.chart import Chart, Series, draw_lines, style_of
from suite.report.html.curves import Curve, Training, load_training, thin_out
from suite.report.html.frame import Table, text
from suite.report.html.section import Numbered, Section, cite, name_entry
from suite.report.layout import format_number, shorten

_MOST_RUNS: Final = 6
_MOST_ROWS: Final = 40
_LARGE_RANGE: Final = 8  # from here on a logarithm shows more
_AP_NAMES: Final = {"ap": "AP", "ap50": "AP50"}


def learning_section(entries: Sequence[Numbered]) -> Section:
    """Return the curves of the latest trainings that have some."""
    found = [
        (number, entry, path)
        for number, entry in entries
        if entry.record["kind"] == "train" and (path := find_metrics(entry.path)) is not None
    ]
    parts: list[Chart | str] = []
    for number, entry, path in found[-_MOST_RUNS:]:
        charts = _draw_training(load_training(path), number)
        if charts:
            parts += [f"<h3>{text(name_entry(entry, 80))} {cite(number)}</h3>\n", *charts]
    more = f" The latest {_MOST_RUNS} of {len(found)} trainings." if len(found) > _MOST_RUNS else ""
    return Section(
        key="learning",
        heading="Learning curves",
        lead=f"Means between two lines of the log; the steps of a training.{more}",
        parts=parts,
        remedy=("suite train RECIPE", "its run folder holds metrics.jsonl beside the record"),
    )


def _draw_training(training: Training, number: int) -> list[Chart]:
    charts = []
    if training.losses:
        charts.append(_draw("Loss", training.losses, number, _loss_axis))
    if training.lr:
        charts.append(_draw("Learning rate", {"lr": training.lr}, number, _rate_axis))
    if training.evaluations:
        curves = {
            _AP_NAMES[name]: [(step, 100 * value) for step, value in curve]
            for name, curve in training.evaluations.items()
        }
        charts.append(_draw("AP on the val split", curves, number, _ap_axis, dots=True))
    return charts


def _loss_axis(values: Sequence[float]) -> Axis:
    lowest = min(values)
    if lowest > 0 and max(values) > _LARGE_RANGE * lowest:
        return log_axis(values, "loss")
    return linear_axis(values, "loss", zero=True)


def _rate_axis(values: Sequence[float]) -> Axis:
    return linear_axis(values, "learning rate", zero=True)


def _ap_axis(values: Sequence[float]) -> Axis:
    return linear_axis(values, "AP x 100", zero=True)


def _draw(
    title: str,
    curves: Mapping[str, Curve],
    number: int,
    build_axis: Callable[[Sequence[float]], Axis],
    *,
    dots: bool = False,
) -> Chart:
    values = [value for curve in curves.values() for _, value in curve]
    steps = [step for curve in curves.values() for step, _ in curve]
    x, y = step_axis(steps), build_axis(values)
    series = [
        Series(name=shorten(name, 30), points=thin_out(curve), style=style_of(place), dots=dots)
        for place, (name, curve) in enumerate(curves.items())
    ]
    drawing = draw_lines(series, x, y)
    told = "; ".join(_tell(name, curve) for name, curve in curves.items())
    return Chart(
        title=title,
        description=f"Lines over {format_number(max(steps))} steps. {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=_tabulate(title, curves, number),
    )


def _tell(name: str, curve: Curve) -> str:
    first, last = (format_number(curve[place][1]) for place in (0, -1))
    return f"{shorten(name, 30)} from {first} to {last}"


def _tabulate(title: str, curves: Mapping[str, Curve], number: int) -> Table:
    by_step: dict[float, dict[str, float]] = {}
    for name, curve in curves.items():
        for step, value in curve:
            by_step.setdefault(step, {})[name] = value
    steps = sorted(by_step)
    every = -(-len(steps) // _MOST_ROWS)
    # The last step is always among them.
    chosen = steps[(len(steps) - 1) % every :: every]
    return Table(
        label=f"{title} by step",
        titles=["step", *(shorten(name, 30) for name in curves), "source"],
        rows=[
            [
                format_number(step),
                *(format_number(by_step[step].get(name)) for name in curves),
                cite(number),
            ]
            for step in chosen
        ],
        numbers=range(len(curves) + 1),
    )
