"""Statistics as one HTML page: charts, and examples with their boxes drawn.

It has the frame of a report's page: it loads nothing, runs no script, and escapes what comes from
the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from suite.data.assembly import stack_boxes_xyxy
from suite.data.formats.annotated import AnnotatedImage
from suite.data.images import read_image
from suite.data.repair import repair_boxes
from suite.data.stats import Statistics
from suite.data_stats.tables import Bar, Chart, build_charts, build_summary, format_share
from suite.drawing import draw_detections
from suite.errors import InputError
from suite.report.html.frame import (
    Table,
    render_frame,
    render_picture,
    render_table,
    shrink,
    text,
)
from suite.report.layout import clean

_EXAMPLE_SIDE: Final = 640  # pixels, the longer side
_STYLE: Final = """
.histograms { display: grid; gap: 2rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
.histograms section:last-child { grid-column: 1 / -1; }
.histograms table { width: 100%; }
td.bar { width: 40%; vertical-align: middle; }
.histograms section:last-child td.bar { width: 60%; }
td.bar svg { display: block; width: 100%; height: .8rem; }
"""


@dataclass(frozen=True)
class CountedSplit:
    """A split's statistics, the images to show of it, and its names by category id."""

    statistics: Statistics
    examples: Sequence[AnnotatedImage]
    category_names: Mapping[int, str]


def render_page(title: str, splits: Mapping[str, CountedSplit]) -> str:
    """Return the page; images that cannot be read are named in their place."""
    sections = "".join(_render_split(name, split) for name, split in splits.items())
    header = f"<header><h1>{text(title)}</h1></header>\n"
    return render_frame(f"{clean(title)}: data", sections, header=header, style=_STYLE)


def _render_split(name: str, split: CountedSplit) -> str:
    charts = "".join(_render_chart(chart) for chart in build_charts(split.statistics))
    summary = Table(
        label=f"Summary of {name}",
        titles=["what", "value"],
        rows=[[text(what), text(value)] for what, value in build_summary(split.statistics)],
        numbers=(1,),
    )
    figures = "".join(_render_example(image, split.category_names) for image in split.examples)
    examples = f'<div class="charts pictures">\n{figures}</div>\n' if figures else ""
    return (
        f"<h2>{text(name)}</h2>\n{render_table(summary)}"
        f'<div class="histograms">\n{charts}</div>\n{examples}'
    )


def _render_chart(chart: Chart) -> str:
    noted = bool(chart.note_head)
    table = Table(
        label=chart.title,
        titles=[chart.unit, chart.counted, "share", "", *([chart.note_head] if noted else [])],
        rows=[_bar_cells(bar, chart) for bar in chart.bars],
        numbers=(1, 2, 4),
        bars=(3,),
    )
    return f"<section><h3>{text(chart.title)}</h3>\n{render_table(table)}</section>\n"


def _bar_cells(bar: Bar, chart: Chart) -> list[str]:
    width = max(100 * bar.count / max(1, chart.largest), 0.5 * bool(bar.count))  # to be seen
    drawn = (
        '<svg aria-hidden="true"><rect class="rest" width="100%" height="100%"/>'
        f'<rect class="bar" width="{width:.2f}%" height="100%"/></svg>'
    )
    cells = [text(bar.label), f"{bar.count:,}", text(format_share(bar.count, chart.total)), drawn]
    return [*cells, text(bar.note)] if chart.note_head else cells


def _render_example(image: AnnotatedImage, names: Mapping[int, str]) -> str:
    try:
        picture = _draw_example(image, names)
    except InputError as error:
        return f"<figure><figcaption>{text(error)}</figcaption></figure>\n"
    told = ", ".join(sorted({clean(names[box.category_id]) for box in image.boxes})) or "no boxes"
    return render_picture(picture, alt=told, caption=f"{clean(image.file_name)}: {told}")


def _draw_example(image: AnnotatedImage, names: Mapping[int, str]) -> Image.Image:
    """Return the image, made smaller, with what training sees of its boxes."""
    photo = Image.fromarray(read_image(image.image, expected_hw=image.image_hw))
    photo = shrink(photo, _EXAMPLE_SIDE)
    repaired = repair_boxes(stack_boxes_xyxy(image.boxes), image.image_hw)
    label_of = {category_id: label for label, category_id in enumerate(names)}
    labels = np.array([label_of[box.category_id] for box in image.boxes], np.int64)
    return draw_detections(
        np.asarray(photo),
        repaired.boxes_xyxy * np.tile(np.divide(photo.size, image.image_hw[::-1]), 2),
        None,
        labels[repaired.keep],
        [clean(name) for name in names.values()],
    )
