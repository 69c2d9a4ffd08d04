"""Statistics as charts of labelled counts, and those as text for a terminal.

Names come from annotation files, so control characters are taken out of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tabulate import tabulate

from suite.data.stats import ClassCount, Histogram, Statistics
from suite.report.layout import clean

_BAR: Final = 24  # columns
_AREA_LABELS: Final = ("small, below 32 x 32", "medium", "large, from 96 x 96")
_ASPECT_LABELS: Final = ("below 1:8", "1:8 to 1:4", "1:4 to 1:2", "1:2 to 3:4", "3:4 to 4:3",
                         "4:3 to 2:1", "2:1 to 4:1", "4:1 to 8:1", "from 8:1")  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """One line of a chart."""

    label: str
    count: int
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """Counts of one kind.

    Attributes:
        unit: what a label says, the head of its column.
        counted: what is counted.
        note_head: head of the notes' column.
    """

    title: str
    unit: str
    counted: str
    bars: tuple[Bar, ...]
    note_head: str = ""

    @property
    def total(self) -> int:
        """The sum of all counts."""
        return sum(bar.count for bar in self.bars)

    @property
    def largest(self) -> int:
        """The largest count."""
        return max((bar.count for bar in self.bars), default=0)


def build_summary(found: Statistics) -> list[tuple[str, str]]:
    """Return what there is to say in single numbers, as (what, value)."""
    counts = [item.num_boxes for item in found.classes if item.num_boxes]
    rows = [
        ("images", f"{found.num_images:,}"),
        ("images without boxes", _with_share(found.num_images_without_boxes, found.num_images)),
        ("smallest image", _tell_size(found.smallest_hw)),
        ("largest image", _tell_size(found.largest_hw)),
        ("boxes", f"{found.num_boxes:,}"),
        ("crowd boxes", _with_share(found.num_crowd, found.num_boxes)),
        ("boxes without a size", _with_share(found.num_sizeless, found.num_boxes)),
        ("classes", f"{len(found.classes)}"),
        ("classes without boxes", f"{len(found.classes) - len(counts)}"),
    ]
    if counts:
        rows += [
            ("most to least frequent class", f"{max(counts) / min(counts):,.1f} : 1"),
            ("as even as", f"{found.effective_classes:.1f} equally frequent classes"),
        ]
    rows += [(f"unusable: {clean(rule)}", f"{count:,}") for rule, count in found.problems.items()]
    return rows


def build_charts(found: Statistics) -> list[Chart]:
    """Return the histograms, without empty bins at either end; the longest, of classes, last."""
    area = zip(_AREA_LABELS, found.box_area.counts, strict=True)
    aspect = zip(_ASPECT_LABELS, found.box_aspect.counts, strict=True)
    return [
        Chart("Boxes by COCO's sizes", "area in pixels", "boxes", _to_bars(area)),
        Chart("Box size", "sqrt(width x height), pixels", "boxes", _label_bins(found.box_side)),
        Chart("Box shape", "width : height", "boxes", _trim(_to_bars(aspect))),
        Chart("Objects per image", "objects", "images", _label_bins(found.objects_per_image, 1)),
        Chart("Image size", "longer side, pixels", "images", _label_bins(found.long_side)),
        _chart_classes(found.classes),
    ]


def format_statistics(name: str, found: Statistics) -> str:
    """Return the statistics of one split as text."""
    parts = [clean(name), tabulate(build_summary(found), tablefmt="plain", disable_numparse=True)]
    parts += [f"{chart.title}\n{_format_chart(chart)}" for chart in build_charts(found)]
    return "\n\n".join(parts)


def format_share(count: int, total: int) -> str:
    """Return a part of a total in percent."""
    return f"{100 * count / total:.1f} %" if total else ""


def _chart_classes(classes: Sequence[ClassCount]) -> Chart:
    ordered = sorted(classes, key=lambda item: -item.num_boxes)
    bars = tuple(
        Bar(f"{clean(item.name)} ({item.category_id})", item.num_boxes, f"{item.num_images:,}")
        for item in ordered
    )
    return Chart("Boxes by class", "class (id)", "boxes", bars, note_head="images")


def _label_bins(histogram: Histogram, step: int = 0) -> tuple[Bar, ...]:
    """Return bars with labels such as "32 to 64"; with `step` 1, of whole numbers: "6 to 10"."""
    edges = (*histogram.edges, math.inf)
    labels = [_tell_bin(low, high, step) for low, high in itertools.pairwise(edges)]
    return _trim(_to_bars(zip(labels, histogram.counts, strict=True)))


def _tell_bin(low: float, high: float, step: int) -> str:
    if math.isinf(high):
        return f"from {low:g}"
    return f"{low:g}" if high - low == step else f"{low:g} to {high - step:g}"


def _to_bars(rows: Iterable[tuple[str, int]]) -> tuple[Bar, ...]:
    return tuple(Bar(label, count) for label, count in rows)


def _trim(bars: tuple[Bar, ...]) -> tuple[Bar, ...]:
    filled = [position for position, bar in enumerate(bars) if bar.count]
    return bars[filled[0] : filled[-1] + 1] if filled else ()


def _format_chart(chart: Chart) -> str:
    if not chart.bars:
        return f"no {chart.counted}"
    head = [chart.unit, chart.counted, "share", "", chart.note_head]
    rows = [
        [
            bar.label,
            f"{bar.count:,}",
            format_share(bar.count, chart.total),
            "#" * math.ceil(_BAR * bar.count / max(1, chart.largest)),
            bar.note,
        ]
        for bar in chart.bars
    ]
    if not chart.note_head:
        head, rows = head[:-1], [row[:-1] for row in rows]
    align = ["left", "right", "right", "left", "right"][: len(head)]
    return tabulate(rows, headers=head, colalign=align, disable_numparse=True)


def _with_share(count: int, total: int) -> str:
    return f"{count:,} ({format_share(count, total)})" if count else "0"


def _tell_size(image_hw: tuple[int, int]) -> str:
    return f"{image_hw[1]} x {image_hw[0]}"
