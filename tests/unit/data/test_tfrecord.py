"""TFRecord files: what others wrote, absent keys, ids and names, classes."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, Problem
from suite.data.formats.label_map import LabelMap
from suite.data.formats.record_file import write_record
from suite.data.formats.tf_detection import KINDS
from suite.data.formats.tf_example import build_example
from suite.data.formats.tfrecord import read_tfrecord
from suite.data.images import read_image
from suite.errors import InputError

# Written by TensorFlow 2.21: one record, two pixels, a crowd of cats (17).
TENSORFLOWS = base64.b64decode(
    "9wEAAAAAAADjXP72CvQDCl0KDWltYWdlL2VuY29kZWQSTApKCkiJUE5HDQoaCgAAAA1JSERSAAAAAgAAAAEIAgAA"
    "AHtA6N0AAAAPSURBVAiZY/jPwMDA8B8ABwAB//z3BREAAAAASUVORK5CYIIKGwoOaW1hZ2UvZmlsZW5hbWUSCQoH"
    "CgVhLnBuZwoXCgxpbWFnZS9mb3JtYXQSBwoFCgNwbmcKFQoMaW1hZ2UvaGVpZ2h0EgUaAwoBAQodChFpbWFnZS9v"
    "YmplY3QvYXJlYRIIEgYKBJqZGT8KIgoWaW1hZ2Uvb2JqZWN0L2Jib3gveG1heBIIEgYKBAAAgD8KIgoWaW1hZ2Uv"
    "b2JqZWN0L2Jib3gveG1pbhIIEgYKBAAAgD4KIgoWaW1hZ2Uvb2JqZWN0L2Jib3gveW1heBIIEgYKBGZmZj8KIgoW"
    "aW1hZ2Uvb2JqZWN0L2Jib3gveW1pbhIIEgYKBM3MzD0KIQoYaW1hZ2Uvb2JqZWN0L2NsYXNzL2xhYmVsEgUaAwoB"
    "EQoiChdpbWFnZS9vYmplY3QvY2xhc3MvdGV4dBIHCgUKA2NhdAoeChVpbWFnZS9vYmplY3QvaXNfY3Jvd2QSBRoD"
    "CgEBChoKD2ltYWdlL3NvdXJjZV9pZBIHCgUKAzEzOQoUCgtpbWFnZS93aWR0aBIFGgMKAQKe8asP"
)
BOX = {
    "image/object/bbox/xmin": [0.25],
    "image/object/bbox/xmax": [0.5],
    "image/object/bbox/ymin": [0.25],
    "image/object/bbox/ymax": [1.0],
}
CAT = BOX | {"image/object/class/label": [17], "image/object/class/text": [b"cat"]}
CATS = LabelMap({17: "cat", 18: "dog"}, {"cat": 17, "/m/01yrx": 17, "dog": 18})
OTHER_KINDS = {
    "image/caption": "bytes",
    "image/camera": "bytes",
    "image/thumbnail": "bytes",
    "image/object/mask": "bytes",
    "image/object/point": "float",
    "image/object/view": "bytes",
    "image/object/weight": "float",
}


def put(path: Path, *records: Mapping[str, Any]) -> Path:
    """Write records of features."""
    with path.open("wb") as file:
        for features in records:
            write_record(file, build_example(features, {**KINDS, **OTHER_KINDS}))
    return path


def read(pattern: Path, label_map: LabelMap | None = None) -> list[AnnotatedImage]:
    return list(read_tfrecord(pattern, label_map=label_map).images())


def collect(pattern: Path, label_map: LabelMap | None = None) -> tuple[list[int], list[Problem]]:
    """Return the ids of the images that can be read, and the problems."""
    problems: list[Problem] = []
    annotated = read_tfrecord(pattern, label_map=label_map, report=problems.append)
    return [image.image_id for image in annotated.images()], problems


def test_what_tensorflow_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.record").write_bytes(TENSORFLOWS)
    annotated = read_tfrecord(tmp_path / "a.record")
    assert (annotated.category_names, annotated.num_images) == ({17: "cat"}, 1)
    (image,) = annotated.images()
    assert (image.image_id, image.file_name, image.image_hw) == (139, "a.png", (1, 2))
    assert image.boxes == (AnnotatedBox(0, 17, (0.5, 0.1, 1.5, 0.8), crowd=True, area=0.6),)
    assert read_image(image.image).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("pattern", "num_images", "num_boxes", "names"),
    [
        ("cow/train.record", 160, 474, {1: "cow"}),
        ("helipad/train*", 90, 90, {1: "heliport"}),
        ("pets/pets_*", 10, 10, None),
    ],
    ids=["cow", "helipad", "pets"],
)
def test_files_of_others(
    shared: Path, pattern: str, num_images: int, num_boxes: int, names: dict[int, str] | None
) -> None:
    annotated = read_tfrecord(shared / "data" / "tfrecord" / pattern)
    images = list(annotated.images())
    assert len(images) == annotated.num_images == num_images
    assert sum(len(image.boxes) for image in images) == num_boxes
    assert names in (None, annotated.category_names)
    if names is None:
        assert len(annotated.category_names) == 10
        assert annotated.category_names[11] == "chihuahua"
        assert images[0].boxes[0].extra == {"truncated": 0, "view": "Frontal"}
    for image in images:
        height, width = read_image(image.image, expected_hw=image.image_hw).shape[:2]
        for x, y, box_width, box_height in (box.box_xywh for box in image.boxes):
            assert 0 <= x < x + box_width <= width
            assert 0 <= y < y + box_height <= height


def test_every_key_may_be_absent_but_the_image(jpeg: Path, tmp_path: Path) -> None:
    content = jpeg.read_bytes()
    path = put(tmp_path / "a", {"image/encoded": [content]}, {"image/encoded": [content]} | CAT)
    first, second = read(path)
    assert (first.image_id, second.image_id) == (1, 2)
    assert (first.file_name, second.file_name) == ("000000000001.jpg", "000000000002.jpg")
    assert first.image_hw == second.image_hw == (48, 64)
    assert (first.boxes, second.boxes) == ((), (AnnotatedBox(0, 17, (16, 12, 16, 36)),))
    assert first.image.read() == second.image.read() == content
    assert collect(put(tmp_path / "b", CAT), CATS)[1] == [
        Problem(
            "missing_image",
            str(tmp_path / "b"),
            "record 1",
            "image/encoded is missing or empty, so there is no image",
            "correct or remove the record",
        )
    ]


@pytest.mark.parametrize(
    ("source_ids", "expected"),
    [
        ([b"9", b"-3"], [9, -3]),
        ([b"9", b"9223372036854775807"], [9, 2**63 - 1]),
        ([b"9", b"9"], [1, 2]),
        ([b"9", b"cat.jpg"], [1, 2]),
        ([b"9", None], [1, 2]),
    ],
    ids=["decimal", "longest", "repeated", "names", "absent"],
)
def test_image_ids(
    jpeg: Path, tmp_path: Path, source_ids: list[bytes | None], expected: list[int]
) -> None:
    base = {"image/encoded": [jpeg.read_bytes()]} | CAT
    records = [
        base | ({} if source_id is None else {"image/source_id": [source_id]})
        for source_id in source_ids
    ]
    assert [image.image_id for image in read(put(tmp_path / "a", *records))] == expected


@pytest.mark.parametrize(
    "names",
    [[b"a.jpg", b"a.jpg"], [b"a.jpg", b"../b.jpg"], [b"/a.jpg", b"b.jpg"], [b"a.jpg", b"b/"]],
    ids=["repeated", "climbs", "absolute", "folder"],
)
def test_names_that_cannot_be_file_names(jpeg: Path, tmp_path: Path, names: list[bytes]) -> None:
    base = {"image/encoded": [jpeg.read_bytes()]} | CAT
    path = put(tmp_path / "x", *(base | {"image/filename": [name]} for name in names))
    found = [image.file_name for image in read(path)]
    assert found == ["000000000001.jpg", "000000000002.jpg"]


def test_what_else_a_record_says(jpeg: Path, tmp_path: Path) -> None:
    features = {
        "image/encoded": [jpeg.read_bytes()],
        "image/object/difficult": [1],
        "image/object/view": [b"left"],
        "image/object/weight": [0.5],
    }
    (image,) = read(put(tmp_path / "a", features | CAT))
    assert image.boxes[0].crowd
    assert image.boxes[0].extra == {"view": "left", "weight": 0.5}


def test_what_has_no_place_is_counted(jpeg: Path, tmp_path: Path) -> None:
    mask = b"\x89PNG\xff"
    features = CAT | {
        "image/encoded": [jpeg.read_bytes()],
        "image/key/sha256": [b"any"],  # stated of the image, and read by nobody
        "image/source_id": [b"7"],
        "image/filename": [b"a.jpg"],
        "image/caption": [b"a cat", b"an animal"],
        "image/camera": [b"phone"],
        "image/thumbnail": [mask],
        "image/object/mask": [mask],
        "image/object/point": [0.5, 0.25],
        "image/object/view": [],
    }
    path = put(tmp_path / "a", features, {"image/encoded": [jpeg.read_bytes()]} | CAT)
    kept = put(tmp_path / "b", features)
    for name, others in (
        (path, {"source_id of an image": 1, "filename of an image": 1}),
        (kept, {}),
    ):
        annotated = read_tfrecord(name)
        for _ in range(2):  # passes are not counted twice
            first = next(annotated.images())
            assert (first.extra, first.boxes[0].extra) == ({"camera": "phone"}, {})
            assert len(list(annotated.images())) == annotated.num_images
        assert annotated.dropped == Counter(
            {
                "caption of an image": 1,
                "thumbnail of an image": 1,
                "mask of a box": 1,
                "point of an image, not one for each box": 1,
                **others,
            }
        )


def test_nothing_is_dropped_of_what_is_carried(jpeg: Path, tmp_path: Path) -> None:
    base = CAT | {"image/encoded": [jpeg.read_bytes()], "image/object/view": [b"left"]}
    records = [
        base | {"image/source_id": [name], "image/filename": [name]} for name in (b"8", b"9")
    ]
    annotated = read_tfrecord(put(tmp_path / "a", *records))
    assert [image.image_id for image in annotated.images()] == [8, 9]
    assert annotated.dropped == Counter()


@pytest.mark.parametrize("source_id", [b"cat.jpg", b"9223372036854775808", b"1.5"])
def test_source_ids_that_are_no_ids_are_counted(
    jpeg: Path, tmp_path: Path, source_id: bytes
) -> None:
    base = CAT | {"image/encoded": [jpeg.read_bytes()]}
    records = [base | {"image/source_id": [each]} for each in (b"9", source_id)]
    annotated = read_tfrecord(put(tmp_path / "a", *records))
    assert [image.image_id for image in annotated.images()] == [1, 2]
    assert annotated.dropped == Counter({"source_id of an image": 2})
    named = [each | {"image/filename": each["image/source_id"]} for each in records]
    assert read_tfrecord(put(tmp_path / "b", *named)).dropped == Counter()  # the name says it


@pytest.mark.parametrize(
    ("changed", "rule", "stated"),
    [
        ({"image/object/bbox/xmax": [0.5, 0.6]}, "invalid_record", "bbox/xmin has 1 values for 2"),
        ({"image/object/bbox/ymax": []}, "invalid_record", "bbox/ymax has 0 values for 1"),
        ({"image/object/area": [1.0, 2.0]}, "invalid_record", "area has 2 values for 1"),
        ({"image/height": [48], "image/width": [0]}, "invalid_image", "image/width must be one"),
        ({"image/filename": [b"\xff"]}, "invalid_record", "image/filename is not UTF-8"),
        ({"image/filename": [b"a", b"b"]}, "invalid_record", "must be one text, got 2"),
        ({"image/encoded": [b"GIF89a"]}, "undecodable_image", "not an image of a known format"),
        ({"image/encoded": [b"a", b"b"]}, "missing_image", "is not one byte string"),
        ({"image/object/class/text": [b"cow"]}, "unknown_category", "'cow' is not in the label"),
        (
            {"image/object/class/label": [18]},
            "class_mismatch",
            "label 18 stands beside class 'cat'",
        ),
        (
            {"image/object/class/label": [5], "image/object/class/text": []},
            "unknown_category",
            "stated as label 5",
        ),
    ],
)
def test_records_that_cannot_be_used(
    jpeg: Path, tmp_path: Path, changed: dict[str, Any], rule: str, stated: str
) -> None:
    good = {"image/encoded": [jpeg.read_bytes()]} | CAT
    path = put(tmp_path / "a", good, good | changed, good)
    ids, (problem,) = collect(path, CATS)
    assert (problem.rule, problem.file.startswith(str(path))) == (rule, True)
    assert stated in problem.value
    about_box = rule in ("unknown_category", "class_mismatch")
    assert ids == ([1, 2, 3] if about_box else [1, 3])
    with pytest.raises(InputError, match=r"record 2|000000000002"):
        read(path, CATS)


def test_values_of_another_type(jpeg: Path, tmp_path: Path) -> None:
    features = {"image/encoded": [jpeg.read_bytes()], "image/height": [4.5], "image/width": [64]}
    with (tmp_path / "a").open("wb") as file:
        write_record(file, build_example(features, {**KINDS, "image/height": "float"}))
    with pytest.raises(InputError, match="record 1: image/height must hold integers, holds floats"):
        read(tmp_path / "a", CATS)


def test_a_label_map_decides_by_either_name(jpeg: Path, tmp_path: Path) -> None:
    base = {"image/encoded": [jpeg.read_bytes()]} | BOX
    label, text = "image/object/class/label", "image/object/class/text"
    path = put(
        tmp_path / "a",
        base | {text: [b"/m/01yrx"]},
        base | {text: [b"dog"], label: [18]},
        base | {label: [17]},
    )
    assert [image.boxes[0].category_id for image in read(path, CATS)] == [17, 18, 17]


@pytest.mark.parametrize(
    ("first", "second", "stated"),
    [
        ({"label": [17]}, {"label": [18]}, "without class/text; give a label map: 17 may be"),
        (
            {"label": [1], "text": [b"cat"]},
            {},
            "1.record: record 1: an object has neither class/label nor class/text; state one of",
        ),
        (
            {"text": [b"cat"]},
            {"text": [b"cat"]},
            "0.record: record 1: class 'cat' stands without class/label; give a label map, which "
            "says the id of each name$",
        ),
        (
            {"label": [1], "text": [b"cat"]},
            {"label": [1], "text": [b"dog"]},
            "1.record: record 1: label 1 stands with class 'dog', but with class 'cat' in "
            r"\S+0.record: record 1; correct",
        ),
        (
            {"label": [17], "text": [b"cat"]},
            {"label": [18], "text": [b"cat"]},
            "1.record: record 1: class 'cat' stands with label 18, but with label 17 in "
            r"\S+0.record: record 1; correct",
        ),
    ],
    ids=["labels", "nothing", "texts", "two texts", "two labels"],
)
def test_classes_are_never_guessed(
    jpeg: Path, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], stated: str
) -> None:
    image = {"image/encoded": [jpeg.read_bytes()]} | BOX
    for index, features in enumerate((first, second)):
        named = {f"image/object/class/{key}": value for key, value in features.items()}
        put(tmp_path / f"{index}.record", image | named)
    with pytest.raises(InputError, match=stated):
        read_tfrecord(tmp_path / "*.record")


def test_without_any_object_there_are_no_classes(jpeg: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "a", {"image/encoded": [jpeg.read_bytes()]})
    with pytest.raises(InputError, match="no record holds an object"):
        read_tfrecord(path)
    assert read_tfrecord(path, label_map=CATS).category_names == {17: "cat", 18: "dog"}


def test_the_digest_is_of_the_content(jpeg: Path, tmp_path: Path) -> None:
    good = {"image/encoded": [jpeg.read_bytes()]} | CAT
    path = put(tmp_path / "a", good)
    digests = {
        read_tfrecord(path).digest,
        read_tfrecord(put(tmp_path / "b", good)).digest,
        read_tfrecord(put(tmp_path / "c", good | {"image/object/is_crowd": [1]})).digest,
        read_tfrecord(
            put(tmp_path / "d", good | {"image/encoded": [jpeg.read_bytes()[:-1]]})
        ).digest,
        read_tfrecord(path, label_map=CATS).digest,
    }
    assert len(digests) == 4
