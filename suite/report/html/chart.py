"""Charts as SVG, drawn by ourselves.

A kept library was weighed against this. Those at hand draw text as outlines or in a fixed colour,
need scripts for a dark page, or are larger than the page; and the repository would carry them for
six kinds of charts. Here text stays text in the reader's colour, at the reader's size, on paper
too; a chart is as wide as a telephone's screen and is enlarged from there, so that no letter ever
gets too small; and what is drawn is told by `<title>` and `<desc>` and stands below as a table.

Coordinates are those of a view 420 wide. Marks are strings of SVG; text in them is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from suite.report.html.axes import Axis, format_tick
from suite.report.html.frame import Table, render_details, render_table, text
from suite.report.html.labels import CHARACTER, Labels
from suite.report.layout import shorten

WIDTH: Final = 420.0
NUM_STYLES: Final = 5  # colours, dashes and shapes
LINE: Final = 16.0
_TOP, _BOTTOM, _RIGHT = 24.0, 36.0, 14.0
SHAPES: Final = ("circle", "square", "diamond", "triangle", "down")

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with what it says in words and in numbers.

    Attributes:
        description: what is on the axes and what marks mean, for those who cannot see it.
        marks: SVG.
        table: the same numbers.
    """

    title: str
    description: str
    height: float
    marks: str
    table: Table


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together.

    Attributes:
        style: 0 to `NUM_STYLES` - 1: colour, dash and shape.
        line: they are joined.
        dots: each is marked.
        labels: text beside each point; empty: none.
        hollow: marks are only outlined.
    """

    name: str
    points: Sequence[Point]
    style: int
    line: bool = True
    dots: bool = False
    labels: Sequence[str] = ()
    hollow: bool = False


def draw_lines(series: Sequence[Series], x: Axis, y: Axis, *, height: float = 230) -> Drawing:
    """Draw series over two axes, named in a legend where there are several.

    Args:
        height: of the room between the axes' ends.
    """
    named = [one for one in series if one.name]
    legend, legend_height = _draw_legend(named) if len(named) > 1 else ("", 0.0)
    frame = Frame.around(x, y, top=_TOP + legend_height, height=height)
    labels = Labels(WIDTH, frame.top + height)
    for one in series:
        for point in one.points if one.labels else ():
            labels.block(*frame.at(point))
    marks = "".join(_draw_series(one, frame, labels) for one in series)
    return Drawing(frame.total_height, legend + frame.draw() + marks)


@dataclass(frozen=True)
class Drawing:
    """Marks and the height they need."""

    height: float
    marks: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The room between two axes, in the chart's coordinates."""

    x: Axis
    y: Axis
    left: float
    top: float
    height: float

    @classmethod
    def around(cls, x: Axis, y: Axis, *, top: float, height: float) -> Frame:
        """Return a frame with room for what is written at the left."""
        widest = max(len(format_tick(tick)) for tick in y.ticks)
        return cls(x=x, y=y, left=10 + 7 * widest, top=top, height=height)

    @property
    def total_height(self) -> float:
        """Height of the chart, with what is written below."""
        return self.top + self.height + _BOTTOM

    def at(self, point: Point) -> Point:
        """Return where a point of data lies."""
        width = WIDTH - _RIGHT - self.left
        across, up = self.x.place(point[0]), self.y.place(point[1])
        return self.left + across * width, self.top + (1 - up) * self.height

    def draw(self) -> str:
        """Return axes, grid, ticks, and what the axes say."""
        bottom = self.top + self.height
        parts = [write(0, self.top - 12, self.y.label, "faint")]
        parts += [self._draw_y_tick(tick) for tick in self.y.ticks]
        parts += [self._draw_x_tick(tick) for tick in self.x.ticks]
        parts.append(line((self.left, bottom), (WIDTH - _RIGHT, bottom), "axis"))
        middle = (self.left + WIDTH - _RIGHT) / 2
        parts.append(write(middle, bottom + 32, self.x.label, "faint middle"))
        return "".join(parts)

    def _draw_y_tick(self, tick: float) -> str:
        y = self.at((self.x.low, tick))[1]
        grid = line((self.left, y), (WIDTH - _RIGHT, y), "grid")
        return grid + write(self.left - 5, y + 4, format_tick(tick), "end")

    def _draw_x_tick(self, tick: float) -> str:
        x, bottom = self.at((tick, self.y.low))
        label = format_tick(tick)
        x_label = min(x, WIDTH - len(label) * CHARACTER / 2)
        mark = line((x, bottom), (x, bottom + 4), "axis")
        return mark + write(x_label, bottom + 17, label, "middle")


def render_chart(chart: Chart, name: str) -> str:
    """Return a chart as a figure; `name` makes its ids unique in the page."""
    data = render_details("Data", render_table(chart.table), of=chart.title)
    return (
        f'<figure><figcaption>{text(chart.title)}</figcaption>\n<svg role="img" '
        f'viewBox="0 0 {WIDTH:g} {chart.height:g}" aria-labelledby="{name}-title" '
        f'aria-describedby="{name}-desc">\n<title id="{name}-title">{text(chart.title)}</title>\n'
        f'<desc id="{name}-desc">{text(chart.description)}</desc>\n'
        f"{chart.marks}</svg>\n{data}</figure>\n"
    )


def write(x: float, y: float, label: str, kind: str = "") -> str:
    """Return text as SVG, its baseline at `y`."""
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{classes}>{text(label)}</text>\n'


def line(start: Point, end: Point, kind: str) -> str:
    """Return a straight line as SVG."""
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>\n'


def mark(x: float, y: float, shape: str, kind: str, *, radius: float = 4.5) -> str:
    """Return a mark as SVG; all shapes cover about the same area."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>\n'
    r = radius * 1.25
    corners = {
        "square": ((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
        "diamond": ((0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)),
        "triangle": ((0, -1), (1, 0.75), (-1, 0.75)),
        "down": ((0, 1), (1, -0.75), (-1, -0.75)),
    }[shape]
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" class="{kind}"/>\n'


def shorten_middle(value: str, limit: int) -> str:
    """Return a name of at most `limit` characters that keeps its end, where names often differ."""
    told = shorten(value, 200)
    if len(told) <= limit:
        return told
    end = limit // 2
    return f"{told[: limit - end - 3]}...{told[-end:]}"


def style_of(position: int) -> int:
    """Return the style of a series by its position; they begin again after `NUM_STYLES`."""
    return position % NUM_STYLES


def _draw_legend(series: Sequence[Series]) -> tuple[str, float]:
    parts, x, row = [], 0.0, 0
    for one in series:
        name = shorten(one.name, 54)
        width = 34 + len(name) * CHARACTER
        if x and x + width > WIDTH:
            x, row = 0.0, row + 1
        y = 8 + LINE * row
        parts.append(_draw_swatch(one, x, y) + write(x + 28, y + 4, name))
        x += width + 8
    return "".join(parts), LINE * (row + 1) + 8


def _draw_swatch(one: Series, x: float, y: float) -> str:
    drawn = line((x, y), (x + 23, y), _line_kind(one)) if one.line else ""
    return drawn + (_draw_dot(one, x + 11.5, y) if one.dots else "")


def _draw_series(one: Series, frame: Frame, labels: Labels) -> str:
    places = [frame.at(point) for point in one.points]
    parts = []
    if one.line and len(places) > 1:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" class="{_line_kind(one)}"/>\n')
    if one.dots or len(places) == 1:
        parts += [_draw_dot(one, x, y) for x, y in places]
    for (x, y), label in zip(places, one.labels, strict=False):
        told = shorten(label, 40)
        parts.append(write(*labels.place(x, y, told), told))
    return "".join(parts)


def _line_kind(one: Series) -> str:
    return f"curve s{one.style} d{one.style}"


def _draw_dot(one: Series, x: float, y: float) -> str:
    kind = f"hollow s{one.style}" if one.hollow else f"f{one.style}"
    return mark(x, y, SHAPES[one.style], kind)
