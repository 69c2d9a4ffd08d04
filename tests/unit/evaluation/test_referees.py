"""hotcoco says what pycocotools says, to the last bit; so does our own accumulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings

from suite.errors import MissingEnvironment
from suite.evaluation import referees
from suite.evaluation.coco import Evaluation, evaluate_coco
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.evaluation.columns import read_columns
from suite.evaluation.matching import match_results
from suite.evaluation.precision import compute_precision, mean_precision
from suite.evaluation.referees import judge_by_pycocotools
from tests.benchmarks.evaluation_speed import generate_set
from tests.unit.evaluation.small_sets import small_sets

NOTHING: dict[str, Any] = {"images": [], "categories": [], "annotations": []}


def judge_both(truth: dict[str, Any], results: list[dict[str, Any]]) -> Evaluation:
    ours = evaluate_coco(truth, results, referee="hotcoco")
    theirs = evaluate_coco(truth, results, referee="pycocotools")
    assert ours.referee.startswith("hotcoco 1.")
    assert theirs.referee.startswith("pycocotools 2.")
    assert replace(ours, referee="") == replace(theirs, referee="")
    return ours


def require_same_precision(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    columns = read_columns(truth, results)
    theirs = judge_by_pycocotools(truth, results)
    ours = compute_precision(match_results(columns))
    np.testing.assert_array_equal(ours, theirs.precision)
    assert mean_precision(ours) == (None if theirs.stats[0] == -1 else theirs.stats[0])


@settings(max_examples=150, deadline=None)
@given(small_sets())
@example((NOTHING, []))
def test_small_sets_are_judged_alike(pair: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    judge_both(*pair)


@settings(max_examples=150, deadline=None)
@given(small_sets())
def test_our_own_matching_gives_the_same_precision(
    pair: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    require_same_precision(*pair)


@pytest.mark.parametrize("decimals", [2, 6])
def test_generated_sets_are_judged_alike(decimals: int) -> None:
    truth, results = generate_set(
        num_images=120, num_classes=7, num_detections=6_000, decimals=decimals, seed=decimals
    )
    evaluation = judge_both(truth, results)
    assert all(0.01 < (value or 0) < 0.99 for value in evaluation.numbers().values())
    require_same_precision(truth, results)


def test_golden_set_is_judged_alike(shared: Path) -> None:
    folder = shared / "data" / "eval_golden"
    truth = load_ground_truth(folder / "instances_val2014_100.json")
    results = load_results(folder / "instances_val2014_fakebbox100_results.json")
    assert round(judge_both(truth, results).ap or 0, 3) == 0.505
    require_same_precision(truth, results)


def test_overlaps_do_not_depend_on_how_many_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, results = generate_set(
        num_images=9, num_classes=3, num_detections=400, decimals=2, seed=1
    )
    truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] not in (0, 4)]
    monkeypatch.setattr("suite.evaluation.overlaps._CHUNK", 7)
    require_same_precision(truth, results)


def test_more_than_a_hundred_detections_of_a_class() -> None:
    truth, results = generate_set(
        num_images=2, num_classes=1, num_detections=900, decimals=1, seed=3
    )
    judge_both(truth, results)
    require_same_precision(truth, results)


def test_far_apart_ids_and_whole_numbers() -> None:
    image_id, category_id = 2**62, -5
    truth = {
        "images": [{"id": image_id}],
        "categories": [{"id": category_id, "name": "far"}],
        "annotations": [{"image_id": image_id, "category_id": category_id, "bbox": [0, 0, 9, 9]}],
    }
    entry = {"image_id": image_id, "category_id": category_id, "bbox": [0, 0, 9, 8], "score": 1}
    assert judge_both(truth, [entry]).ap50 == pytest.approx(1)


def test_keys_beside_the_four_change_nothing() -> None:
    truth, results = generate_set(
        num_images=4, num_classes=2, num_detections=50, decimals=2, seed=0
    )
    plain = evaluate_coco(truth, results)
    dressed = [{**entry, "id": number, "area": 3.5} for number, entry in enumerate(results)]
    assert evaluate_coco(truth, dressed) == plain


def test_hotcoco_is_asked_for_in_vain_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(referees, "INSTALLED", False)
    assert evaluate_coco(NOTHING, []).referee.startswith("pycocotools")
    with pytest.raises(MissingEnvironment, match=r"pip install .*\[fast\]"):
        evaluate_coco(NOTHING, [], referee="hotcoco")
