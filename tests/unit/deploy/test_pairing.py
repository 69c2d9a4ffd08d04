"""Which differences between two answers are rounding, and which are faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.deploy.pairing import Found, Pairing, PairingLimits, pair_detections

LIMITS = PairingLimits(score_threshold=0.05, iou_threshold=0.5, max_detections=6)

# Overlaps with BOX: 0.5 exactly, 0.5004 (at the threshold), 0.6, 0.4 and none.
BOX = (0.0, 0.0, 100.0, 100.0)
HALF = (0.0, 0.0, 100.0, 50.0)
JUST_OVER = (0.0, 0.0, 100.0, 50.04)
OVER = (0.0, 0.0, 100.0, 60.0)
UNDER = (0.0, 0.0, 100.0, 40.0)
ELSEWHERE = (150.0, 150.0, 200.0, 200.0)

Row = tuple[tuple[float, float, float, float], float, int]


def found(*rows: Row) -> Found:
    """Detections of (box, score, label), sorted as a detector gives them."""
    ordered = sorted(rows, key=lambda row: -row[1])
    return (
        np.array([row[0] for row in ordered], dtype=np.float32).reshape(-1, 4),
        np.array([row[1] for row in ordered], dtype=np.float32),
        np.array([row[2] for row in ordered], dtype=np.int64),
    )


def compare(first: Found, second: Found, limits: PairingLimits = LIMITS) -> tuple[int, int, int]:
    """Return (paired, borderline, unpaired), the same from either side."""
    one, other = pair_detections(first, second, limits), pair_detections(second, first, limits)
    assert (one.borderline, one.unpaired) == (other.borderline, other.unpaired)
    assert one.paired == other.paired
    assert (one.total, other.total) == (len(first[1]), len(second[1]))
    return one.paired, one.borderline, one.unpaired


def crowded(size: int, *, worst: float = 0.3) -> list[Row]:
    """Return `size` distant boxes of falling scores, the last of `worst`."""
    return [
        ((40.0 * n, 200.0, 40.0 * n + 30, 230.0), worst + 0.1 * (size - 1 - n), 0)
        for n in range(size)
    ]


def test_nothing_equals_nothing() -> None:
    assert compare(found(), found()) == (0, 0, 0)


def test_small_differences_pair() -> None:
    first = found((BOX, 0.9, 3), (ELSEWHERE, 0.8, 3))
    second = found(((0.05, 0.0, 99.95, 100.09), 0.9005, 3), (ELSEWHERE, 0.7995, 3))
    assert compare(first, second) == (2, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        (BOX, 0.9, 4),  # label
        (BOX, 0.902, 3),  # score
        ((0.0, 0.0, 100.0, 100.2), 0.9, 3),  # box
    ],
)
def test_a_larger_difference_leaves_both_unpaired(other: Row) -> None:
    assert compare(found((BOX, 0.9, 3)), found(other)) == (0, 0, 2)


def test_order_is_no_criterion() -> None:
    first = found((BOX, 0.800001, 0), (ELSEWHERE, 0.8, 0), (HALF, 0.3, 1))
    second = found((BOX, 0.8, 0), (ELSEWHERE, 0.800001, 0), (HALF, 0.3, 1))
    assert first[0][0].tolist() != second[0][0].tolist()
    assert compare(first, second) == (3, 0, 0)


def test_one_detection_pairs_once() -> None:
    twice = found((BOX, 0.9, 0), (BOX, 0.9, 0))
    assert compare(twice, found((BOX, 0.9, 0))) == (1, 0, 1)


def test_the_closest_partner_is_taken() -> None:
    # Both of the first list are within the limits of both of the second.
    first = found(((0.0, 0.0, 100.0, 100.0), 0.9, 0), ((0.08, 0.0, 100.0, 100.0), 0.9, 0))
    second = found(((0.09, 0.0, 100.0, 100.0), 0.9, 0), ((-0.05, 0.0, 100.0, 100.0), 0.9, 0))
    assert compare(first, second) == (2, 0, 0)


def test_a_missing_detection_is_unpaired() -> None:
    first = found((BOX, 0.9, 0), (ELSEWHERE, 0.6, 0), (HALF, 0.4, 1))
    assert compare(first, found((BOX, 0.9, 0), (HALF, 0.4, 1))) == (2, 0, 1)
    assert compare(first, found()) == (0, 0, 3)


def test_a_score_at_the_threshold_is_borderline() -> None:
    rows = [(BOX, 0.9, 0), (ELSEWHERE, 0.05004, 0)]
    assert compare(found(*rows), found(rows[0])) == (1, 1, 0)
    rows[1] = (ELSEWHERE, 0.0503, 0)
    assert compare(found(*rows), found(rows[0])) == (1, 0, 1)


def test_a_swap_at_the_last_place_is_borderline() -> None:
    rows = crowded(5, worst=0.4)
    first = found(*rows, (BOX, 0.30003, 1))
    second = found(*rows, (ELSEWHERE, 0.3, 2))
    assert compare(first, second) == (5, 2, 0)


def test_the_last_place_excuses_nothing_where_there_was_room() -> None:
    rows = crowded(6)
    assert compare(found(*rows), found(*rows[:5])) == (5, 0, 1)
    # A full list that lacks something better than its last place is wrong as well.
    better = found(*rows[:5], (BOX, 0.35, 1))
    assert compare(better, found(*rows)) == (5, 1, 1)


def test_what_a_borderline_box_pushes_off_a_full_list_is_borderline() -> None:
    rows = crowded(6)
    extra = [(BOX, 0.95, 1), (JUST_OVER, 0.9, 1)]
    # One side keeps the box at the threshold of suppression and so has no place for the last.
    first = found(*rows[:4], *extra)
    second = found(*rows[:5], extra[0])
    assert compare(first, second) == (5, 2, 0)


@pytest.mark.parametrize("rival", [HALF, JUST_OVER])
def test_an_overlap_at_the_threshold_is_borderline(
    rival: tuple[float, float, float, float],
) -> None:
    assert compare(found((BOX, 0.9, 0), (rival, 0.6, 0)), found((BOX, 0.9, 0))) == (1, 1, 0)


@pytest.mark.parametrize(
    ("rival", "label"), [(UNDER, 0), (OVER, 0), (HALF, 1)], ids=["under", "over", "other class"]
)
def test_other_overlaps_excuse_nothing(
    rival: tuple[float, float, float, float], label: int
) -> None:
    first = found((BOX, 0.9, 0), (rival, 0.6, label))
    assert compare(first, found((BOX, 0.9, 0))) == (1, 0, 1)


def test_a_box_is_no_rival_of_itself() -> None:
    limits = PairingLimits(score_threshold=0.05, iou_threshold=0.9999, max_detections=6)
    assert compare(found((BOX, 0.9, 0)), found(), limits) == (0, 0, 1)


def test_a_worse_box_at_the_threshold_excuses_nothing() -> None:
    first = found((BOX, 0.9, 0), (HALF, 0.6, 0))
    assert compare(first, found((HALF, 0.6, 0))) == (1, 0, 1)


def test_a_borderline_box_decides_over_its_rivals() -> None:
    # The first side keeps a box at the threshold to BOX, and that one suppresses `low`, which by
    # itself overlaps BOX little.
    middle = (0.0, 50.0, 100.0, 100.0)
    low = (0.0, 55.0, 100.0, 110.0)
    first = found((BOX, 0.9, 0), (middle, 0.8, 0))
    second = found((BOX, 0.9, 0), (low, 0.7, 0))
    assert compare(first, second) == (1, 2, 0)
    # Another class, or a better score than the rival's, is not decided by it.
    assert compare(first, found((BOX, 0.9, 0), (low, 0.7, 1))) == (1, 1, 1)
    assert compare(first, found((BOX, 0.9, 0), (low, 0.85, 0))) == (1, 1, 1)


def test_a_chain_of_decisions_is_followed_to_its_end() -> None:
    # Each overlaps the next by 0.6: first and third survive where the second does not.
    a, b, c = ((0.0, y, 100.0, y + 100.0) for y in (0.0, 25.0, 50.0))
    start = (0.0, -100 / 3, 100.0, 200 / 3)  # shares half with `a`
    first = found((start, 0.95, 0), (a, 0.9, 0), (c, 0.7, 0))
    second = found((start, 0.95, 0), (b, 0.8, 0))
    assert compare(first, second) == (1, 3, 0)


def test_a_box_that_is_nan_pairs_with_nothing() -> None:
    broken = found(((float("nan"),) * 4, 0.9, 0))
    assert compare(broken, broken) == (0, 0, 2)
    assert compare(broken, found((BOX, 0.9, 0))) == (0, 0, 2)


def test_counts_add() -> None:
    assert Pairing(4, 3, 1, 2) + Pairing(1, 1, 0, 5) == Pairing(5, 4, 1, 7)


whole = st.integers(0, 40).map(float)
rows = st.tuples(
    st.tuples(whole, whole, st.just(60.0), st.just(60.0)),
    st.integers(2, 19).map(lambda number: number / 20),
    st.integers(0, 2),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, max_size=6), st.randoms(use_true_random=False))
def test_a_shuffled_and_jittered_answer_pairs_completely(
    drawn: list[Row], random: np.random.Generator
) -> None:
    first = found(*drawn)
    order = list(range(len(drawn)))
    random.shuffle(order)
    second = (
        first[0][order] + np.float32(0.01),
        first[1][order] - np.float32(1e-5),
        first[2][order],
    )
    assert compare(first, second) == (len(drawn), 0, 0)


@settings(deadline=None, max_examples=80)
@given(st.lists(rows, max_size=6), st.lists(rows, max_size=6))
def test_every_detection_is_counted_once(one: list[Row], other: list[Row]) -> None:
    paired, borderline, unpaired = compare(found(*one), found(*other))
    assert len(one) + len(other) == 2 * paired + borderline + unpaired
