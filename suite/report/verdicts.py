"""Comparisons as tables, metric by metric: first the verdicts, then what cannot be compared.

In the terminal rows of one source that say the same share a line; rows that a record asked for and
the seeds keep a line of their own. Markdown has a line for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from suite.report.catalogue import describe_system
from suite.report.compare import Comparison, Metric
from suite.report.layout import clean, fit_table, format_ap, format_number, markdown_table
from suite.report.reference import FIRST_GROUP

EXPLANATION = (
    "A verdict is about whole systems and needs the same detector, input and data, and for speed "
    "the same kind and number of devices. Level means within 0.3 points of AP or 2 % of speed, or "
    "within our own interval where a record has one. A flagged figure is never a target."
)

_OURS: dict[Metric, str] = {
    "ap": "AP: ours {}",
    "train_images_per_second": "Training: ours {} images/s",
    "infer_images_per_second": "Inference: ours {} images/s",
}
_RIGHT = ("published", "ratio")
_FLEXIBLE = ("system", "why")


def render_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the paragraphs and tables of one record's comparisons for a terminal."""
    parts = []
    for metric, found in groupby(comparisons, key=lambda comparison: comparison.metric):
        parts += _render_metric(metric, list(found))
    return parts


def mark_comparisons(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the paragraphs and tables of one record's comparisons as Markdown."""
    parts = []
    for metric, found in groupby(comparisons, key=lambda comparison: comparison.metric):
        rows = list(found)
        cells = [_verdict_cells([one]) | {"why": "; ".join(one.reasons)} for one in rows]
        parts += [_tell_ours(metric, rows), markdown_table(cells)]
    return parts


def _render_metric(metric: Metric, found: Sequence[Comparison]) -> list[str]:
    ours, parts = _tell_ours(metric, found), []
    judged = _join([one for one in found if not one.reasons], key=lambda one: one.published)
    others = _join([one for one in found if one.reasons], key=lambda one: one.reasons[0])
    if judged:
        cells = [_verdict_cells(group) for group in judged]
        parts.append(f"{ours}\n{fit_table(cells, right=_RIGHT, flexible=_FLEXIBLE)}")
    if others:
        cells = [_reason_cells(group) for group in others]
        start = "Not comparable:" if judged else f"{ours}, not comparable:"
        parts.append(f"{start}\n{fit_table(cells, right=_RIGHT, flexible=_FLEXIBLE)}")
    return parts


def _tell_ours(metric: Metric, found: Sequence[Comparison]) -> str:
    return _OURS[metric].format(_format(found[0].ours, metric))


def _join(
    comparisons: Sequence[Comparison], *, key: Callable[[Comparison], object]
) -> list[list[Comparison]]:
    groups: dict[tuple[str, object], list[Comparison]] = {}
    for one in comparisons:
        apart = one.named or one.row.group == FIRST_GROUP
        source = one.row.row_id if apart else _source(one)
        groups.setdefault((source, key(one)), []).append(one)
    return list(groups.values())


def _source(comparison: Comparison) -> str:
    return comparison.row.row_id.rpartition("-")[0]


def _verdict_cells(group: Sequence[Comparison]) -> dict[str, str]:
    first = group[0]
    systems = {describe_system(one.row) for one in group}
    return {
        "row": _name_rows(group),
        "system": clean(systems.pop()) if len(systems) == 1 else "various",
        "published": _format(first.published, first.metric),
        "ratio": f"{first.ratio:.3f}",
        "verdict": first.verdict,
    }


def _reason_cells(group: Sequence[Comparison]) -> dict[str, str]:
    metric = group[0].metric
    figures = [one.published for one in group]
    low, high = (_format(figure, metric) for figure in (min(figures), max(figures)))
    return {
        "row": _name_rows(group),
        "published": low if low == high else f"{low} to {high}",
        "why": clean(group[0].reasons[0]),
    }


def _name_rows(group: Sequence[Comparison]) -> str:
    return group[0].row.row_id if len(group) == 1 else f"{_source(group[0])} ({len(group)} rows)"


def _format(value: float, metric: Metric) -> str:
    return format_ap(value) if metric == "ap" else format_number(value)
