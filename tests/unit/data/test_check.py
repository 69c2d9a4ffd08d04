"""Findings about datasets: every rule fires on what it is about, and a clean set gives none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.data.check import (
    Finding,
    check_class_count,
    check_crowd,
    check_dataset,
    check_splits,
    format_findings,
)
from suite.data.coco import load_coco
from suite.data.sample import Dataset
from suite.data.voc import load_voc

Box = tuple[float, float, float, float]


def make_dataset(
    folder: Path,
    boxes_xywh: dict[str, list[Box]],
    *,
    classes: tuple[str, ...] = ("cell",),
    seed: int = 0,
) -> Dataset:
    """Write noise images of 32 x 24 and a COCO file, and load it; all boxes are of class 1."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, boxes) in enumerate(boxes_xywh.items(), start=1):
        file_name = name.partition("#")[0]
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / file_name)
        images.append({"id": image_id, "file_name": file_name, "width": 32, "height": 24})
        annotations += [{"image_id": image_id, "category_id": 1, "bbox": box} for box in boxes]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    path = folder / "annotations.json"
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return load_coco(path, folder)


GOOD_BOX: Box = (1, 1, 10, 10)


def rules(findings: list[Finding]) -> dict[str, str]:
    return {finding.rule: finding.severity for finding in findings}


def test_a_clean_dataset_has_no_findings(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, {"a.png": [GOOD_BOX], "b.png": [GOOD_BOX]})
    seen: list[tuple[int, int]] = []
    assert check_dataset(dataset, decode=True, progress=lambda *at: seen.append(at)) == []
    assert seen == [(1, 2), (2, 2)]
    assert format_findings([]) == "no findings"


def test_missing_damaged_and_resized_images_are_errors(tmp_path: Path) -> None:
    names = ("gone.png", "damaged.png", "resized.png")
    dataset = make_dataset(tmp_path, {name: [GOOD_BOX] for name in names})
    (tmp_path / "gone.png").unlink()
    (tmp_path / "damaged.png").write_bytes((tmp_path / "damaged.png").read_bytes()[:200])
    Image.new("RGB", (40, 24)).save(tmp_path / "resized.png")

    assert rules(check_dataset(dataset, decode=False)) == {"missing_image": "error"}
    missing, damaged, resized = check_dataset(dataset, decode=True)
    assert (missing.rule, missing.file) == ("missing_image", str(tmp_path / "gone.png"))
    assert (damaged.rule, damaged.severity) == ("undecodable_image", "error")
    assert "truncated" in damaged.value
    assert (resized.rule, resized.severity, resized.item) == ("size_mismatch", "error", "image 3")
    assert "40 x 24" in resized.value
    assert "32 x 24" in resized.value


def test_repaired_boxes_are_counted_by_rule_with_examples(tmp_path: Path) -> None:
    boxes: list[Box] = [
        GOOD_BOX,
        *[(-4, 2, 9, 9)] * 5,
        (3, 3, 0, 5),
        (50, 3, 4, 4),
        (float("inf"), 3, 4, 4),
        (7, 7, 1, 1),
    ]
    findings = check_dataset(make_dataset(tmp_path, {"a.png": boxes}), decode=False)
    by_rule = {finding.rule: finding for finding in findings}
    assert rules(findings) == {
        "not_finite": "warning",
        "degenerate": "warning",
        "outside": "warning",
        "clipped": "note",
        "tiny": "warning",
    }
    assert by_rule["clipped"].item == "5 boxes"
    assert by_rule["clipped"].value.count("xywh [-4, 2, 9, 9] in 32 x 24") == 3
    assert by_rule["degenerate"].item == "1 box"
    assert by_rule["degenerate"].value == "annotation 7 of a.png: xywh [3, 3, 0, 5] in 32 x 24"
    assert by_rule["tiny"].value.startswith("annotation 10 ")
    assert by_rule["outside"].file == str(tmp_path / "a.png")


def test_duplicates_empty_images_and_empty_classes(tmp_path: Path) -> None:
    images = {"a.png": [GOOD_BOX], "a.png#again": [GOOD_BOX], "b.png": []}
    dataset = make_dataset(tmp_path, images, classes=("cell", "virus", "dust"))
    duplicate, empty, unseen = check_dataset(dataset, decode=False)
    assert (duplicate.rule, duplicate.value) == ("duplicate_image", "ids 1, 2")
    assert (empty.severity, empty.item, empty.value) == ("note", "1 image", "b.png")
    assert (unseen.rule, unseen.severity) == ("class_without_boxes", "warning")
    assert (unseen.item, unseen.value) == ("2 classes", "virus, dust")


def test_splits_must_agree_on_classes(tmp_path: Path) -> None:
    train = make_dataset(tmp_path / "train", {"a.png": [GOOD_BOX]}, classes=("cell", "dust"))
    val = make_dataset(tmp_path / "val", {"a.png": [GOOD_BOX]}, classes=("cell", "virus"), seed=1)
    (finding,) = check_splits(train, val)
    assert (finding.severity, finding.rule) == ("error", "classes_differ")
    assert finding.value == "2 dust, 2 virus"


def test_the_detector_must_have_as_many_classes_as_the_data(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, {"a.png": [GOOD_BOX]}, classes=("cell", "dust"))
    assert check_class_count(dataset, 2) == []
    for num_classes in (1, 3):
        (finding,) = check_class_count(dataset, num_classes)
        assert (finding.severity, finding.rule) == ("error", "class_count")
        assert finding.value == f"{num_classes}, the data has 2: cell, dust"
        assert "set detector.num_classes to 2" in finding.consequence


def test_crowd_boxes_are_counted_with_what_becomes_of_them(tmp_path: Path) -> None:
    images = {"a.png": [GOOD_BOX] * 3, "b.png": [GOOD_BOX], "c.png": [GOOD_BOX]}
    dataset = make_dataset(tmp_path, images)
    assert check_crowd(dataset, use_crowd=True) == []
    path = tmp_path / "annotations.json"
    document = json.loads(path.read_text())
    for index in (0, 2, 3):
        document["annotations"][index]["iscrowd"] = 1
    path.write_text(json.dumps(document))
    dataset = load_coco(path, tmp_path)
    (used,) = check_crowd(dataset, use_crowd=True)
    assert (used.severity, used.rule, used.item) == ("note", "crowd", "3 boxes")
    assert used.value == "in 2 images"
    assert used.consequence == "trained on like all others, as data.use_crowd is true"
    (unused,) = check_crowd(dataset, use_crowd=False)
    assert unused.consequence == "not trained on, as data.use_crowd is false"


def test_the_same_image_in_both_splits_is_found_under_another_name(tmp_path: Path) -> None:
    train = make_dataset(tmp_path / "train", {"a.png": [GOOD_BOX], "b.png": [GOOD_BOX]})
    val = make_dataset(tmp_path / "val", {"c.png": [GOOD_BOX]})
    (finding,) = check_splits(train, val)
    assert (finding.severity, finding.rule) == ("warning", "in_both_splits")
    assert (finding.file, finding.value) == (
        str(tmp_path / "val" / "c.png"),
        str(tmp_path / "train" / "a.png"),
    )
    other = make_dataset(tmp_path / "other", {"a.png": [GOOD_BOX]}, seed=7)
    assert check_splits(train, other) == []


def test_table_puts_errors_first_and_shortens_long_rules() -> None:
    note = Finding("note", "no_boxes", "", "1 image", "x", "not trained on")
    errors = [
        Finding("error", "missing_image", f"{n}.jpg", f"image {n}", "no such file", "stops")
        for n in range(25)
    ]
    lines = format_findings([note, *errors]).splitlines()
    assert lines[0].split() == ["severity", "rule", "file", "item", "value", "consequence"]
    assert lines[2].startswith("error")
    assert lines[-1].startswith("note")
    assert len(lines) == 2 + 20 + 1 + 1
    assert "and 5 more" in lines[-2]


def test_table_shows_control_characters_instead_of_sending_them() -> None:
    finding = Finding("error", "missing_image", "\x1b[2Jé.jpg", "1\n2", "007", "stops")
    table = format_findings([finding])
    assert "\x1b" not in table
    assert r"\x1b[2Jé.jpg" in table
    assert r"1\n2" in table
    assert "007" in table


@pytest.mark.parametrize("name", ["train", "val"])
def test_real_blood_cells(shared: Path, name: str) -> None:
    dataset = load_voc(shared / "data" / "bccd", image_set=name)
    (finding,) = check_dataset(dataset, decode=True)
    assert (finding.rule, finding.item) == ("tiny", "1 box")


def test_real_splits_share_no_image(shared: Path) -> None:
    root = shared / "data" / "bccd"
    assert check_splits(load_voc(root, image_set="train"), load_voc(root, image_set="val")) == []
