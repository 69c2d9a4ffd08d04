"""Tables and paragraphs that fit a terminal, and numbers as people read them.

Everything printed may come from a file of someone else: `clean` takes out what is not printable, so
that no text can move the cursor, colour the screen or break a line.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence

from tabulate import tabulate

WIDTH = 80
_GAP = 2
_NARROWEST = 8
_MARKDOWN = frozenset("\\`*<>|&")


def clean(value: object) -> str:
    """Return a value as one line of printable text."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def shorten(value: object, limit: int) -> str:
    """Return a value as one line of printable text of at most `limit` characters."""
    text = clean(str(value)[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def fit_table(
    rows: Sequence[Mapping[str, str]], *, right: Collection[str] = (), flexible: Sequence[str] = ()
) -> str:
    """Lay rows out as a table of at most 80 columns.

    Columns without any content are left out.

    Args:
        rows: Cells by column title, every row with the same titles.
        right: Titles of the columns that are aligned to the right.
        flexible: Titles of the columns whose text may be wrapped to make the table fit.
    """
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    natural = {title: max(len(title), *(len(row[title]) for row in rows)) for title in titles}
    limits = _narrow(natural, flexible=[title for title in flexible if title in titles])
    cells = [[_wrap(row[title], limits[title]) for title in titles] for row in rows]
    # tabulate pads the titles it knows as such by two columns more; as a row it leaves them alone.
    head = [titles, ["-" * _widest(column) for column in zip(titles, *cells, strict=True)]]
    return tabulate(
        head + cells,
        tablefmt="plain",
        colalign=["right" if title in right else "left" for title in titles],
        disable_numparse=True,
    )


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Lay rows out as a Markdown table; columns without any content are left out."""
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    cells = [[escape_markdown(row[title]) for title in titles] for row in rows]
    return tabulate(cells, headers=titles, tablefmt="pipe", disable_numparse=True)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is: no link, markup or table cell of its own."""
    escaped = "".join(f"\\{letter}" if letter in _MARKDOWN else letter for letter in clean(text))
    return escaped.replace("](", "]\\(")


def wrap_paragraph(text: str, *, hanging: int = 0) -> str:
    """Break a text into lines of at most 80 columns, all but the first indented by `hanging`."""
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * hanging, break_on_hyphens=False)


def format_ap(ap: float | None) -> str:
    """Return an AP fraction as people print it, times 100 with one or two decimals."""
    if ap is None:
        return ""
    text = f"{100 * ap:.2f}"
    return text.removesuffix("0")


def format_number(value: float | None) -> str:
    """Return a measured number with at most two decimals, more only below 0.01."""
    if value is None:
        return ""
    if 0 < abs(value) < 0.01 or abs(value) >= 1e12:
        return f"{value:.3g}"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _narrow(natural: Mapping[str, int], *, flexible: Sequence[str]) -> dict[str, int]:
    """Take width from the widest flexible column, one character at a time, until all fit."""
    limits = dict(natural)
    room = WIDTH - _GAP * (len(limits) - 1)
    while sum(limits.values()) > room and flexible:
        widest = max(flexible, key=lambda title: limits[title])
        if limits[widest] <= _NARROWEST:
            break
        limits[widest] -= 1
    return limits


def _wrap(text: str, limit: int) -> str:
    return textwrap.fill(text, limit, break_on_hyphens=False) if len(text) > limit else text


def _widest(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in cell.split("\n"))
