"""Candidates measured in blocks, in turn, and the interval of what they took.

Whatever disturbs a machine for a while disturbs one block of each candidate; within a block they go
one after the other, and every second block in the opposite order, so that a drift favours nobody.
The interval is the percentile bootstrap (Efron 1979) of the median over blocks: what runs share
within a block is not taken for independent evidence. It is of one run: where blocks drift together
it is too narrow for another day, which the ratio of two candidates, taken block by block, is not.
No winner is named where the intervals of the two overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")

NUM_BLOCKS = 15
NO_WINNER = "none, the intervals overlap"
_FEWEST_STEPS = 3
_NUM_RESAMPLES = 10_000
_LEVEL = 95


@dataclass(frozen=True)
class Interval:
    """A median and the bounds of its 95 % interval, in the unit of what was measured."""

    median: float
    low: float
    high: float

    def as_metrics(self, name: str) -> dict[str, float]:
        """Return the three as metrics of a record."""
        return {name: self.median, f"{name}_low": self.low, f"{name}_high": self.high}

    def inverse(self, factor: float) -> Interval:
        """Return the interval of `factor` divided by what this one is of."""
        return Interval(factor / self.median, factor / self.high, factor / self.low)

    def overlaps(self, other: Interval) -> bool:
        """Whether some value lies in both."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Verdict:
    """Two candidates measured in turn.

    Attributes:
        ratio: speed of `b` over that of `a`, block by block.
        winner: None where the intervals of the two overlap.
    """

    a: Interval
    b: Interval
    ratio: Interval
    winner: Literal["a", "b"] | None

    def describe_winner(self) -> str:
        """Return what a record says under `winner`."""
        return self.winner or NO_WINNER


def steps_a_block(steps: int) -> int:
    """Return the training steps of each block: one or two would only show how they begin."""
    return max(_FEWEST_STEPS, -(-steps // NUM_BLOCKS))


def interleave(
    candidates: Sequence[Callable[[], _T]], *, num_blocks: int = NUM_BLOCKS
) -> list[list[_T]]:
    """Call each candidate once a block, in alternating order; return its answers by block."""
    answers: list[list[_T]] = [[] for _ in candidates]
    places = range(len(candidates))
    for block in range(num_blocks):
        for place in places if block % 2 == 0 else reversed(places):
            answers[place].append(candidates[place]())
    return answers


def find_interval(block_values: Sequence[float]) -> Interval:
    """Return the median over blocks with its interval; always the same for the same values."""
    values = np.asarray(block_values, dtype=np.float64)
    return _interval(values, _resample(len(values)))


def judge(a_seconds: Sequence[float], b_seconds: Sequence[float]) -> Verdict:
    """Compare what two candidates took in the same blocks.

    Args:
        a_seconds, b_seconds: one value a block, equally many.
    """
    a, b = find_interval(a_seconds), find_interval(b_seconds)
    ratio = find_interval((np.asarray(a_seconds) / np.asarray(b_seconds)).tolist())
    if a.overlaps(b):
        return Verdict(a, b, ratio, winner=None)
    return Verdict(a, b, ratio, winner="a" if a.median < b.median else "b")


def _resample(size: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(size, size=(_NUM_RESAMPLES, size))


def _interval(values: NDArray[np.float64], places: NDArray[Any]) -> Interval:
    medians = np.median(values[places], axis=1)
    outside = (100 - _LEVEL) / 2
    low, high = np.percentile(medians, [outside, 100 - outside])
    return Interval(float(np.median(values)), float(low), float(high))


def tell_winner(winner: str) -> str:
    """Render what a record says under `winner`."""
    return f"{winner} is faster" if winner != NO_WINNER else "no winner: the intervals overlap"
