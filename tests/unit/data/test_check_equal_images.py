"""Which of equal images a corrected set keeps: a sound one, wherever there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suite.data.checking.checks import Check, check_splits
from suite.data.checking.fixing import write_corrected
from suite.data.formats import Location, open_annotated

Entry = tuple[int, str, int]  # image id, file name, annotated width; 32 is right


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files a.png and b.png of the same bytes, 32 x 24, and another, other.png."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "other.png"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    return tmp_path


def put(folder: Path, name: str, *entries: Entry) -> Location:
    images = [
        {"id": image_id, "file_name": file_name, "width": width, "height": 24}
        for image_id, file_name, width in entries
    ]
    boxes = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [1, 1, 9, 9]}
        for image in images
    ]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return Location(format="coco", annotations=path, images=folder)


def fix(folder: Path, *entries: Entry) -> tuple[Check, list[int], dict[str, int]]:
    """Return the check, the ids that are kept and the changes."""
    check = check_splits({"train": put(folder, "source", *entries)})
    (changes,) = write_corrected(check, folder / "fixed.json").values()
    fixed = Location(format="coco", annotations=folder / "fixed.json", images=folder)
    assert check_splits({"train": fixed}).findings.kept == []
    return check, [image.image_id for image in open_annotated(fixed).images()], changes


def rules(check: Check) -> list[str]:
    return [finding.rule for finding in check.findings.kept]


def test_of_two_equal_files_the_one_of_the_right_size_stays(folder: Path) -> None:
    check, kept, changes = fix(folder, (1, "a.png", 30), (2, "b.png", 32))
    assert rules(check) == ["size_mismatch", "same_content"]
    assert (kept, changes) == ([2], {"damaged_image": 1})


def test_of_entries_of_one_file_the_one_of_the_right_size_stays(folder: Path) -> None:
    check, kept, changes = fix(
        folder, (1, "a.png", 30), (2, "a.png", 32), (3, "a.png", 30), (4, "a.png", 32)
    )
    assert rules(check) == ["duplicate_image"] * 3 + ["size_mismatch"]
    assert {finding.value for finding in check.findings.kept[:3]} == {"the file of image 1"}
    assert (kept, changes) == ([2], {"damaged_image": 1, "duplicate_image": 2})


def test_train_keeps_what_val_has_of_the_wrong_size(folder: Path) -> None:
    splits = {
        "train": put(folder, "train", (1, "a.png", 32), (2, "other.png", 32)),
        "val": put(folder, "val", (1, "b.png", 30), (2, "other.png", 32)),
    }
    check = check_splits(splits)
    assert rules(check).count("in_both_splits") == 2
    changes = write_corrected(check, folder / "fixed")
    assert changes == {"train": {"in_val": 1}, "val": {"damaged_image": 1}}
    fixed = Location(format="coco", annotations=folder / "fixed" / "train.json", images=folder)
    assert [image.image_id for image in open_annotated(fixed).images()] == [1]
