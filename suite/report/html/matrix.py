"""A confusion matrix and bars as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from suite.report.html.chart import WIDTH, Drawing, line, write
from suite.report.html.labels import CHARACTER
from suite.report.layout import shorten

_LEFT: Final = 92.0
_LETTERS: Final = int(_LEFT / CHARACTER)
_TITLE: Final = 18.0
_STRONGEST: Final = 0.5  # so that text in the page's colour can be read on it
_BAR_LEFT: Final = 128.0
_BAR_ROW: Final = 26.0
_MOST_WITH_NUMBERS: Final = 12


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Counts, rows by true class, columns by the class that was detected."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Mapping[tuple[int, int], int]

    def total(self, row: int) -> int:
        """Return the sum of a row."""
        return sum(count for (at, _), count in self.counts.items() if at == row)


def draw_matrix(matrix: Matrix) -> Drawing:
    """Draw the share of each row in its cells, the darker the more."""
    side = min((WIDTH - _LEFT - 4) / len(matrix.columns), 34.0)
    slant = max(len(shorten(name, _LETTERS)) for name in matrix.columns) * 4.8 + 14
    top = _TITLE + slant
    totals = [matrix.total(row) for row in range(len(matrix.rows))]
    parts = [write(0, 12, "rows: true class; columns: detected as", "faint")]
    for column, name in enumerate(matrix.columns):
        x = _LEFT + side * (column + 0.6)
        parts.append(
            f'<g transform="translate({x:.1f} {top - 6:.1f}) rotate(-45)">'
            f"{write(0, 0, shorten(name, _LETTERS))}</g>\n"
        )
    for row, name in enumerate(matrix.rows):
        y = top + side * row
        parts.append(write(_LEFT - 6, y + side / 2 + 4, shorten(name, _LETTERS), "end"))
        for column in range(len(matrix.columns)):
            count = matrix.counts.get((row, column), 0)
            share = count / totals[row] if totals[row] else 0.0
            parts.append(_draw_cell(_LEFT + side * column, y, side, share))
            if count and len(matrix.columns) <= _MOST_WITH_NUMBERS:
                middle = (_LEFT + side * (column + 0.5), y + side / 2 + 4)
                parts.append(write(*middle, _short(count), "middle small"))
    return Drawing(top + side * len(matrix.rows) + 4, "".join(parts))


def draw_bars(rows: Sequence[tuple[str, float, str]]) -> Drawing:
    """Draw a bar for each name and value from 0, with its text behind it."""
    largest = max((value for _, value, _ in rows), default=0) or 1.0
    longest = max(len(told) for _, _, told in rows) * CHARACTER + 8
    room = WIDTH - _BAR_LEFT - longest
    parts = []
    for place, (name, value, told) in enumerate(rows):
        y = _BAR_ROW * place + 3
        length = max(0.0, room * value / largest)
        parts.append(write(_BAR_LEFT - 7, y + 14, shorten(name, 18), "end"))
        parts.append(
            f'<rect x="{_BAR_LEFT}" y="{y:.1f}" width="{length:.1f}" height="19" class="bar"/>\n'
        )
        parts.append(write(_BAR_LEFT + length + 6, y + 14, told))
    height = _BAR_ROW * len(rows)
    parts.append(line((_BAR_LEFT, 0), (_BAR_LEFT, height), "axis"))
    return Drawing(height + 4, "".join(parts))


def _draw_cell(x: float, y: float, side: float, share: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}"'
    empty = f'<rect {place} class="grid"/>\n'
    if not share:
        return empty
    return f'<rect {place} class="bar" fill-opacity="{_STRONGEST * share:.3f}"/>\n{empty}'


def _short(count: int) -> str:
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 10_000 else f"{count / 1000:.0f}k"
