"""The referee gives published and hand-computed answers, and refuses what is not a result."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import InputError, SuiteError
from suite.evaluation.coco import (
    Evaluation,
    detections_to_results,
    evaluate_coco,
    format_evaluation,
    modelzoo_line,
)
from suite.evaluation.coco_files import load_ground_truth, load_results, write_results

TWELVE = [field.name for field in fields(Evaluation)][:12]
BOX = [10.0, 10.0, 100.0, 100.0]


def truth(*boxes: dict[str, Any], num_images: int = 1) -> dict[str, Any]:
    """A ground truth with two classes; each box may override image, category, bbox and crowd."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": 7, "bbox": BOX, "iscrowd": 0} | box
        for number, box in enumerate(boxes, start=1)
    ]
    return {
        "images": [{"id": number + 1} for number in range(num_images)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
        "annotations": annotations,
    }


def result(**overrides: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 7, "bbox": BOX, "score": 0.9} | overrides


def twelve(evaluation: Evaluation) -> list[float | None]:
    numbers = evaluation.numbers()
    assert numbers == {name: getattr(evaluation, name) for name in TWELVE}
    return list(numbers.values())


def test_published_answer_of_cocos_fake_detections(shared: Path) -> None:
    folder = shared / "data" / "eval_golden"
    evaluation = evaluate_coco(
        load_ground_truth(folder / "instances_val2014_100.json"),
        load_results(folder / "instances_val2014_fakebbox100_results.json"),
    )
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert [round(value or 0, 3) for value in twelve(evaluation)] == published
    assert (evaluation.num_images, evaluation.num_detections) == (100, 734)
    assert len(evaluation.per_class_ap) == 80
    present = [value for value in evaluation.per_class_ap.values() if value is not None]
    assert math.isclose(sum(present) / len(present), evaluation.ap or 0)


def test_one_perfect_box_scores_one() -> None:
    evaluation = evaluate_coco(truth({}), [result()])
    assert twelve(evaluation) == pytest.approx(
        [1, 1, 1, None, None, 1, 1, 1, 1, None, None, 1], abs=1e-12
    )
    assert evaluation.per_class_ap == {"cat": pytest.approx(1.0), "dog": None}


def test_wrong_class_scores_zero() -> None:
    evaluation = evaluate_coco(truth({}), [result(category_id=9)])
    assert (evaluation.ap, evaluation.ar100) == (0, 0)


def test_half_of_the_boxes_found_gives_51_of_101_recall_points() -> None:
    ground_truth = truth({}, {"bbox": [200, 200, 100, 100]})
    evaluation = evaluate_coco(ground_truth, [result()])
    assert evaluation.ap == pytest.approx(51 / 101)
    assert evaluation.ar100 == pytest.approx(0.5)


def test_better_scored_mistake_halves_precision() -> None:
    mistake = result(bbox=[300, 300, 50, 50], score=0.95)
    evaluation = evaluate_coco(truth({}), [mistake, result()])
    assert evaluation.ap == pytest.approx(0.5)
    assert evaluation.ar1 == 0
    assert evaluation.ar10 == 1


def test_overlap_decides_which_thresholds_pass() -> None:
    # 62 of 100 columns overlap: IoU 0.62 passes 0.50, 0.55 and 0.60 of the ten thresholds.
    evaluation = evaluate_coco(truth({}), [result(bbox=[10, 10, 62, 100])])
    assert evaluation.ap == pytest.approx(0.3)
    assert evaluation.ap50 == pytest.approx(1)
    assert evaluation.ap75 == 0


def test_detection_inside_a_crowd_region_is_ignored() -> None:
    crowd = {"iscrowd": 1, "bbox": [200, 200, 400, 400]}
    inside = result(bbox=[250, 250, 50, 50], score=0.99)
    assert evaluate_coco(truth({}, crowd), [inside, result()]).ap == pytest.approx(1)
    assert evaluate_coco(truth({}), [inside, result()]).ap == pytest.approx(0.5)


def test_images_without_annotations_or_detections_count() -> None:
    on_empty_image = result(image_id=2, score=0.95)
    evaluation = evaluate_coco(truth({}, num_images=3), [on_empty_image, result()])
    assert evaluation.num_images == 3
    assert evaluation.ap == pytest.approx(0.5)


def test_empty_results_are_zeros_and_absent_kinds_stay_none() -> None:
    evaluation = evaluate_coco(truth({}), [])
    assert twelve(evaluation) == [0, 0, 0, None, None, 0, 0, 0, 0, None, None, 0]
    assert evaluation.num_detections == 0


def test_no_ground_truth_at_all_gives_none() -> None:
    evaluation = evaluate_coco(truth(num_images=2), [result()])
    assert twelve(evaluation) == [None] * 12
    assert "-" in format_evaluation(evaluation)


def test_annotation_id_zero_and_duplicate_ids_are_harmless() -> None:
    ground_truth = truth({"id": 0}, {"id": 0, "bbox": [200, 200, 100, 100]})
    results = [result(), result(bbox=[200, 200, 100, 100])]
    assert evaluate_coco(ground_truth, results).ap == pytest.approx(1)


def test_annotated_area_decides_the_size_class() -> None:
    evaluation = evaluate_coco(truth({"area": 500.0}), [result()])
    assert evaluation.ap_small == pytest.approx(1)
    assert evaluation.ap_large is None


def test_arguments_are_untouched_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ground_truth, results = truth({}, {"iscrowd": 1}), [result()]
    before = copy.deepcopy((ground_truth, results))
    evaluate_coco(ground_truth, results)
    assert (ground_truth, results) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_id": 99}, r"results\[1\]: image_id 99 is the id of none of the images"),
        ({"image_id": [1]}, r"results\[1\]: image_id \[1\] is the id of none"),
        ({"category_id": 0}, r"results\[1\]: category_id 0 is the id of none of the categories"),
        ({"bbox": [1, 2, 3]}, r"results\[1\]: bbox must .* got \[1, 2, 3\]"),
        ({"bbox": [1, 2, math.nan, 4]}, r"results\[1\]: bbox must .* got \[1, 2, nan, 4\]"),
        ({"bbox": [1, 2, 10**400, 4]}, r"results\[1\]: bbox must be four numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"results\[1\]: bbox must .* at least 0, got \[1, 2, -3, 4\]"),
        ({"bbox": "1234"}, r"results\[1\]: bbox must .* got '1234'"),
        ({"score": math.inf}, r"results\[1\]: score must be a finite number, got inf"),
        ({"score": None}, r"results\[1\]: score must be a finite number, got None"),
        ({"score": True}, r"results\[1\]: score must be a finite number, got True"),
    ],
)
def test_broken_results_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_coco(truth({}), [result(), result(**overrides)])


boxes_strategy = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(1, 300), st.integers(1, 300)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(boxes_strategy, st.integers(1, 3))
def test_ground_truth_as_detections_is_perfect(
    boxes_xywh: list[tuple[int, ...]], num_images: int
) -> None:
    places = [(index % num_images + 1, list(box)) for index, box in enumerate(boxes_xywh)]
    ground_truth = truth(
        *({"image_id": image_id, "bbox": box} for image_id, box in places), num_images=num_images
    )
    results = [result(image_id=image_id, bbox=box) for image_id, box in places]
    evaluation = evaluate_coco(ground_truth, results)
    assert [evaluation.ap, evaluation.ar100] == pytest.approx([1, 1])


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 15))
def test_order_of_results_with_distinct_scores_changes_nothing(random: Any, count: int) -> None:
    ground_truth = truth({}, {"image_id": 2}, {"category_id": 9}, num_images=2)
    results = [
        result(
            image_id=random.choice([1, 2]),
            category_id=random.choice([7, 9]),
            bbox=[10 + random.randint(-20, 20), 10, 100, 100 + random.randint(-20, 20)],
            score=(number + 1) / 100,
        )
        for number in range(count)
    ]
    shuffled = random.sample(results, k=count)
    assert evaluate_coco(ground_truth, results) == evaluate_coco(ground_truth, shuffled)


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
def test_detections_become_plain_rounded_results(as_array: Any) -> None:
    results = detections_to_results(
        42,
        as_array(np.array([[1.0, 2.0, 4.00049, 8.5], [0, 0, 1, 1]], dtype=np.float32)),
        as_array(np.array([0.98765432, 0.5], dtype=np.float32)),
        as_array(np.array([1, 0])),
        [7, 9],
    )
    assert results == [
        {"image_id": 42, "category_id": 9, "bbox": [1.0, 2.0, 3.0, 6.5], "score": 0.987654},
        {"image_id": 42, "category_id": 7, "bbox": [0.0, 0.0, 1.0, 1.0], "score": 0.5},
    ]
    assert type(results[0]["score"]) is float
    json.dumps(results)


def test_no_detections_become_no_results() -> None:
    empty = torch.zeros(0, 4, dtype=torch.bfloat16)
    assert detections_to_results(1, empty, torch.zeros(0), torch.zeros(0).long(), [7]) == []


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "results.json"
    write_results([result()], path)
    write_results([result(score=0.25)], path)
    assert load_results(path) == [result(score=0.25)]
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]


def test_an_unwritable_place_is_a_failure_not_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match=r"results\.json: the results cannot be written") as caught:
        write_results([], tmp_path / "file" / "results.json")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected a list of COCO results"),
        ('{"images": []}', "expected a list of COCO results, got dict"),
        ("[{]", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[" + "9" * 5000 + "]", "not valid JSON"),
    ],
)
def test_broken_result_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_results(path)


def test_missing_and_oversized_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        load_results(tmp_path / "absent.json")
    path = tmp_path / "large.json"
    path.write_text("[]" + " " * 100)
    monkeypatch.setattr("suite.evaluation.coco_files.MAX_FILE_BYTES", 64)
    with pytest.raises(InputError, match="larger than 64 bytes"):
        load_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("images"), "not COCO: 'images' must be a list of objects"),
        (lambda t: t["images"].append({"id": 1}), r"image 1: its id stands 2 times or more"),
        (lambda t: t["images"].append({"id": "x"}), r"images\[1\]: id must be an integer"),
        (lambda t: t["categories"][0].pop("name"), r"category 7: name must be a string, got None"),
        (
            lambda t: t["categories"][0].update(name="\x1b[2J"),
            r"category 7: name .* printable",
        ),
        (lambda t: t["annotations"][0].update(image_id=5), r"annotations\[0\]: image_id 5"),
        (lambda t: t["annotations"][0].update(bbox=[1]), r"annotations\[0\]: bbox"),
        (lambda t: t["annotations"][0].update(area="big"), r"annotations\[0\]: area must .* 'big'"),
        (lambda t: t["annotations"][0].update(iscrowd=2), r"annotations\[0\]: iscrowd must .* 2"),
    ],
)
def test_broken_ground_truth_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    ground_truth = truth({})
    change(ground_truth)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(ground_truth))
    with pytest.raises(InputError, match=message):
        load_ground_truth(path)


def test_ground_truth_file_loads_as_written(tmp_path: Path) -> None:
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth({})))
    assert load_ground_truth(path) == truth({})


def test_table_shows_percent_and_every_class() -> None:
    text = format_evaluation(evaluate_coco(truth({}), [result(bbox=[10, 10, 62, 100])]))
    rows = [line.split() for line in text.splitlines()]
    assert ["AP", "0.50:0.95", "all", "100", "30.00"] in rows
    assert ["AP", "small", "0.50:0.95", "small", "100", "-"] in rows
    assert ["cat", "30.00"] in rows
    assert ["dog", "-"] in rows
    assert text.endswith("1 images, 1 detections")


def test_modelzoo_line_has_their_names_and_minus_one() -> None:
    evaluation = evaluate_coco(truth({}), [])
    assert modelzoo_line(evaluation) == (
        "Eval results: {'COCO/AP': 0.0, 'COCO/AP50': 0.0, 'COCO/AP75': 0.0, 'COCO/APs': -1.0, "
        "'COCO/APm': -1.0, 'COCO/APl': 0.0, 'COCO/ARmax1': 0.0, 'COCO/ARmax10': 0.0, "
        "'COCO/ARmax100': 0.0, 'COCO/ARs': -1.0, 'COCO/ARm': -1.0, 'COCO/ARl': 0.0}"
    )


def test_evaluation_is_plain_json() -> None:
    evaluation = evaluate_coco(truth({}), [result()])
    assert json.loads(json.dumps(asdict(evaluation))) == asdict(evaluation)


def test_classes_with_one_name_are_told_apart() -> None:
    ground_truth = truth({})
    ground_truth["categories"][1]["name"] = "cat"
    assert list(evaluate_coco(ground_truth, []).per_class_ap) == ["cat (7)", "cat (9)"]
