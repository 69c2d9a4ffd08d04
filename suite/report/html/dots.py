"""Dot plots: figures of ours and of others, one a row, with intervals and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from suite.report.html.axes import Axis, format_tick
from suite.report.html.chart import WIDTH, Drawing, line, mark, shorten_middle, write
from suite.report.html.labels import CHARACTER
from suite.report.layout import shorten

_LEFT: Final = 172.0
_RIGHT: Final = 58.0  # of the last dot's value
_ROW: Final = 32.0
_TOP: Final = 6.0
_LETTERS: Final = int(_LEFT / CHARACTER)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A row.

    Attributes:
        name: whose figure.
        detail: on what, in a second line.
        shown: the value as it is written beside the dot.
        ours: drawn in colour.
        hollow: nothing to be held against ours.
    """

    name: str
    detail: str
    value: float
    shown: str
    interval: tuple[float, float] | None = None
    ours: bool
    hollow: bool = False


def draw_dots(dots: Sequence[Dot], axis: Axis) -> Drawing:
    """Draw rows from the top over one axis."""
    bottom = _TOP + _ROW * len(dots)
    parts = []
    for tick in axis.ticks:
        x = _place(axis, tick)
        parts += [line((x, _TOP), (x, bottom), "grid")]
        parts += [write(x, bottom + 15, format_tick(tick), "middle")]
    parts.append(line((_LEFT, bottom), (WIDTH - _RIGHT, bottom), "axis"))
    parts.append(write((_LEFT + WIDTH - _RIGHT) / 2, bottom + 32, axis.label, "faint middle"))
    parts += [_draw_row(dot, axis, _TOP + _ROW * (row + 0.5)) for row, dot in enumerate(dots)]
    return Drawing(bottom + 40, "".join(parts))


def _draw_row(dot: Dot, axis: Axis, y: float) -> str:
    x = _place(axis, dot.value)
    low, high = dot.interval or (dot.value, dot.value)
    left, right = _place(axis, low), _place(axis, high)
    parts = [
        write(0, y - 2, shorten_middle(dot.name, _LETTERS)),
        write(0, y + 11, shorten(dot.detail, _LETTERS + 1), "faint small"),
    ]
    if dot.interval:
        stroke = "curve s1 thin" if dot.ours else "curve grey thin"
        parts += [line((end, y - 4), (end, y + 4), stroke) for end in (left, right)]
        parts.append(line((left, y), (right, y), stroke))
    if dot.ours:
        parts.append(mark(x, y, "diamond", "f1", radius=5.5))
    else:
        parts.append(mark(x, y, "circle", "hollow grey" if dot.hollow else "fgrey"))
    parts.append(write(max(x, right) + 9, y + 4, dot.shown))
    return "".join(parts)


def _place(axis: Axis, value: float) -> float:
    return _LEFT + 8 + axis.place(value) * (WIDTH - _RIGHT - _LEFT - 8)
