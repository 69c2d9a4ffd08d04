"""Findings about annotations: every rule fires on what it is about, and a clean set gives none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.data.checking.checks import Check, check_splits, format_check, to_json
from suite.data.checking.findings import Detail, Finding, Findings, format_findings
from suite.data.formats import Location
from suite.data.synthetic import write_synthetic
from suite.recipe import load_recipe

Box = tuple[float, float, float, float]
GOOD_BOX: Box = (2, 2, 20, 16)


def make_set(
    folder: Path,
    boxes_xywh: dict[str, list[Box]],
    *,
    classes: tuple[str, ...] = ("cell",),
    seed: int = 0,
) -> Location:
    """Write noise images of 32 x 24 and a COCO file; `name#2` is a second entry of a file."""
    folder.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, boxes) in enumerate(boxes_xywh.items(), start=1):
        file_name = name.partition("#")[0]
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / file_name)
        images.append({"id": image_id, "file_name": file_name, "width": 32, "height": 24})
        annotations += [{"image_id": image_id, "category_id": 1, "bbox": box} for box in boxes]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    path = folder / "annotations.json"
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return Location(format="coco", annotations=path, images=folder)


def change(location: Location, edit: Callable[[Any], object]) -> None:
    document = json.loads(location.annotations.read_text())
    edit(document)
    location.annotations.write_text(json.dumps(document))


def run(location: Location, **options: Any) -> Check:
    return check_splits({"train": location}, **options)


def by_rule(check: Check) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in check.findings.kept:
        found.setdefault(finding.rule, []).append(finding)
    return found


def test_a_clean_set_has_no_findings(tmp_path: Path) -> None:
    check = run(make_set(tmp_path, {"a.png": [GOOD_BOX], "b.png": [GOOD_BOX]}))
    assert check.findings.kept == []
    assert check.findings.num_errors == 0
    assert format_check(check).startswith("no findings\n")
    scan = check.scans["train"]
    assert (scan.num_images, scan.num_boxes, scan.num_crowd, scan.last_box_id) == (2, 2, 0, 2)


def test_every_entry_that_a_reader_refuses_is_listed_at_once(tmp_path: Path) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX] * 4, "b.png": [GOOD_BOX], "c.png": []})

    def edit(document: Any) -> None:
        images, annotations = document["images"], document["annotations"]
        images[2]["id"] = 1
        annotations[0]["category_id"] = 7
        annotations[1]["image_id"] = 99
        annotations[2]["bbox"] = [1, 2, 3]
        annotations[4]["id"] = 4

    change(location, edit)
    check = run(location)
    errors = [finding for finding in check.findings.kept if finding.severity == "error"]
    assert {(finding.rule, finding.item) for finding in errors} == {
        ("duplicate_id", "image 1"),
        ("unknown_category", "annotation 1"),
        ("unknown_image", "annotation 2"),
        ("invalid_box", "annotation 3"),
        ("duplicate_id", "annotation 4"),
    }
    assert check.findings.num_errors == 5
    assert {finding.file for finding in errors} == {str(location.annotations)}
    assert all("training and evaluation stop" in finding.consequence for finding in errors)
    (category,) = by_rule(check)["unknown_category"]
    assert category.value == "category_id 7 is the id of none of the categories"


def test_each_box_that_is_repaired_is_listed_with_its_id(tmp_path: Path) -> None:
    boxes: list[Box] = [
        GOOD_BOX,
        (-4, 2, 29, 16),
        (3, 3, 0, 5),
        (50, 3, 4, 4),
        (float("inf"), 3, 4, 4),
        (7, 7, 1, 1),
        (2, 20, 30, 2.5),
    ]
    found = by_rule(run(make_set(tmp_path, {"a.png": boxes}), recipe=load_recipe("demo")))
    expected = {
        "clipped": ("note", "annotation 2"),
        "degenerate": ("warning", "annotation 3"),
        "outside": ("warning", "annotation 4"),
        "not_finite": ("warning", "annotation 5"),
        "tiny": ("warning", "annotation 6"),
        "extreme_aspect": ("note", "annotation 7"),
    }
    for rule, (severity, item) in expected.items():
        (finding,) = found[rule]
        assert (finding.severity, finding.item, finding.split) == (severity, item, "train")
        assert finding.file == str(tmp_path / "a.png")
    assert found["degenerate"][0].value == "xywh [3, 3, 0, 5] in 32 x 24"


def test_many_boxes_are_examples_and_still_single_in_json(tmp_path: Path) -> None:
    boxes = [(-4.0, float(row), 29.0, 14.0 + row / 100) for row in range(9)]
    check = run(make_set(tmp_path, {"a.png": boxes}))
    lines = format_check(check).splitlines()
    start = lines.index("note: clipped in train, 9 times")
    assert sum("annotation " in line for line in lines[start : start + 4]) == 3
    assert lines[start + 4] == "    and 6 more, which --json lists"
    plain = to_json(check)
    listed = [item for item in plain["findings"] if item["rule"] == "clipped"]
    assert [item["item"] for item in listed] == [f"annotation {n}" for n in range(1, 10)]
    assert {item["file"] for item in listed} == {str(tmp_path / "a.png")}
    json.dumps(plain)


def test_findings_of_a_rule_are_bounded_and_counted() -> None:
    findings = Findings(limit=3)
    for split, total in (("train", 5), ("val", 2)):
        findings.add_all(
            "error",
            "missing_image",
            (Detail(f"{n}.jpg", f"image {n}", "no such file") for n in range(total)),
            total=total,
            split=split,
            consequence="stops",
        )
    assert len(findings.kept) == 5
    assert findings.num_errors == 7
    assert [(row["split"], row["count"], row["left_out"]) for row in findings.summary()] == [
        ("train", 5, 2),
        ("val", 2, 0),
    ]


def test_repeated_images_and_boxes(tmp_path: Path) -> None:
    images = {"a.png": [GOOD_BOX, (3, 3, 20, 16), GOOD_BOX], "a.png#2": [GOOD_BOX]}
    found = by_rule(run(make_set(tmp_path, images)))
    assert set(found) == {"duplicate_image", "duplicate_box"}
    (image,), (box,) = found["duplicate_image"], found["duplicate_box"]
    assert (image.severity, image.item, image.value) == (
        "warning",
        "image 2",
        "the file of image 1",
    )
    assert (box.item, box.value) == ("annotation 3", "same class and box as annotation 1")


def test_one_box_of_two_classes_is_not_repeated(tmp_path: Path) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX] * 2}, classes=("cell", "virus"))
    change(location, lambda document: document["annotations"][1].update(category_id=2))
    assert by_rule(run(location)) == {}


def test_images_and_classes_without_boxes(tmp_path: Path) -> None:
    images: dict[str, list[Box]] = {"a.png": [GOOD_BOX], "b.png": []}
    found = by_rule(run(make_set(tmp_path, images, classes=("cell", "virus", "dust"))))
    (empty,) = found["no_boxes"]
    assert (empty.severity, empty.item, empty.file) == ("note", "image 2", str(tmp_path / "b.png"))
    assert [(item.item, item.value) for item in found["class_without_boxes"]] == [
        ("category 2", "virus"),
        ("category 3", "dust"),
    ]


def test_classes_of_one_name(tmp_path: Path) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX]}, classes=("cell", "dust", "cell"))
    (repeated,) = by_rule(run(location))["duplicate_class_name"]
    assert (repeated.severity, repeated.item, repeated.value) == (
        "warning",
        "categories 1, 3",
        "cell",
    )


def test_very_long_images(tmp_path: Path) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX], "b.png": [GOOD_BOX]})
    Image.new("RGB", (97, 24)).save(tmp_path / "a.png")
    Image.new("RGB", (96, 24)).save(tmp_path / "b.png")

    def edit(document: Any) -> None:
        for image, width in zip(document["images"], (97, 96), strict=True):
            image["width"] = width

    change(location, edit)
    (long,) = by_rule(run(location))["extreme_image_aspect"]
    assert (long.item, long.value) == ("image 1", "97 x 24")


@pytest.mark.parametrize(
    ("use_crowd", "consequence"),
    [
        (True, "trained on like all others, as data.use_crowd is true"),
        (False, "not trained on, as data.use_crowd is false"),
        (None, "trained on only where data.use_crowd is true"),
    ],
)
def test_crowd_says_what_becomes_of_it(
    tmp_path: Path, use_crowd: bool | None, consequence: str
) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX, (3, 3, 20, 16)]})
    change(location, lambda document: document["annotations"][1].update(iscrowd=1))
    recipe = use_crowd if use_crowd is None else load_recipe(
        "demo", {"data.use_crowd": str(use_crowd).lower(), "detector.num_classes": "1"}
    )  # fmt: skip
    (crowd,) = by_rule(run(location, recipe=recipe))["crowd"]
    assert (crowd.severity, crowd.item) == ("note", "annotation 2")
    assert crowd.consequence == consequence


def test_boxes_that_no_anchor_reaches_are_named_with_share_and_classes(tmp_path: Path) -> None:
    boxes: list[Box] = [GOOD_BOX, (2, 2, 0.8, 0.8), (5, 5, 0.8, 0.8)]
    location = make_set(tmp_path, {"a.png": boxes}, classes=("cell", "speck"))

    def edit(document: Any) -> None:
        document["annotations"][1]["category_id"] = 2
        document["annotations"][2].update(category_id=2, iscrowd=1)

    change(location, edit)
    check = run(location)
    (unreached,) = by_rule(check)["unreached_by_ssd_r34"]
    assert unreached.item == "annotation 2"
    assert unreached.value.startswith("xywh [2, 2, 0.8, 0.8] in 32 x 24: IoU 0.")
    reach = check.scans["train"].reaches["ssd_r34"]
    assert reach.share == 1 / 2, "crowd is not ground truth to be reached"
    assert reach.worst_classes(3) == [(2, 1.0)]
    (anchors, _) = to_json(check)["splits"]["train"]["anchors"]
    assert (anchors["detector"], anchors["boxes"], anchors["unreached"]) == ("ssd_r34", 2, 1)
    assert anchors["worst_classes"] == {"speck": 1.0}
    assert "speck 100.0%" in format_check(check)


def test_splits_must_agree_on_ids_and_names(tmp_path: Path) -> None:
    train = make_set(tmp_path / "train", {"a.png": [GOOD_BOX]}, classes=("cell", "dust"))
    val = make_set(tmp_path / "val", {"a.png": [GOOD_BOX]}, classes=("cell", "virus"), seed=1)
    check = check_splits({"train": train, "val": val})
    assert [(item.item, item.value) for item in by_rule(check)["classes_differ"]] == [
        ("category 2", "dust only in train"),
        ("category 2", "virus only in val"),
    ]
    assert check.findings.num_errors == 2


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_detector_must_have_as_many_classes_as_the_data(
    tmp_path: Path, num_classes: int
) -> None:
    location = make_set(tmp_path, {"a.png": [GOOD_BOX]}, classes=("cell", "dust"))
    recipe = load_recipe("demo", {"detector.num_classes": str(num_classes)})
    (finding,) = by_rule(run(location, recipe=recipe))["class_count"]
    assert finding.severity == "error"
    assert finding.value == f"{num_classes}, the data has 2: cell, dust"
    assert "set detector.num_classes to 2" in finding.consequence


def test_text_puts_errors_first_and_shows_control_characters() -> None:
    findings = Findings()
    for severity, name in (("note", "b.jpg"), ("error", "\x1b[2Jé.jpg")):
        detail = Detail(name, "1\n2", "007")
        findings.add(severity, f"{severity}s", detail, split="train", consequence="stops")
    for number in range(9):
        detail = Detail(f"{number}.jpg", "", "crowd")
        findings.add("note", "crowd", detail, split="val", consequence="left out")
    assert format_findings(findings).splitlines() == [
        "error: errors in train",
        r"    \x1b[2Jé.jpg: 1\n2: 007",
        "    -> stops",
        "note: crowd in val, 9 times",
        "    0.jpg: crowd",
        "    1.jpg: crowd",
        "    2.jpg: crowd",
        "    and 6 more, which --json lists",
        "    -> left out",
        "note: notes in train",
        r"    b.jpg: 1\n2: 007",
        "    -> stops",
    ]


def test_command_on_flags_and_on_a_recipe(tmp_path: Path, run_suite: Any) -> None:
    location = make_set(tmp_path / "set", {"a.png": [GOOD_BOX], "b.png": [GOOD_BOX]})
    flags = [
        "--format",
        "coco",
        "--annotations",
        location.annotations,
        "--images",
        tmp_path / "set",
    ]
    clean = run_suite("data", "check", *flags, "--json")
    assert clean.code == 0
    plain = json.loads(clean.stdout)
    assert (plain["schema"], plain["findings"]) == ("suite.data-check/2", [])
    assert [split["images"] for split in plain["splits"].values()] == [2]

    (tmp_path / "set" / "a.png").unlink()
    broken = run_suite("data", "check", *flags)
    assert broken.code == 3
    assert "missing_image" in broken.stdout
    assert "1 errors in the data" in broken.stderr

    write_synthetic(tmp_path / "synth", num_train=6, num_val=3, seed=0)
    whole = run_suite("data", "check", "demo", "--data", tmp_path / "synth", "--json")
    assert whole.code == 0, whole.stderr
    assert list(json.loads(whole.stdout)["splits"]) == ["train", "val"]


@pytest.mark.parametrize("name", ["train", "val"])
def test_real_blood_cells(shared: Path, name: str) -> None:
    path = shared / "data" / "bccd" / "ImageSets" / "Main" / f"{name}.txt"
    check = check_splits({name: Location(format="voc", annotations=path)})
    assert check.findings.num_errors == 0
    (tiny,) = by_rule(check)["tiny"]
    assert tiny.item.startswith("box ")
