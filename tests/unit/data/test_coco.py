"""COCO files to samples: labels, boxes, the repair rules, and every refusal with its place."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from suite.data.assembly import load_dataset
from suite.data.formats import Location
from suite.data.repair import RULES, repair_boxes
from suite.data.sample import Dataset
from suite.errors import InputError


def load_coco(annotations: Path, images: Path) -> Dataset:
    return load_dataset(Location(format="coco", annotations=annotations, images=images))


GOOD: dict[str, Any] = {
    "images": [
        {"id": 9, "file_name": "b.jpg", "width": 64, "height": 48, "license": 3},
        {"id": 4, "file_name": "sub/a.jpg", "width": 32, "height": 32},
    ],
    "annotations": [
        {
            "id": 70,
            "image_id": 9,
            "category_id": 18,
            "bbox": [1.5, 2, 10, 20],
            "area": 150.5,
            "iscrowd": 0,
            "segmentation": [[1, 2, 3, 4, 5, 6]],
        },
        {"id": 71, "image_id": 9, "category_id": 1, "bbox": [60, 40, 10, 10], "iscrowd": 1},
    ],
    "categories": [
        {"id": 18, "name": "dog", "supercategory": "animal"},
        {"id": 1, "name": "person"},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    return tmp_path


def write(folder: Path, document: object) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path


def changed(**changes: Any) -> dict[str, Any]:
    """Return GOOD with ``section__index__key=value`` set."""
    document = copy.deepcopy(GOOD)
    for name, value in changes.items():
        section, index, key = name.split("__")
        document[section][int(index)][key] = value
    return document


def test_labels_boxes_and_ids(folder: Path) -> None:
    path = write(folder, GOOD)
    dataset = load_coco(path, folder / "images")

    assert dataset.category_ids == (1, 18)
    assert dataset.class_names == ("person", "dog")
    first, second = dataset.samples
    assert (first.image_id, first.image.path, first.image_hw) == (
        9,
        folder / "images/b.jpg",
        (48, 64),
    )
    assert first.boxes_xyxy.dtype == np.float32
    assert first.boxes_xyxy.tolist() == [[1.5, 2, 11.5, 22], [60, 40, 64, 48]]
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert dataset.repairs == {"clipped": 1}
    assert dataset.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (second.image_id, second.boxes_xyxy.shape) == (4, (0, 4))
    assert second.labels.dtype == np.int64


def test_ground_truth_keeps_the_files_numbers_and_fills_gaps(folder: Path) -> None:
    coco = load_coco(write(folder, GOOD), folder / "images").coco

    kept, filled = coco["annotations"]
    assert kept == {
        "id": 70,
        "image_id": 9,
        "category_id": 18,
        "bbox": [1.5, 2, 10, 20],
        "area": 150.5,
        "iscrowd": 0,
    }
    assert filled["bbox"] == [60, 40, 10, 10], "not clipped: the referee sees the original box"
    assert filled["area"] == 100
    assert [image["id"] for image in coco["images"]] == [9, 4]
    assert [category["id"] for category in coco["categories"]] == [1, 18]


@pytest.mark.parametrize("identifier", [0, None])
def test_annotation_ids_that_pycocotools_cannot_use_are_renumbered(
    folder: Path, identifier: int | None
) -> None:
    document = changed(annotations__0__id=identifier)
    coco = load_coco(write(folder, document), folder / "images").coco
    assert [item["id"] for item in coco["annotations"]] == [1, 2]


def test_boxes_stay_with_their_image_when_annotations_are_mixed(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = [
        {"id": 100 - i, "file_name": f"{i}.jpg", "width": 50, "height": 50} for i in range(20)
    ]
    owners = rng.integers(81, 101, size=200)
    items = [
        {"image_id": int(owner), "category_id": 1, "bbox": [number % 40, 0, 1, 1 + number / 10]}
        for number, owner in enumerate(owners)
    ]
    document = {"images": images, "annotations": items, "categories": [{"id": 1, "name": "x"}]}
    dataset = load_coco(write(folder, document), folder / "images")
    for sample in dataset.samples:
        heights = [1 + n / 10 for n, owner in enumerate(owners) if owner == sample.image_id]
        np.testing.assert_allclose(sample.boxes_xyxy[:, 3], heights, rtol=1e-6)


def test_each_dropping_rule_is_counted(folder: Path) -> None:
    document = copy.deepcopy(GOOD)
    boxes = [
        [5, 5, 0, 4],
        [5, 5, 4, -1],
        [64, 0, 5, 5],
        [float("nan"), 0, 1, 1],
        [1e308, 0, 1e308, 1],
    ]
    document["annotations"] = [
        {"id": number, "image_id": 9, "category_id": 1, "bbox": box}
        for number, box in enumerate(boxes, start=1)
    ]
    dataset = load_coco(write(folder, document), folder / "images")
    assert dataset.repairs == {"degenerate": 2, "outside": 1, "not_finite": 2}
    assert dataset.samples[0].boxes_xyxy.shape == (0, 4)
    assert len(dataset.coco["annotations"]) == 5


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "one JSON object"),
        ({"images": [], "categories": []}, "'annotations' must be a list"),
        ({**GOOD, "images": {}}, "'images' must be a list"),
        ({**GOOD, "images": []}, "'images' is empty"),
        ({**GOOD, "categories": []}, "'categories' is empty"),
        ({**GOOD, "annotations": [3]}, "'annotations' must be a list of objects"),
        (changed(images__1__id=9), "image 9: its id stands 2 times or more in 'images'"),
        (changed(images__1__id="4"), r"images\[1\]: id must be an integer, got '4'"),
        (changed(images__0__width=0), "image 9: width must be an integer from 1"),
        (changed(images__0__height=48.0), "image 9: height .* got 48.0"),
        (changed(images__0__file_name=None), "image 9: file_name must be a string"),
        (changed(categories__0__id=1), "id 1 stands 2 times or more in 'categories'"),
        (changed(categories__1__name=7), "category 1: name must be a string, got 7"),
        (changed(annotations__1__id=70), "annotation 70: its id stands 2 times or more"),
        (changed(annotations__1__image_id=5), "annotation 71: image_id 5 is the id of none"),
        (changed(annotations__1__category_id=[]), r"annotation 71: category_id \[\] is the id"),
        (changed(annotations__1__bbox=[1, 2, 3]), "annotation 71: bbox must be four numbers"),
        (changed(annotations__1__bbox=[1, 2, 3, "4"]), "annotation 71: bbox must be four numbers"),
        (changed(annotations__1__bbox=[1, 2, 3, 10**400]), "annotation 71: bbox must be four"),
        (changed(annotations__1__bbox=[1, 2, 3, True]), "annotation 71: bbox must be four"),
        (changed(annotations__0__area=None), "annotation 70: area must be a finite .* None"),
        (changed(annotations__0__area=float("nan")), "annotation 70: area .* got nan"),
        (changed(annotations__0__iscrowd=2), "annotation 70: iscrowd must be 0 or 1, got 2"),
    ],
)
def test_inconsistent_files_are_refused_with_the_place(
    folder: Path, document: object, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_coco(write(folder, document), folder / "images")
    assert str(folder / "annotations.json") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b'{"images": [', b"[" * 100_000, b'{"images": [' + b"9" * 5000 + b"]}"],
)
def test_what_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not JSON"):
        load_coco(path, folder / "images")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_list_that_stands_twice_is_refused(folder: Path, key: str) -> None:
    path = write(folder, GOOD)
    path.write_text(f'{{"{key}": [], {path.read_text()[1:]}')
    with pytest.raises(InputError, match=f"not JSON \\('{key}' stands 2 times\\)"):
        load_coco(path, folder / "images")


def test_missing_file_and_folder_say_the_remedy(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file; give the annotation file"):
        load_coco(folder / "none.json", folder / "images")
    with pytest.raises(InputError, match="no such folder of images"):
        load_coco(write(folder, GOOD), folder / "elsewhere")


def test_size_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, GOOD)
    monkeypatch.setattr("suite.data.formats.coco.MAX_ANNOTATION_BYTES", path.stat().st_size)
    load_coco(path, folder / "images")
    monkeypatch.setattr("suite.data.formats.coco.MAX_ANNOTATION_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match="larger than"):
        load_coco(path, folder / "images")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.jpg",
        "sub/../../secret.jpg",
        "..\\secret.jpg",
        "C:\\secret.jpg",
        "\\\\host\\share\\x.jpg",
        "",
        "a\0b.jpg",
        "\ud800.jpg",
        "x" * 300 + ".jpg",
    ],
)
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="image 9: file name"):
        load_coco(write(folder, changed(images__0__file_name=name)), folder / "images")


def test_links_that_leave_the_folder_are_refused(folder: Path) -> None:
    (folder / "secret.jpg").write_bytes(b"x")
    (folder / "images" / "inside.jpg").write_bytes(b"x")
    (folder / "images" / "b.jpg").symlink_to(folder / "images" / "inside.jpg")
    load_coco(write(folder, GOOD), folder / "images")

    (folder / "images" / "out.jpg").symlink_to(folder / "secret.jpg")
    with pytest.raises(InputError, match=r"'out\.jpg' is a link that leads out"):
        load_coco(write(folder, changed(images__0__file_name="out.jpg")), folder / "images")

    (folder / "images" / "up").symlink_to(folder)
    with pytest.raises(InputError, match="folder 'up' is a link that leads out"):
        load_coco(write(folder, changed(images__0__file_name="up/secret.jpg")), folder / "images")


def test_the_folder_itself_may_be_a_link(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "images")
    dataset = load_coco(write(folder, GOOD), folder / "link")
    assert dataset.samples[0].image.path == folder / "link" / "b.jpg"


NUMBERS = st.floats(width=64) | st.floats(-20, 120) | st.integers(-20, 120).map(float)


@given(
    npst.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(4)), elements=NUMBERS),
    st.tuples(st.integers(1, 100), st.integers(1, 100)),
)
def test_repaired_boxes_lie_inside_and_have_area(
    boxes_xyxy: np.ndarray[Any, np.dtype[np.float64]], image_hw: tuple[int, int]
) -> None:
    repaired = repair_boxes(boxes_xyxy, image_hw)
    x0, y0, x1, y1 = repaired.boxes_xyxy.T
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= image_hw[1]) & (y1 <= image_hw[0])).all()
    assert ((x1 > x0) & (y1 > y0)).all()
    assert repaired.boxes_xyxy.shape == (repaired.keep.sum(), 4)

    by_rule = np.stack([repaired.masks[rule] for rule in RULES])
    assert (by_rule.sum(axis=0) <= 1).all(), "a box falls under at most one rule"
    np.testing.assert_array_equal(~repaired.keep, by_rule[:3].any(axis=0))
    untouched = repaired.keep & ~repaired.masks["clipped"]
    np.testing.assert_allclose(
        repaired.boxes_xyxy[~repaired.masks["clipped"][repaired.keep]],
        boxes_xyxy[untouched].astype(np.float32),
        atol=1e-6,
    )


def test_a_file_without_annotations_has_empty_samples(folder: Path) -> None:
    dataset = load_coco(write(folder, {**GOOD, "annotations": []}), folder / "images")
    assert [sample.boxes_xyxy.shape for sample in dataset.samples] == [(0, 4), (0, 4)]


def test_one_size_for_all_boxes_or_one_for_each() -> None:
    boxes_xyxy = np.array([[0, 0, 50, 50], [0, 0, 50, 50.0]])
    each = repair_boxes(boxes_xyxy, [(20, 30), (60, 60)])
    assert each.boxes_xyxy.tolist() == [[0, 0, 30, 20], [0, 0, 50, 50]]
    assert repair_boxes(boxes_xyxy, (20, 30)).boxes_xyxy.tolist() == [[0, 0, 30, 20]] * 2


def test_a_box_too_thin_for_float32_is_degenerate() -> None:
    repaired = repair_boxes(np.array([[1000, 0, 1000 + 1e-9, 5.0]]), (2000, 2000))
    assert repaired.counts() == {"degenerate": 1}


def test_real_photos(shared: Path) -> None:
    root = shared / "data" / "coco_photos"
    dataset = load_coco(root / "annotations" / "instances_train2017.json", root / "train2017")
    assert len(dataset.samples) == 160
    assert sum(len(sample.labels) for sample in dataset.samples) == 1422
    assert sum(sample.crowd.sum() for sample in dataset.samples) == 25
    assert (dataset.category_ids[0], dataset.category_ids[-1]) == (1, 90)
    assert len(dataset.class_names) == 80
    assert all(sample.image.path.is_file() for sample in dataset.samples)
