"""Statistics as one HTML page: charts, and examples with their boxes drawn.

The page holds its pictures and styles, loads nothing and runs no script; it follows the reader's
choice of light or dark. All text from the data is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from PIL import Image

from suite.data.assembly import stack_boxes_xyxy
from suite.data.formats.annotated import AnnotatedImage
from suite.data.images import read_image
from suite.data.repair import repair_boxes
from suite.data.stats import Statistics
from suite.data_stats.tables import Chart, build_charts, build_summary, format_share
from suite.drawing import draw_detections
from suite.errors import InputError
from suite.report.layout import clean

_EXAMPLE_SIDE: Final = 640  # pixels, the longer side
_JPEG_QUALITY: Final = 82
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2024; --faint: #60666d; --line: #d9dce0;
  --page: #ffffff; --bar: #0072b2; --rest: #eef1f4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --faint: #a0a7ae; --line: #3a4047;
  --page: #16191c; --bar: #56b4e9; --rest: #262b30; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 2rem; margin-top: 1.5rem; }
.charts section:last-child { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: normal; color: var(--faint); font-size: .85rem; }
td, th { padding: .1rem .6rem .1rem 0; vertical-align: middle; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.bar { width: 40%; } .charts section:last-child td.bar { width: 60%; }
td.bar div { background: var(--bar); height: .8rem; }
td.bar { background: linear-gradient(var(--rest), var(--rest)) center / 100% .8rem no-repeat
  content-box; }
table.summary { width: auto; } table.summary td:first-child { color: var(--faint); }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
  gap: 1rem; margin-top: 1.5rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class CountedSplit:
    """A split's statistics, the images to show of it, and its names by category id."""

    statistics: Statistics
    examples: Sequence[AnnotatedImage]
    category_names: Mapping[int, str]


def render_page(title: str, splits: Mapping[str, CountedSplit]) -> str:
    """Return the page; images that cannot be read are named in their place."""
    heading = escape(clean(title))
    sections = "".join(_render_split(name, split) for name, split in splits.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}: data</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{heading}</h1>\n{sections}</body>\n</html>\n"
    )


def _render_split(name: str, split: CountedSplit) -> str:
    charts = "".join(_render_chart(chart) for chart in build_charts(split.statistics))
    rows = "".join(
        f'<tr><td>{escape(what)}</td><td class="number">{escape(value)}</td></tr>\n'
        for what, value in build_summary(split.statistics)
    )
    figures = "".join(_render_example(image, split.category_names) for image in split.examples)
    examples = f'<div class="examples">\n{figures}</div>\n' if figures else ""
    return (
        f'<h2>{escape(clean(name))}</h2>\n<table class="summary">\n{rows}</table>\n'
        f'<div class="charts">\n{charts}</div>\n{examples}'
    )


def _render_chart(chart: Chart) -> str:
    titles = [chart.unit, chart.counted, "share", ""] + [chart.note_head] * bool(chart.note_head)
    head = "".join(
        f"<th{_number_class(position)}>{escape(title)}</th>"
        for position, title in enumerate(titles)
    )
    rows = []
    for bar in chart.bars:
        width = max(100 * bar.count / max(1, chart.largest), 0.5 * bool(bar.count))  # to be seen
        note = f'<td class="number">{escape(bar.note)}</td>' if chart.note_head else ""
        rows.append(
            f'<tr><td>{escape(bar.label)}</td><td class="number">{bar.count:,}</td>'
            f'<td class="number">{format_share(bar.count, chart.total)}</td>'
            f'<td class="bar"><div style="width:{width:.2f}%"></div></td>{note}</tr>\n'
        )
    return (
        f"<section><h3>{escape(chart.title)}</h3>\n<table>\n<tr>{head}</tr>\n"
        f"{''.join(rows)}</table></section>\n"
    )


def _number_class(position: int) -> str:
    return ' class="number"' if position in (1, 2, 4) else ""


def _render_example(image: AnnotatedImage, names: Mapping[int, str]) -> str:
    caption = escape(clean(image.file_name))
    try:
        picture = _draw_example(image, names)
    except InputError as error:
        return f"<figure><figcaption>{escape(clean(error))}</figcaption></figure>\n"
    found = sorted({clean(names[box.category_id]) for box in image.boxes})
    told = escape(", ".join(found)) or "no boxes"
    encoded = base64.b64encode(_encode_jpeg(picture)).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{encoded}" alt="{told}" loading="lazy" '
        f'width="{picture.width}" height="{picture.height}">'
        f"<figcaption>{caption}: {told}</figcaption></figure>\n"
    )


def _draw_example(image: AnnotatedImage, names: Mapping[int, str]) -> Image.Image:
    """Return the image, made smaller, with what training sees of its boxes."""
    photo = Image.fromarray(read_image(image.image, expected_hw=image.image_hw))
    scale = min(1.0, _EXAMPLE_SIDE / max(photo.size))
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    photo = photo.resize(size, Image.Resampling.LANCZOS)
    repaired = repair_boxes(stack_boxes_xyxy(image.boxes), image.image_hw)
    label_of = {category_id: label for label, category_id in enumerate(names)}
    labels = np.array([label_of[box.category_id] for box in image.boxes], np.int64)
    return draw_detections(
        np.asarray(photo),
        repaired.boxes_xyxy * np.tile(np.divide(size, image.image_hw[::-1]), 2),
        None,
        labels[repaired.keep],
        [clean(name) for name in names.values()],
    )


def _encode_jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
