"""YOLO data sets: labels and classes as Ultralytics reads them, ids, damage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, Problem
from suite.data.formats.yolo import read_yolo
from suite.errors import InputError

NAMES = "names: [person, bicycle, car]\n"


def put(root: Path, texts: Mapping[str, str | None], *, classes: str = NAMES) -> Path:
    """Write images of 64 x 48 pixels and label files (None: none) by name."""
    for name, text in texts.items():
        for kind in ("images", "labels"):
            (root / kind / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / "images" / "train" / name)
        if text is not None:
            (root / "labels" / "train" / name).with_suffix(".txt").write_text(text)
    (root / "data.yaml").write_text(classes)
    return root


def read(root: Path, split: str = "train") -> list[AnnotatedImage]:
    return list(read_yolo(root / "labels" / split, root / "images" / split).images())


def collect(root: Path) -> tuple[list[str], list[Problem]]:
    """Return the names of the images that can be read, and the problems."""
    problems: list[Problem] = []
    annotated = read_yolo(
        root / "labels" / "train", root / "images" / "train", report=problems.append
    )
    return [image.file_name for image in annotated.images()], problems


def test_boxes_and_images_without(tmp_path: Path) -> None:
    put(tmp_path, {"b.jpg": "2 0.5 0.5 0.25 0.5\n\n0 0 0 1 1", "a.jpg": None, "c/d.png": "  \n"})
    annotated = read_yolo(tmp_path / "labels" / "train", tmp_path / "images" / "train")
    assert annotated.category_names == {0: "person", 1: "bicycle", 2: "car"}
    assert annotated.num_images == 3
    a, b, d = annotated.images()
    assert [(image.image_id, image.file_name) for image in (a, b, d)] == [
        (1, "a.jpg"),
        (2, "b.jpg"),
        (3, "c/d.png"),
    ]
    assert (a.boxes, d.boxes, b.image_hw) == ((), (), (48, 64))
    assert b.boxes == (AnnotatedBox(0, 2, (24, 12, 16, 24)), AnnotatedBox(0, 0, (-32, -24, 64, 48)))


def test_a_polygon_becomes_its_bounding_box(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": "1 0.25 0.5 0.5 0.25 0.75 1\n1 0.5 0.5 1 1"})
    first, second = read(tmp_path)[0].boxes
    assert first.box_xywh == (16, 12, 32, 36)
    assert first.extra == {"segmentation": [[16, 24, 32, 12, 48, 48]]}
    assert second == AnnotatedBox(0, 1, (0, 0, 64, 48))


def test_sizes_are_of_the_image_as_it_is_seen(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": "0 0.5 0.5 1 0.5"})
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "train" / "a.jpg", exif=exif)
    (image,) = read(tmp_path)
    assert image.image_hw == (64, 48)
    assert image.boxes[0].box_xywh == (0, 16, 48, 32)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("names: [a, 'no', 3]", {0: "a", 1: "no", 2: "3"}),
        ("nc: 2\nnames: {1: b, 0: a}\ntrain: x\ndownload: |\n  anything\n", {0: "a", 1: "b"}),
        ("names:\n  0: a\n  1: b\ncategory_ids: [18, 3]", {3: "b", 18: "a"}),
    ],
    ids=["list", "map", "ids"],
)
def test_classes(tmp_path: Path, classes: str, expected: dict[int, str]) -> None:
    put(tmp_path, {"a.jpg": "0 0.5 0.5 1 1"}, classes=classes)
    annotated = read_yolo(tmp_path / "labels" / "train", tmp_path / "images" / "train")
    assert list(annotated.category_names.items()) == sorted(expected.items())
    (image,) = annotated.images()
    assert annotated.category_names[image.boxes[0].category_id] == "a"


@pytest.mark.parametrize(
    ("classes", "stated"),
    [
        ("train: images", "has no 'names'"),
        ("names: car", "'names' must be a list or map indices to names, got 'car'"),
        ("names: []", "must have every index from 0"),
        ("names: {0: a, 2: b}", "must have every index from 0 to the last"),
        ("names: {0: a, 0: b}", "states an index twice"),
        ("names: {x: a}", "expected an integer, got 'x'"),
        ("names: [a, [b]]", "line 1: 'names': expected text, got a list"),
        ("names: [a]\nnc: 2", "'nc' is '2', but 'names' has 1 classes"),
        ("names: [a, b]\ncategory_ids: [1]", "'category_ids' must list 2 ids"),
        ("names: [a, b]\ncategory_ids: [1, 1]", "'category_ids' states an id twice"),
        ("- names", "holds no keys"),
        ("names: [a", "data.yaml:1: not valid YAML"),
        ("names: !!python/object/apply:os.system [a]", "data.yaml:1: "),
        ("names: &a [a]\nother: *a", "data.yaml:1: "),
    ],
)
def test_classes_that_cannot_be_used(tmp_path: Path, classes: str, stated: str) -> None:
    put(tmp_path, {"a.jpg": None}, classes=classes)
    with pytest.raises(InputError, match=r"data\.yaml") as caught:
        read(tmp_path)
    assert stated in str(caught.value)


def test_where_classes_are_looked_for(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": None})
    labels, images = tmp_path / "labels" / "train", tmp_path / "images" / "train"
    (tmp_path / "data.yaml").rename(tmp_path / "other.yaml")
    with pytest.raises(InputError, match=r"no data\.yaml there or in the two folders above"):
        read_yolo(labels, images)
    assert read_yolo(labels, images, classes=tmp_path / "other.yaml").num_images == 1
    for folder in (tmp_path / "labels", labels):
        (folder / "data.yaml").write_text(f"names: [{folder.name}]")
        assert read_yolo(labels, images).category_names == {0: folder.name}


def test_classes_are_found_from_inside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"a.jpg": None})
    monkeypatch.chdir(tmp_path / "labels" / "train")
    images = tmp_path / "images" / "train"
    assert read_yolo(Path(), images).category_names == {0: "person", 1: "bicycle", 2: "car"}


@pytest.mark.parametrize(
    ("line", "rule", "stated"),
    [
        ("0 0.5 0.5 0.5", "invalid_box", "4 numbers; a box has 5, a polygon an odd number from 7"),
        ("0 0.5 0.5 0.5 0.5 0.9", "invalid_box", "6 numbers"),
        ("0 1 1 1 1 1 1 1", "invalid_box", "8 numbers"),
        ("0 0.5 0.5 0.5 wide", "invalid_box", "not numbers only: '0 0.5 0.5 0.5 wide'"),
        ("3 0.5 0.5 1 1", "unknown_category", "class '3'; data.yaml has 0 to 2"),
        ("-1 0.5 0.5 1 1", "unknown_category", "class '-1'"),
        ("0.5 0.5 0.5 1 1", "unknown_category", "class '0.5'"),
        ("nan 0.5 0.5 1 1", "unknown_category", "class 'nan'"),
        ("1e400 0.5 0.5 1 1", "unknown_category", "class '1e400'"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, rule: str, stated: str) -> None:
    put(tmp_path, {"a.jpg": f"0 0.5 0.5 1 1\n{line}\n1 0.5 0.5 1 1\n"})
    names, (problem,) = collect(tmp_path)
    assert names == ["a.jpg"]
    label = str(tmp_path / "labels" / "train" / "a.txt")
    assert (problem.rule, problem.file, problem.item) == (rule, label, "line 2")
    assert stated in problem.value
    with pytest.raises(InputError, match=r"a\.txt: line 2: "):
        read(tmp_path)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path, {f"{name}.jpg": "0 0.5 0.5 1 1" for name in "abcde"})
    labels, images = tmp_path / "labels" / "train", tmp_path / "images" / "train"
    (labels / "a.txt").write_bytes(b"\xff")
    (images / "b.jpg").write_bytes(b"no image")
    (images / "c.jpg").unlink()
    for name in ("outside.jpg", "outside.txt"):
        (tmp_path / name).write_text("0 0.5 0.5 1 1")
    (images / "f.jpg").symlink_to(tmp_path / "outside.jpg")
    (labels / "e.txt").unlink()
    (labels / "e.txt").symlink_to(tmp_path / "outside.txt")
    (images / "folder").symlink_to(tmp_path, target_is_directory=True)
    (labels / "classes.txt").write_text("person\n")
    names, problems = collect(tmp_path)
    assert names == ["d.jpg"]
    assert sorted((problem.rule, Path(problem.file).name) for problem in problems) == [
        ("invalid_annotation", "a.txt"),
        ("missing_image", "c.txt"),
        ("undecodable_image", "b.jpg"),
        ("unsafe_name", "folder"),
        ("unsafe_name", "train"),
        ("unsafe_name", "train"),
    ]


def test_a_link_that_leads_nowhere_is_a_missing_image(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": None, "b.jpg": None})
    images = tmp_path / "images" / "train"
    (images / "a.jpg").unlink()
    (images / "a.jpg").symlink_to(images / "none.jpg")
    (images / "b.jpg").write_bytes(b"no image")
    _, problems = collect(tmp_path)
    found = [(item.rule, item.value.partition(" (")[0], item.remedy) for item in problems]
    assert found == [
        ("missing_image", "no such image file", "add the image or remove its annotation"),
        ("undecodable_image", "not an image of a known format", "repair or remove the image"),
    ]


def test_images_that_share_a_label_file(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": None, "b.png": None, "b.jpg": None, "c/a.png": "9", "a.jpg": "0 9\n"})
    names, problems = collect(tmp_path)
    assert names == ["a.jpg", "b.jpg", "b.png", "c/a.png"]
    label = tmp_path / "labels" / "train" / "a.txt"
    assert [(problem.rule, problem.file) for problem in problems] == [
        ("shared_label", str(label)),
        ("invalid_box", str(label)),
        ("invalid_box", str(label.parent / "c" / "a.txt")),
    ]
    with pytest.raises(InputError, match=r"a\.txt: belongs to 'a\.jpg', 'a\.png'; give each"):
        read(tmp_path)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": None})
    labels = tmp_path / "labels" / "train"
    (labels / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: not a regular file; repair or remove it$"):
        read(tmp_path)
    (labels / "image_ids.tsv").mkdir()
    with pytest.raises(
        InputError, match=r"\.tsv: not a regular file; remove it to number the imag"
    ):
        read(tmp_path)


def test_every_id_that_coco_may_have(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": None, "b.jpg": None})
    path = tmp_path / "labels" / "train" / "image_ids.tsv"
    path.write_text(f"a.jpg\t{2**63 - 1}\nb.jpg\t{1 - 2**63}\n")
    assert [image.image_id for image in read(tmp_path)] == [2**63 - 1, 1 - 2**63]
    path.write_text(f"a.jpg\t{2**63}\nb.jpg\t1\n")
    with pytest.raises(InputError, match=r"image_ids\.tsv:1: expected name, tab, id"):
        read(tmp_path)


def test_missing_folders(tmp_path: Path) -> None:
    put(tmp_path, {"a.jpg": None})
    with pytest.raises(InputError, match="no such folder of label files"):
        read(tmp_path, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image file in it"):
        read_yolo(tmp_path / "labels" / "train", tmp_path / "empty")


@pytest.mark.parametrize(
    ("ids", "stated"),
    [
        ("a.jpg\t7\n", "'b.jpg' is not in it"),
        ("a.jpg\t7\nb.jpg\t7\n", "two images have the same id"),
        ("a.jpg\t7\na.jpg\t8\n", r"image_ids\.tsv:2: 'a\.jpg' stands there twice"),
        ("a.jpg 7\n", r"image_ids\.tsv:1: expected name, tab, id"),
        ("a.jpg\t\u0663\n", "expected name, tab, id"),
    ],
    ids=["missing", "same id", "same name", "no tab", "no ASCII"],
)
def test_ids_that_cannot_be_used(tmp_path: Path, ids: str, stated: str) -> None:
    put(tmp_path, {"a.jpg": None, "b.jpg": None})
    (tmp_path / "labels" / "train" / "image_ids.tsv").write_text(ids, encoding="utf-8")
    with pytest.raises(InputError, match=stated):
        read(tmp_path)


def test_the_digest_is_of_the_annotations(tmp_path: Path) -> None:
    line = "0 0.5 0.5 1 1"
    digests = []
    for index, (text, classes) in enumerate(
        [(line, NAMES), (line, NAMES), (f"{line} ", NAMES), (line, NAMES + "category_ids: [1,2,3]")]
    ):
        root = put(tmp_path / str(index), {"a.jpg": text}, classes=classes)
        digests.append(read_yolo(root / "labels" / "train", root / "images" / "train").digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("0123456789.-+einfa_ \t\r\n\x85"), max_size=60))
def test_no_text_breaks_the_reader(tmp_path: Path, text: str) -> None:
    put(tmp_path, {"a.jpg": text})
    assert collect(tmp_path)[0] == ["a.jpg"]
