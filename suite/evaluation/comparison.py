"""Whether one list of results is better than another on the same images: a paired bootstrap.

Both are weighed by the same resamples of the images, so what makes an image hard for both cancels
out. Where the interval of the difference holds 0 there is no winner.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from suite.errors import InputError, UsageError
from suite.evaluation.bootstrap import (
    FEWEST_IMAGES,
    ap_interval,
    bootstrap_ap,
    interval,
    p_value,
)
from suite.evaluation.coco import judge_columns
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.evaluation.columns import Floats, read_columns
from suite.evaluation.judging import Judging
from suite.evaluation.matching import Matched, match_results


@dataclass(frozen=True, kw_only=True)
class Side:
    """One list of results: its file, AP and the bounds of its 95 % interval, fractions."""

    results: str
    ap: float
    ap_low: float | None
    ap_high: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two lists of results against each other.

    Attributes:
        difference: AP of the second less that of the first; `low` and `high` bound its 95 %
            interval.
        p_value: two-sided; how likely such a difference is where there is none.
        winner: the file; None where the interval holds 0.
    """

    first: Side
    second: Side
    difference: float
    low: float
    high: float
    p_value: float
    winner: str | None
    num_images: int
    resamples: int
    seed: int
    referee: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    ap: float | None
    matched: Matched
    referee: str


def compare_results(
    first: Path, second: Path, annotations: Path, *, judging: Judging
) -> Comparison:
    """Compare the AP of two result files.

    Raises:
        InputError: a file is unusable, or there is no true box to judge by.
        UsageError: there are too few images for a verdict.
        MissingEnvironment: the referee is not installed.
    """
    truth = load_ground_truth(annotations)
    if len(truth["images"]) < FEWEST_IMAGES:
        raise UsageError(
            f"{annotations}: has {len(truth['images'])} images; fewer than {FEWEST_IMAGES} tell "
            "nothing about others"
        )
    paths = (first, second)
    judged = [_judge(path, truth, judging) for path in paths]
    aps = [own.ap for own in judged if own.ap is not None]
    if len(aps) < len(paths):
        raise InputError(f"{annotations}: no true boxes to judge by; give the annotations of a set")
    values = bootstrap_ap(
        [own.matched for own in judged], resamples=judging.resamples, seed=judging.seed
    )
    difference, gaps = aps[1] - aps[0], values[1] - values[0]
    low, high = interval(gaps, around=difference)
    assert low is not None and high is not None  # a resample with a true box is all but certain
    return Comparison(
        first=_describe(first, aps[0], values[0]),
        second=_describe(second, aps[1], values[1]),
        difference=difference,
        low=low,
        high=high,
        p_value=p_value(gaps, around=difference),
        winner=_name_winner(paths, low, high),
        num_images=len(truth["images"]),
        resamples=judging.resamples,
        seed=judging.seed,
        referee=judged[0].referee,
    )


def format_comparison(comparison: Comparison) -> str:
    """Render both sides, their difference and the verdict, AP in percent."""
    sides = (comparison.first, comparison.second)
    rows = [
        [side.results, f"{100 * side.ap:.2f}", _span(side.ap_low, side.ap_high, ".2f")]
        for side in sides
    ]
    gap = f"{100 * comparison.difference:+.2f}"
    rows.append(["second - first", gap, _span(comparison.low, comparison.high, "+.2f")])
    table = tabulate(
        rows,
        headers=["results", "AP %", "95 % interval"],
        colalign=("left", "right", "right"),
        disable_numparse=True,
    )
    basis = (
        f"p = {comparison.p_value:.4f}; {comparison.resamples} resamples of "
        f"{comparison.num_images} images, seed {comparison.seed}; {comparison.referee}"
    )
    if comparison.winner is None:
        return f"{table}\n{basis}\nno winner: the interval of the difference holds 0"
    return f"{table}\n{basis}\nwinner: {comparison.winner}"


def _judge(path: Path, truth: dict[str, Any], judging: Judging) -> _Judged:
    results = load_results(path)
    try:
        columns = read_columns(truth, results)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    evaluation = judge_columns(columns, truth, results, referee=judging.referee)
    return _Judged(ap=evaluation.ap, matched=match_results(columns), referee=evaluation.referee)


def _describe(path: Path, ap: float, values: Floats) -> Side:
    low, high = ap_interval(values, ap=ap)
    return Side(results=str(path), ap=ap, ap_low=low, ap_high=high)


def _name_winner(paths: tuple[Path, Path], low: float, high: float) -> str | None:
    if low <= 0 <= high:
        return None
    return str(paths[1] if low > 0 else paths[0])


def _span(low: float | None, high: float | None, form: str) -> str:
    return "-" if low is None or high is None else f"{100 * low:{form}} to {100 * high:{form}}"
