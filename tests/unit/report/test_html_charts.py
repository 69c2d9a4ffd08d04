"""Axes, marks and labels of the report's charts, by what they have to keep for any numbers."""

from __future__ import annotations

import colorsys
import itertools
import math
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.report.html.axes import Axis, format_tick, linear_axis, log_axis, step_axis, unit_axis
from suite.report.html.chart import (
    NUM_STYLES,
    WIDTH,
    Drawing,
    Series,
    draw_lines,
    shorten_middle,
)
from suite.report.html.curves import thin_out
from suite.report.html.dots import Dot, draw_dots
from suite.report.html.labels import CHARACTER, Labels
from suite.report.html.matrix import Matrix, draw_bars, draw_matrix
from suite.report.html.style import STYLE

ANY = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6)
USUAL = st.lists(st.floats(1e-4, 1e7), min_size=1, max_size=6)
POINT = st.tuples(st.floats(0, 1), st.floats(0, 1))


def check_axis(axis: Axis, most: int) -> None:
    assert 2 <= len(axis.ticks) <= most
    assert list(axis.ticks) == sorted(set(axis.ticks))
    places = [axis.place(tick) for tick in axis.ticks]
    assert all(0 <= place <= 1 for place in places)
    assert all(high - low > 0.01 for low, high in itertools.pairwise(places))
    written = [format_tick(tick) for tick in axis.ticks]
    assert len(set(written)) == len(written)
    assert max(map(len, written)) <= 9


@given(ANY, st.booleans())
def test_a_linear_axis_holds_any_numbers(values: list[float], zero: bool) -> None:
    axis = linear_axis(values, "x", zero=zero)
    places = [axis.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)


@given(USUAL, st.booleans())
def test_a_linear_axis_has_few_round_ticks_from_end_to_end(values: list[float], zero: bool) -> None:
    axis = linear_axis(values, "x", zero=zero)
    spread = (max(values) - (0 if zero else min(values))) / max(values)
    if spread > 1e-3:
        check_axis(axis, 7)
    assert axis.low <= min(values)
    assert axis.high >= max(values) * (1 - 1e-8)
    assert (axis.ticks[0], axis.ticks[-1]) == (axis.low, axis.high)


@given(ANY)
def test_a_log_axis_holds_any_numbers(values: list[float]) -> None:
    axis = log_axis(values, "x")
    assert all(0 <= axis.place(value) <= 1 for value in values)


@given(USUAL)
def test_a_log_axis_has_few_ticks_and_says_so(values: list[float]) -> None:
    axis = log_axis(values, "x")
    check_axis(axis, 7)
    assert axis.label == "x (log scale)"
    assert axis.low < min(values) <= max(values) < axis.high
    middle = axis.place(math.sqrt(axis.low * axis.high))
    assert middle == pytest.approx(0.5)


def test_ticks_are_those_a_person_would_choose() -> None:
    assert linear_axis([0.3, 24.9], "AP", zero=True).ticks == [0, 5, 10, 15, 20, 25]
    assert log_axis([13, 141], "x").ticks == [20, 50, 100]
    assert log_axis([4.7, 1509], "x").ticks == pytest.approx([10, 30, 100, 300, 1000])
    assert list(step_axis([5, 511]).ticks) == [0, 200, 400]
    assert step_axis([5, 511]).high == 511
    assert [format_tick(t) for t in (0, 0.05, 20, 5000, 2e6, 1e-5)] == [
        "0", "0.05", "20", "5,000", "2M", "1e-5"
    ]  # fmt: skip


def test_noise_does_not_fill_an_axis() -> None:
    axis = linear_axis([11.43, 11.46], "AP", least=4)
    assert axis.high - axis.low >= 4
    assert abs(axis.place(11.43) - axis.place(11.46)) < 0.01


@given(st.lists(st.floats(0, 100), min_size=1, max_size=2000))
def test_a_thinned_curve_keeps_its_extremes(values: list[float]) -> None:
    curve = list(enumerate(values))
    thin = thin_out(curve, most=50)
    assert len(thin) <= 50 or thin == curve
    assert set(thin) <= set(curve)
    assert list(thin) == sorted(thin)
    assert min(v for _, v in thin) == min(values)
    assert max(v for _, v in thin) == max(values)


def find_texts(marks: str) -> list[tuple[float, float, float]]:
    """Return left and right end, by our measure of letters, and the baseline of every text."""
    found = []
    for x, y, kind, told in re.findall(
        r'<text x="([-\d.]+)" y="([-\d.]+)"(?: class="([^"]*)")?>([^<]*)</text>', marks
    ):
        width = len(told) * CHARACTER * 0.8
        left = float(x) - {"end": width, "middle": width / 2}.get(
            next((one for one in kind.split() if one in ("end", "middle")), ""), 0.0
        )
        found.append((left, left + width, float(y)))
    return found


def check_inside(drawing: Drawing) -> None:
    for left, right, base in find_texts(drawing.marks):
        assert left >= -1
        assert right <= WIDTH + 1
        assert 8 <= base <= drawing.height


@given(st.lists(POINT, min_size=1, max_size=8), st.integers(1, 8))
def test_labels_beside_points_stay_inside(points: list[tuple[float, float]], count: int) -> None:
    series = [
        Series(name=f"model {place}", points=points, style=place % NUM_STYLES, line=False,
               dots=True, labels=["onnxruntime fp32"] * len(points))
        for place in range(count)
    ]  # fmt: skip
    check_inside(draw_lines(series, unit_axis("x"), unit_axis("y")))


@given(st.lists(POINT, min_size=1, max_size=6))
def test_labels_do_not_cover_each_other_where_there_is_room(
    points: list[tuple[float, float]],
) -> None:
    labels = Labels(WIDTH, 300.0)
    places = [labels.place(60 + 300 * x, 40 + 220 * y, "torch fp32") for x, y in points]
    for (left, base), (other, other_base) in itertools.combinations(places, 2):
        assert abs(left - other) >= 10 * CHARACTER - 1e-6 or abs(base - other_base) >= 13


@given(st.lists(st.tuples(st.text(max_size=80), st.floats(0.01, 1e5)), min_size=1, max_size=20))
def test_a_dot_plot_stays_inside(rows: list[tuple[str, float]]) -> None:
    dots = [
        Dot(name=name, detail=name, value=value, shown=f"{value:,.0f}", ours=False,
            interval=(value / 2, value * 2))
        for name, value in rows
    ]  # fmt: skip
    drawing = draw_dots(dots, log_axis([one.value for one in dots], "images/s", most=5))
    check_inside(drawing)
    assert len(re.findall("<circle", drawing.marks)) == len(rows)


@pytest.mark.parametrize("num_classes", [1, 6, 16])
def test_a_matrix_and_bars_stay_inside(num_classes: int) -> None:
    names = [f"class number {place}" for place in range(num_classes)]
    counts = {(place, place): 10**place for place in range(min(num_classes, 6))}
    drawing = draw_matrix(Matrix(rows=names, columns=names, counts=counts))
    upright = re.sub(r"<g .*?</g>", "", drawing.marks, flags=re.DOTALL)
    check_inside(Drawing(drawing.height, upright))
    assert drawing.marks.count("fill-opacity") == len(counts)
    rows = [(name, 10.0**place, f"{10.0**place:g}") for place, name in enumerate(names)]
    check_inside(draw_bars(rows))


def test_a_matrix_is_the_darker_the_larger_the_share_of_the_row() -> None:
    counts = {(0, 0): 3, (0, 1): 1, (1, 1): 400}
    marks = draw_matrix(Matrix(rows="ab", columns="ab", counts=counts)).marks
    assert re.findall(r'fill-opacity="([\d.]+)"', marks) == ["0.375", "0.125", "0.500"]


def test_names_that_differ_at_the_end_still_do() -> None:
    names = [f"bench-infer-step-00000511-{number}" for number in (1, 2)]
    short = [shorten_middle(name, 24) for name in names]
    assert short == ["bench-inf...p-00000511-1", "bench-inf...p-00000511-2"]


def colours(scheme: str) -> dict[str, str]:
    """Return the colours of a scheme by name, of the light one where the other says nothing."""
    rules = re.findall(r":root \{[^}]*\}", STYLE)
    light, dark, paper = (dict(re.findall(r"--(\w+): (#\w{6})", rule)) for rule in rules)
    return light | {"light": light, "dark": dark, "print": paper}[scheme]


def luminance(colour: Iterable[float]) -> float:
    """WCAG 2.2's relative luminance of channels from 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def channels(colour: str) -> list[float]:
    return [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]


def contrast(one: Iterable[float], other: Iterable[float]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_everything_can_be_told_from_the_page(scheme: str) -> None:
    found = colours(scheme)
    page = channels(found["page"])
    for name in ("text", "faint", "link"):
        assert contrast(channels(found[name]), page) >= 4.5, name
        assert contrast(channels(found[name]), channels(found["rest"])) >= 4.5, name
    for name in ("c0", "c1", "c2", "c3", "c4", "grey", "focus"):
        assert contrast(channels(found[name]), page) >= 3, name
    # The darkest cell of a confusion matrix has a number on it.
    cell = [(a + b) / 2 for a, b in zip(channels(found["c0"]), page, strict=True)]
    assert contrast(channels(found["text"]), cell) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_no_two_curves_are_alike(scheme: str) -> None:
    found = colours(scheme)
    series = [found[f"c{place}"] for place in range(NUM_STYLES)]
    assert len({colorsys.rgb_to_hls(*channels(one)) for one in series}) == NUM_STYLES
    dashes = re.findall(r"svg \.d(\d) \{ stroke-dasharray: ([\d ]+);", STYLE)
    assert len({dash for _, dash in dashes}) == NUM_STYLES - 1  # and one without
