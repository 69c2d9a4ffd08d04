"""What all our pages share: one file that loads nothing, runs nothing and takes no text for markup.

The page's policy allows its own style, by its digest, and pictures inside the file; so even markup
that came through could not ask anyone for anything. Every string from outside goes through `text`.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from PIL import Image

from suite.report.html.style import STYLE
from suite.report.layout import clean

_JPEG_QUALITY: Final = 82


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of cells that are markup already.

    Attributes:
        label: what it shows, for those who cannot see it.
        numbers: positions of the columns that are aligned to the right.
        wide: positions of the columns that hold sentences.
        bars: positions of the columns that hold drawings.
        names: positions of the columns that hold long names, which a narrow screen breaks.
    """

    label: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()
    wide: Collection[int] = ()
    bars: Collection[int] = ()
    names: Collection[int] = ()


def text(value: object) -> str:
    """Return a value as text for a page: one printable line without markup."""
    return escape(clean(value))


def render_frame(title: str, body: str, *, header: str = "", style: str = "") -> str:
    """Return a whole page.

    Args:
        title: as text.
        body: markup of the content.
        header: markup above it, which the skip link passes over.
        style: CSS of this page after that of all.
    """
    css = STYLE + style
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<title>{text(title)}</title>\n<link rel="icon" href="data:,">\n<style>{css}</style>\n'
        '</head>\n<body>\n<a class="skip" href="#content">Skip to the content</a>\n'
        f'{header}<main id="content">\n{body}</main>\n</body>\n</html>\n'
    )


def render_table(table: Table) -> str:
    """Return a table that scrolls by itself where it is wider than the page."""
    classes = [_class(position, table) for position in range(len(table.titles))]
    head = "".join(
        f'<th scope="col"{kind}>{text(title)}</th>' if title else "<td></td>"
        for kind, title in zip(classes, table.titles, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(f'<td{c}>{cell}</td>' for c, cell in zip(classes, row, strict=True))}</tr>\n"
        for row in table.rows
    )
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{text(table.label)}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def render_details(summary: str, body: str, *, kind: str = "", of: str = "") -> str:
    """Return markup that a reader opens; `summary` is text, `of` more of it for ears alone."""
    classes = f' class="{kind}"' if kind else ""
    more = f'<span class="heard">: {text(of)}</span>' if of else ""
    return f"<details{classes}><summary>{text(summary)}{more}</summary>\n{body}</details>\n"


def render_picture(picture: Image.Image, *, alt: str, caption: str) -> str:
    """Return a figure that holds the picture itself; `alt` and `caption` are text."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{encoded}" alt="{text(alt)}" '
        f'width="{picture.width}" height="{picture.height}">'
        f"<figcaption>{text(caption)}</figcaption></figure>\n"
    )


def shrink(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side is at most `side` pixels."""
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _class(position: int, table: Table) -> str:
    kinds = {"number": table.numbers, "bar": table.bars, "wide": table.wide, "name": table.names}
    found = [kind for kind, positions in kinds.items() if position in positions]
    return f' class="{found[0]}"' if found else ""
