"""Intervals and verdicts: what is certain is named, what is not is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.bench.stable import find_interval, interleave, judge

SECONDS = st.lists(st.floats(0.001, 10), min_size=1, max_size=20)


def test_candidates_take_turns_and_every_second_block_is_turned_round() -> None:
    calls: list[str] = []

    def candidate(name: str) -> int:
        calls.append(name)
        return len(calls)

    answers = interleave([lambda: candidate("a"), lambda: candidate("b")], num_blocks=3)
    assert "".join(calls) == "abbaab"
    assert answers == [[1, 4, 5], [2, 3, 6]]


@given(SECONDS)
def test_an_interval_holds_its_median_and_lies_within_the_values(values: list[float]) -> None:
    found = find_interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.median == pytest.approx(np.median(values))
    speed = found.inverse(8)
    assert speed.low <= speed.median <= speed.high
    assert speed.median == pytest.approx(8 / found.median)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    """Of 400 samples of a skewed distribution; the bootstrap of so few blocks is a little short."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        found = find_interval(rng.lognormal(size=15).tolist())
        covered += found.low <= 1.0 <= found.high  # the median of exp(normal)
    assert 0.90 <= covered / 400 <= 0.99


def test_a_winner_needs_intervals_apart() -> None:
    rng = np.random.default_rng(0)
    slow, fast = 2 + 0.05 * rng.random(15), 1 + 0.05 * rng.random(15)
    assert judge(slow.tolist(), fast.tolist()).winner == "b"
    assert judge(fast.tolist(), slow.tolist()).winner == "a"
    assert judge(slow.tolist(), fast.tolist()).ratio.median == pytest.approx(2, rel=0.05)
    assert judge(slow.tolist(), (slow + 0.001).tolist()).winner is None


def test_what_disturbs_a_block_of_both_does_not_move_the_ratio() -> None:
    rng = np.random.default_rng(0)
    disturbed = 1 + 3 * rng.random(15)
    verdict = judge((2 * disturbed).tolist(), disturbed.tolist())
    assert (verdict.ratio.low, verdict.ratio.high) == pytest.approx((2, 2))
