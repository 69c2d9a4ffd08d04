"""The analysis of errors: against a slow reference, and by hand where an answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings

from suite.evaluation.analysis import analyse, format_analysis, write_analysis
from suite.evaluation.calibration import measure_calibration
from suite.evaluation.columns import read_columns
from suite.evaluation.confusion import count_confusions
from suite.evaluation.matching import Matched, match_results
from suite.evaluation.tide import KINDS, find_errors, measure_lost_ap
from tests.unit.evaluation.plain_errors import Plain
from tests.unit.evaluation.small_sets import small_sets

Pair = tuple[dict[str, Any], list[dict[str, Any]]]
BOX = [10.0, 10.0, 100.0, 100.0]
FAR = [300.0, 300.0, 50.0, 50.0]


def truth_of(*boxes: dict[str, Any]) -> dict[str, Any]:
    """One image with two classes, cat (7) and dog (9); each box may override what it is."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": 7, "bbox": BOX, "iscrowd": 0} | box
        for number, box in enumerate(boxes)
    ]
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": annotations,
    }


def result(**overrides: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 7, "bbox": BOX, "score": 0.9} | overrides


def match(truth: dict[str, Any], results: list[dict[str, Any]]) -> Matched:
    return match_results(read_columns(truth, results))


def rank_apart(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Part equal scores, the order of which is nobody's promise once labels are mended."""
    return [{**e, "score": e["score"] * 0.9 + n * 1e-4} for n, e in enumerate(results)]


@settings(max_examples=200, deadline=None)
@given(small_sets())
def test_errors_are_those_of_the_plain_reference(pair: Pair) -> None:
    truth, results = pair[0], rank_apart(pair[1])
    plain, matched = Plain(truth, results), match(truth, results)
    errors = find_errors(matched)
    expected = dict.fromkeys(KINDS, 0) | {"missed": len(plain.missed)}
    for kind in plain.kinds.values():
        expected[kind] += 1
    assert errors.counts() == expected
    ap50, lost = measure_lost_ap(matched, errors)
    if ap50 is None:
        assert not plain.num_truth()
        return
    assert ap50 == pytest.approx(plain.ap50({}, set(plain.right), set(), plain.num_truth()))
    assert lost == pytest.approx(plain.lost(), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(small_sets())
def test_confusions_are_those_of_the_plain_reference(pair: Pair) -> None:
    truth, results = pair
    ids = [*sorted(category["id"] for category in truth["categories"]), None]
    cells = count_confusions(match(truth, results), min_score=0.3).tolist()
    counted = {(ids[true], ids[found]): count for true, found, count in cells}
    # The reference excuses what lies in crowd regions, not what lies on boxes of no size.
    assume(all(0 <= box.get("area", 0) <= 1e10 for box in truth["annotations"]))
    assert counted == dict(Plain(truth, results).confusions(0.3))


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"bbox": [10, 10, 40, 100]}, "localisation"),  # IoU 0.4
        ({"category_id": 9}, "classification"),
        ({"bbox": FAR}, "background"),
        ({"bbox": [10, 10, 40, 100], "category_id": 9}, "both"),
    ],
)
def test_each_kind_of_error(wrong: dict[str, Any], kind: str) -> None:
    other = {"category_id": 9, "image_id": 2}
    matched = match(truth_of({}, other), [result(**wrong), result(**other)])
    errors = find_errors(matched)
    missed = kind in ("background", "both")
    assert errors.counts() == dict.fromkeys(KINDS, 0) | {kind: 1, "missed": int(missed)}
    ap50, lost = measure_lost_ap(matched, errors)
    assert ap50 is not None
    assert ap50 + lost["false_negative"] <= 1
    if not missed:
        assert ap50 + lost[kind] == pytest.approx(1)


def test_second_detection_of_a_box_is_a_duplicate() -> None:
    matched = match(truth_of({}), [result(), result(score=0.8)])
    assert find_errors(matched).counts() == dict.fromkeys(KINDS, 0) | {"duplicate": 1}


def test_what_lies_in_a_crowd_region_is_no_error() -> None:
    crowd = {"iscrowd": 1, "bbox": [200, 200, 400, 400]}
    matched = match(truth_of({}, crowd), [result(), result(bbox=[250, 250, 50, 50])])
    assert find_errors(matched).counts() == dict.fromkeys(KINDS, 0)
    assert count_confusions(matched, min_score=0).tolist() == [[0, 0, 1]]


def test_confusion_with_class_and_background_above_the_score() -> None:
    truth = truth_of({}, {"bbox": FAR, "category_id": 9})
    results = [
        result(category_id=9),
        result(image_id=2, score=0.3),
        result(bbox=FAR, category_id=9, score=0.29),
    ]
    # cat 0, dog 1, background 2: a cat taken for a dog, a cat on nothing, a dog not seen.
    cells = count_confusions(match(truth, results), min_score=0.3).tolist()
    assert cells == [[0, 1, 1], [1, 2, 1], [2, 0, 1]]


def test_calibration_by_hand() -> None:
    boxes = [{"bbox": [100.0 * n, 0, 50, 50]} for n in range(4)]
    results = [result(**box, score=0.75) for box in boxes[:3]]
    results += [result(bbox=[0, 500, 9, 9], score=0.75), result(bbox=[0, 600, 9, 9], score=0.1)]
    measured = measure_calibration(match(truth_of(*boxes), results), min_score=0.3)
    assert measured is not None
    # Bin 0.7: 4 detections at 0.75, 3 right, gap 0; bin 0.1: one at 0.1, wrong, gap 0.1.
    assert measured["d_ece"] == pytest.approx(0.1 / 5)
    assert measured["d_ece_from_score"] == pytest.approx(0)
    assert [entry["detections"] for entry in measured["bins"]] == [0, 1, 0, 0, 0, 0, 0, 4, 0, 0]
    assert measured["bins"][7] == {
        "low": 0.7, "high": 0.8, "detections": 4, "mean_score": 0.75, "precision": 0.75
    }  # fmt: skip


def test_scores_that_are_no_probabilities_are_not_calibrated() -> None:
    assert measure_calibration(match(truth_of({}), [result(score=12)]), min_score=0) is None
    assert measure_calibration(match(truth_of({}), []), min_score=0) is None


def test_worst_images_come_first_and_say_why() -> None:
    truth = truth_of({}, {"image_id": 2}, {"image_id": 2, "bbox": FAR, "category_id": 9})
    results = [result(bbox=FAR), result(), result(image_id=2, bbox=FAR, score=0.1)]
    worst = analyse(match(truth, results))["worst_images"]
    assert [(entry["image_id"], entry["mistakes"]) for entry in worst] == [(2, 2), (1, 1)]
    assert (worst[0]["why"], worst[0]["kinds"]) == ("missed", {"missed": 2})
    assert worst[0]["boxes"][1] == {
        "kind": "missed", "category_id": 9, "bbox": FAR, "score": None
    }  # fmt: skip
    assert worst[1]["boxes"] == [
        {"kind": "background", "category_id": 7, "bbox": FAR, "score": 0.9}
    ]


def test_analysis_of_nothing_is_written_too(tmp_path: Path) -> None:
    truth = truth_of()
    analysis = analyse(match(truth, [result()]))
    write_analysis(analysis, tmp_path / "analysis.json")
    assert json.loads((tmp_path / "analysis.json").read_text()) == analysis
    assert analysis["errors"]["lost"] == {}
    assert analysis["curves"]["all"] is None
    assert "error" in format_analysis(analysis)
    assert analyse(match({"images": [], "categories": [], "annotations": []}, []))


def test_curves_and_classes_hold_what_ap_is_the_mean_of() -> None:
    truth = truth_of({}, {"bbox": FAR})
    analysis = analyse(match(truth, [result(bbox=[10, 10, 62, 100])]))
    cat, dog = analysis["classes"]
    assert (cat["ap50"], cat["ap75"], cat["true_boxes"]) == (pytest.approx(51 / 101), 0, 2)
    assert (dog["ap"], dog["true_boxes"]) == (None, 0)
    curve = analysis["curves"]["classes"][0]
    assert curve["iou50"] == [1.0] * 51 + [0.0] * 50
    assert curve["iou75"] == [0.0] * 101
    assert curve["mean"][0] == 0.3
    assert analysis["curves"]["classes"][1] is None
    assert analysis["curves"]["all"] == curve
    assert len(analysis["curves"]["recall"]) == 101
