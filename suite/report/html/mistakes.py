"""The section of evaluations in detail: curves, confusions, calibration, and what AP is lost by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from suite.report.html.analysis import Analysis, load_analysis
from suite.report.html.axes import unit_axis
from suite.report.html.beside import find_analysis
from suite.report.html.chart import NUM_STYLES, Chart, Series, draw_lines, style_of
from suite.report.html.frame import Table, text
from suite.report.html.matrix import Matrix, draw_bars, draw_matrix
from suite.report.html.section import Numbered, Section, cite, name_entry
from suite.report.layout import format_ap, shorten

_MOST_RECORDS: Final = 4
_MOST_CLASSES: Final = 15  # of a matrix; the others are one
_CURVE_NAMES: Final = {"iou50": "IoU 0.5", "iou75": "IoU 0.75", "mean": "mean of 0.5 to 0.95"}
_OTHERS: Final = "others"


def mistakes_section(entries: Sequence[Numbered]) -> Section:
    """Return the charts of the latest evaluations that were analysed."""
    found = [
        (number, entry, path)
        for number, entry in entries
        if (path := find_analysis(entry.path)) is not None and "ap" in entry.record["metrics"]
    ]
    parts: list[Chart | str] = []
    for number, entry, path in found[-_MOST_RECORDS:]:
        parts.append(f"<h3>{text(name_entry(entry, 80))} {cite(number)}</h3>\n")
        parts += _draw_analysis(load_analysis(path), number)
    more = f" The latest {_MOST_RECORDS} of {len(found)}." if len(found) > _MOST_RECORDS else ""
    return Section(
        key="mistakes",
        heading="Precision, confusions, calibration",
        lead=f"Of evaluations that were looked into.{more}",
        parts=parts,
        remedy=("suite eval MODEL --analyse", "writes eval/analysis.json beside its record"),
    )


def _draw_analysis(analysis: Analysis, number: int) -> list[Chart]:
    charts = []
    if analysis.curve is not None:
        charts.append(_draw_curve(analysis, number))
    if sum(one is not None for one in analysis.class_curves) > 1:
        charts.append(_draw_classes(analysis, number))
    if analysis.cells:
        charts.append(_draw_confusion(analysis, number))
    if any(one.precision is not None for one in analysis.bins):
        charts.append(_draw_calibration(analysis, number))
    if analysis.lost:
        charts.append(_draw_lost(analysis, number))
    return charts


def _draw_curve(analysis: Analysis, number: int) -> Chart:
    assert analysis.curve is not None
    series = [
        Series(name=told, points=_points(analysis, analysis.curve[name]), style=style)
        for style, (name, told) in enumerate(_CURVE_NAMES.items())
    ]
    drawing = draw_lines(series, unit_axis("recall"), unit_axis("precision"))
    shown = range(0, len(analysis.recall), 10)
    rows = [
        [f"{analysis.recall[place]:.2f}",
         *(f"{analysis.curve[name][place]:.3f}" for name in _CURVE_NAMES), cite(number)]
        for place in shown
    ]  # fmt: skip
    means = "; ".join(
        f"{told}: mean precision {_mean(analysis.curve[name]):.3f}"
        for name, told in _CURVE_NAMES.items()
    )
    return Chart(
        title="Precision and recall, all classes",
        description=f"Precision over recall, mean over classes. {means}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="Precision by recall", rows=rows, numbers=range(4),
                    titles=["recall", *_CURVE_NAMES.values(), "source"]),
    )  # fmt: skip


def _draw_classes(analysis: Analysis, number: int) -> Chart:
    """Draw the classes with most true boxes; all stand in the table."""
    order = sorted(range(len(analysis.classes)), key=lambda at: -analysis.classes[at].true_boxes)
    drawn = [
        (at, curve)
        for at in order
        if at < len(analysis.class_curves) and (curve := analysis.class_curves[at]) is not None
    ][:NUM_STYLES]
    series = [
        Series(
            name=shorten(analysis.classes[at].name, 24),
            points=_points(analysis, curve["iou50"]),
            style=style_of(place),
        )
        for place, (at, curve) in enumerate(drawn)
    ]
    drawing = draw_lines(series, unit_axis("recall"), unit_axis("precision at IoU 0.5"))
    rows = [
        [f"{text(shorten(one.name, 60))}", f"{one.true_boxes:,}",
         *(format_ap(value) for value in (one.ap, one.ap50, one.ap75)), cite(number)]
        for one in (analysis.classes[at] for at in order)
    ]  # fmt: skip
    told = "; ".join(
        f"{shorten(analysis.classes[at].name, 40)}: AP50 {format_ap(analysis.classes[at].ap50)}"
        for at, _ in drawn
    )
    return Chart(
        title=f"The {len(drawn)} commonest of {len(analysis.classes)} classes",
        description=f"Precision at IoU 0.5 over recall by class. {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="AP by class", rows=rows, numbers=range(1, 5),
                    titles=["class", "true boxes", "AP", "AP50", "AP75", "source"]),
    )  # fmt: skip


def _draw_confusion(analysis: Analysis, number: int) -> Chart:
    matrix = _build_matrix(analysis)
    drawing = draw_matrix(matrix)
    rows = [
        [text(matrix.rows[true]), text(matrix.columns[found]), f"{count:,}",
         f"{100 * count / matrix.total(true):.1f} %", cite(number)]
        for (true, found), count in sorted(matrix.counts.items())
    ]  # fmt: skip
    right = sum(count for (true, found), count in matrix.counts.items() if true == found)
    all_found = sum(matrix.counts.values())
    return Chart(
        title=f"Confusion matrix, scores from {analysis.min_score:g} on",
        description="Rows are true classes, columns what was detected there at IoU 0.5; the last "
        "ones are background: a box on nothing, or a box missed. A cell is the darker the larger "
        f"its share of the row. {right:,} of {all_found:,} lie on the diagonal.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="Confusions", titles=["true", "detected", "number", "share", "source"],
                    rows=rows, numbers=(2, 3)),
    )  # fmt: skip


def _build_matrix(analysis: Analysis) -> Matrix:
    """Keep the classes with most confusions where there are too many for a drawing."""
    background = len(analysis.classes)
    wrong: Counter[int] = Counter()
    for true, found, count in analysis.cells:
        if true != found:
            wrong.update({label: count for label in (true, found) if label != background})
    kept = sorted(one for one, _ in wrong.most_common(_MOST_CLASSES))
    if background <= _MOST_CLASSES:
        kept = list(range(background))
    place = {label: at for at, label in enumerate(kept)} | {background: len(kept)}
    names = [shorten(analysis.classes[label].name, 40) for label in kept] + ["background"]
    counts: Counter[tuple[int, int]] = Counter()
    for true, found, count in analysis.cells:
        cell = (place.get(true, len(names)), place.get(found, len(names)))
        counts[cell] += count
    if len(kept) < background:
        names.append(_OTHERS)
    return Matrix(rows=names, columns=names, counts=counts)


def _draw_calibration(analysis: Analysis, number: int) -> Chart:
    filled = [
        (one, one.mean_score, one.precision)
        for one in analysis.bins
        if one.mean_score is not None and one.precision is not None
    ]
    points = [(score, precision) for _, score, precision in filled]
    series = [
        Series(name="measured", points=points, style=0, dots=True),
        Series(name="score = precision", points=[(0, 0), (1, 1)], style=1),
    ]
    drawing = draw_lines(
        series, unit_axis("mean score"), unit_axis("share that is right, IoU 0.5")
    )  # fmt: skip
    rows = [
        [f"{one.low:g} to {one.high:g}", f"{one.detections:,}", f"{score:.3f}",
         f"{precision:.3f}", cite(number)]
        for one, score, precision in filled
    ]  # fmt: skip
    error = "" if analysis.d_ece is None else f", error {analysis.d_ece:.3f}"
    return Chart(
        title=f"Calibration{error}",
        description="Share of right detections over their mean score, in bins of the score; on "
        f"the dashed line a score is a probability. {len(filled)} bins{error}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="Calibration by score", rows=rows, numbers=range(4),
                    titles=["score", "detections", "mean score", "right", "source"]),
    )  # fmt: skip


def _draw_lost(analysis: Analysis, number: int) -> Chart:
    lost = [(name.replace("_", " "), value) for name, value in analysis.lost.items()]
    rows = [(name, 100 * value, f"{100 * value:.2f}") for name, value in lost[:12]]
    drawing = draw_bars(rows)
    counts = {name.replace("_", " "): count for name, count in analysis.counts.items()}
    cells = [
        [text(shorten(name, 40)), f"{counts[name]:,}" if name in counts else "",
         f"{told}{cite(number)}"]
        for name, _, told in rows
    ]  # fmt: skip
    told = "; ".join(f"{shorten(name, 40)} {value}" for name, _, value in rows)
    return Chart(
        title=f"AP50 lost by errors (it is {format_ap(analysis.ap50) or 'unknown'})",
        description=f"What AP50 would win if all errors of one kind were mended: {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label="Lost AP50", titles=["error", "number", "AP50 x 100 lost"], rows=cells,
                    numbers=(1, 2)),
    )  # fmt: skip


def _points(analysis: Analysis, precision: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(analysis.recall, precision, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
