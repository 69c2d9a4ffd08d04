"""How results are judged: by which referee, how surely, and whether the errors are looked into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from suite.evaluation.analysis import ANALYSIS_PATH, analyse
from suite.evaluation.bootstrap import FEWEST_IMAGES, ap_interval, bootstrap_ap
from suite.evaluation.coco import Evaluation, judge_columns
from suite.evaluation.columns import read_columns
from suite.evaluation.matching import Matched, match_results
from suite.evaluation.referees import Referee


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What is asked for.

    Attributes:
        referee: None: hotcoco where it is installed, else pycocotools.
        analyse: look into the errors.
        resamples: of the images, for the interval of AP; 0: no interval.
        seed: of these resamples.
    """

    referee: Referee | None = None
    analyse: bool = False
    resamples: int = 0
    seed: int = 0


DEFAULT_JUDGING: Final = Judging()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The answer: AP's 95 % interval where it was asked for, the analysis likewise.

    Fewer images than `FEWEST_IMAGES` have no interval.
    """

    judging: Judging
    evaluation: Evaluation
    ap_interval: tuple[float | None, float | None]
    analysis: dict[str, Any] | None

    def metrics(self) -> dict[str, float | None]:
        """Return the metrics of a record."""
        numbers = self.evaluation.numbers()
        if not self.judging.resamples:
            return numbers
        return numbers | dict(zip(("ap_low", "ap_high"), self.ap_interval, strict=True))

    def conditions(self) -> dict[str, Any]:
        """Return the conditions of a record; paths are relative to it."""
        conditions: dict[str, Any] = {"referee": self.evaluation.referee}
        if self.judging.resamples:
            conditions["bootstrap_resamples"] = self.judging.resamples
            conditions["bootstrap_seed"] = self.judging.seed
        if self.analysis is not None:
            conditions["analysis"] = ANALYSIS_PATH.as_posix()
        return conditions


def judge(ground_truth: dict[str, Any], results: list[dict[str, Any]], judging: Judging) -> Judged:
    """Judge results as asked.

    Raises:
        InputError: a result names an unknown image or category, or its box or score is no number.
        MissingEnvironment: the referee is not installed.
    """
    columns = read_columns(ground_truth, results)
    evaluation = judge_columns(columns, ground_truth, results, referee=judging.referee)
    needs_matches = judging.analyse or judging.resamples
    matched = match_results(columns) if needs_matches else None
    return Judged(
        judging=judging,
        evaluation=evaluation,
        ap_interval=_find_interval(matched, evaluation, judging),
        analysis=analyse(matched) if matched is not None and judging.analyse else None,
    )


def _find_interval(
    matched: Matched | None, evaluation: Evaluation, judging: Judging
) -> tuple[float | None, float | None]:
    if matched is None or not judging.resamples or evaluation.ap is None:
        return None, None
    if evaluation.num_images < FEWEST_IMAGES:
        return None, None
    values = bootstrap_ap([matched], resamples=judging.resamples, seed=judging.seed)
    return ap_interval(values[0], ap=evaluation.ap)
