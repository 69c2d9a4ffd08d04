"""Resampled AP is the AP of a data set in which the images stand as often as they were drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.errors import InputError
from suite.evaluation.bootstrap import ap_interval, bootstrap_ap, draw_counts, interval, p_value
from suite.evaluation.coco import evaluate_coco
from suite.evaluation.columns import read_columns
from suite.evaluation.comparison import compare_results, format_comparison
from suite.evaluation.judging import Judging
from suite.evaluation.matching import match_results
from tests.benchmarks.evaluation_speed import generate_set

NUM_IMAGES = 24
Set = tuple[dict[str, Any], list[dict[str, Any]]]


def build_set(decimals: int = 6) -> Set:
    """Three classes, of which one is in a single image; equal scores only in different images."""
    truth, results = generate_set(
        num_images=NUM_IMAGES, num_classes=2, num_detections=500, decimals=decimals, seed=5
    )
    truth["categories"].append({"id": 2, "name": "rare"})
    truth["annotations"][3] |= {"category_id": 2, "iscrowd": 0}
    truth["annotations"][4] |= {"iscrowd": 1}
    results.append({**truth["annotations"][3], "score": 0.5})
    seen = set()
    apart = []
    for entry in results:
        place = (entry["image_id"], entry["category_id"], entry["score"])
        if place not in seen:
            seen.add(place)
            apart.append({k: entry[k] for k in ("image_id", "category_id", "bbox", "score")})
    return truth, apart


def copy_images(truth: dict[str, Any], results: list[dict[str, Any]], times: list[int]) -> Set:
    """Let every image stand that often, each copy under an id of its own."""
    copies = [(image, copy) for image, number in enumerate(times) for copy in range(number)]

    def copied(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**entry, "image_id": 1000 * image + copy}
            for image, copy in copies
            for entry in entries
            if entry["image_id"] == image
        ]

    images = [{"id": 1000 * image + copy} for image, copy in copies]
    return (
        {**truth, "images": images, "annotations": copied(truth["annotations"])},
        copied(results),
    )


@pytest.mark.parametrize("decimals", [2, 6])
def test_resampled_ap_is_pycocotools_on_copied_images(decimals: int) -> None:
    truth, results = build_set(decimals)
    matched = match_results(read_columns(truth, results))
    values = bootstrap_ap([matched], resamples=70, seed=3)[0]
    draws = np.concatenate(list(draw_counts(NUM_IMAGES, resamples=70, seed=3)), axis=1).T
    assert (draws.sum(axis=1) == NUM_IMAGES).all()
    rare_image = truth["annotations"][3]["image_id"]
    assert 0 < (draws[:, rare_image] == 0).sum() < 70  # the class is there at times
    for times, value in list(zip(draws.tolist(), values.tolist(), strict=True))[::6]:
        expected = evaluate_coco(*copy_images(truth, results, times), referee="pycocotools")
        assert value == pytest.approx(expected.ap, abs=1e-12)


def test_draws_are_those_of_the_seed_and_shared_by_both_sides() -> None:
    truth, results = build_set()
    matched = match_results(read_columns(truth, results))
    first, second = bootstrap_ap([matched, matched], resamples=100, seed=1)
    np.testing.assert_array_equal(first, second)
    again = bootstrap_ap([matched], resamples=100, seed=1)[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, bootstrap_ap([matched], resamples=100, seed=2)[0])


def test_interval_is_centred_on_what_was_measured() -> None:
    values = np.append(np.arange(1001) / 1000, np.nan)
    assert interval(values, around=2.0) == (pytest.approx(1.525), pytest.approx(2.475))
    assert interval(values, around=None) == (None, None)
    assert interval(np.full(3, np.nan), around=0.5) == (None, None)


def test_interval_of_ap_ends_at_0_and_1() -> None:
    values = np.arange(1001) / 1000
    assert ap_interval(values, ap=0.2) == (0, pytest.approx(0.675))
    assert ap_interval(values, ap=0.9) == (pytest.approx(0.425), 1)
    assert ap_interval(values, ap=None) == (None, None)


def test_p_value_agrees_with_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 2000)
    for around in np.linspace(-3, 3, 61).tolist():
        low, high = interval(values, around=around)
        assert low is not None and high is not None
        p = p_value(values, around=around)
        if abs(p - 0.05) > 0.005:
            assert (p > 0.05) == (low <= 0 <= high)
    assert p_value(np.zeros(100), around=0.0) == 1
    assert p_value(values, around=50.0) == pytest.approx(2 / 2001)


def write(tmp_path: Path, **contents: Any) -> list[Path]:
    paths = [tmp_path / f"{name}.json" for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_better_results_win_and_equal_ones_do_not(tmp_path: Path) -> None:
    truth, good = build_set()
    bad = [entry for number, entry in enumerate(good) if number % 3]
    gt, first, second = write(tmp_path, truth=truth, bad=bad, good=good)
    judging = Judging(resamples=200, seed=0)
    comparison = compare_results(first, second, gt, judging=judging)
    assert comparison.winner == str(second)
    assert comparison.difference == comparison.second.ap - comparison.first.ap > 0
    assert 0 < comparison.low < comparison.difference < comparison.high
    assert comparison.p_value == pytest.approx(2 / 201)
    # Paired: the difference is surer than the two intervals would make it.
    own = (comparison.second.ap_high or 0) - (comparison.first.ap_low or 0)
    assert comparison.high - comparison.low < own
    assert comparison.second.ap == evaluate_coco(truth, good).ap
    swapped = compare_results(second, first, gt, judging=judging)
    assert swapped.winner == str(second)
    same = compare_results(first, first, gt, judging=judging)
    assert (same.winner, same.difference, same.p_value) == (None, 0, 1)
    assert "no winner" in format_comparison(same)
    assert f"winner: {second}" in format_comparison(comparison)


def test_nothing_to_compare_by_is_refused(tmp_path: Path) -> None:
    truth, results = build_set()
    gt, first, broken = write(
        tmp_path, truth=truth | {"annotations": []}, first=results, broken=[{"image_id": 1}]
    )
    judging = Judging(resamples=100)
    with pytest.raises(InputError, match=r"truth\.json: no true boxes"):
        compare_results(first, first, gt, judging=judging)
    with pytest.raises(InputError, match=r"broken\.json: results\[0\]: category_id"):
        compare_results(first, broken, gt, judging=judging)
