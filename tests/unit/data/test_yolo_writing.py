"""YOLO data sets that the suite writes: the way back, names, data.yaml, what is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.destination import Destination
from suite.data.formats.yolo import read_yolo
from suite.data.formats.yolo_classes import load_classes, write_classes
from suite.data.formats.yolo_writing import write_yolo
from suite.data.sample import ImageFile
from suite.errors import InputError

NAMES = {1: "person", 17: "cat", 90: "no"}


def make_image(
    file: Path, image_id: int, boxes: tuple[AnnotatedBox, ...] = (), name: str = "a.jpg"
) -> AnnotatedImage:
    return AnnotatedImage(image_id, name, ImageFile(file), (48, 64), boxes)


def write(
    root: Path, images: list[AnnotatedImage], *, split: str = "train2017", names: dict[int, str]
) -> Counter[str]:
    annotated = AnnotatedSet(names, len(images), lambda: iter(images), "")
    return write_yolo(annotated, Destination(folder=root, split=split))


def read(root: Path, split: str = "train2017") -> AnnotatedSet:
    return read_yolo(root / "labels" / split, root / "images" / split)


# Corners inside the image, in hundredths of a pixel.
CORNERS = st.tuples(
    *(st.lists(st.integers(0, side * 100), min_size=2, max_size=2) for side in (64, 48))
)


def build_box(category_id: int, corners: tuple[list[int], list[int]]) -> AnnotatedBox:
    (x0, x1), (y0, y1) = map(sorted, corners)
    sides = (x0 / 100, y0 / 100, (x1 - x0) / 100, (y1 - y0) / 100)
    return AnnotatedBox(0, category_id, sides)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=st.lists(
        st.lists(st.builds(build_box, st.sampled_from(list(NAMES)), CORNERS), max_size=5),
        min_size=1,
        max_size=4,
    ),
    ids=st.lists(st.integers(-(10**17), 10**17), min_size=4, max_size=4, unique=True),
)
def test_a_round_trip_is_identity(
    jpeg: Path,
    tmp_path_factory: pytest.TempPathFactory,
    boxes: list[list[AnnotatedBox]],
    ids: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("set")
    images = [
        make_image(jpeg, image_id, tuple(each), name=f"in/{number}.jpg")
        for number, (image_id, each) in enumerate(zip(ids, boxes, strict=False))
    ]
    assert write(folder, images, names=NAMES) == Counter()
    annotated = read(folder)
    assert annotated.category_names == NAMES
    for image, again in zip(images, annotated.images(), strict=True):
        assert (again.image_id, again.file_name) == (image.image_id, image.file_name)
        assert (again.image_hw, again.boxes) == (image.image_hw, image.boxes)
        assert again.image.read() == jpeg.read_bytes()


def test_finer_boxes_come_back_to_a_millionth(jpeg: Path, tmp_path: Path) -> None:
    box = AnnotatedBox(0, 17, (1 / 3, 2 / 7, 10 / 3, 20 / 7))
    write(tmp_path, [make_image(jpeg, 1, (box,))], names=NAMES)
    (image,) = read(tmp_path).images()
    assert image.boxes[0].box_xywh == pytest.approx(box.box_xywh, abs=1e-6)


def test_what_ultralytics_finds(jpeg: Path, tmp_path: Path) -> None:
    box = AnnotatedBox(0, 17, (16, 12, 32, 24))
    for split in ("train2017", "val2017", "train2014"):
        write(tmp_path, [make_image(jpeg, 5, (box,))], names=NAMES, split=split)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "train": "images/train2017",
        "val": "images/val2017",
        "train2014": "images/train2014",
        "names": {0: "person", 1: "cat", 2: "no"},
        "category_ids": [1, 17, 90],
    }
    label = tmp_path / "labels" / "val2017" / "a.txt"
    assert label.read_text() == "1 0.500000000000 0.500000000000 0.500000000000 0.500000000000\n"
    assert (tmp_path / "images" / "val2017" / "a.jpg").read_bytes() == jpeg.read_bytes()


def test_names_stay_apart_and_readable(jpeg: Path, tmp_path: Path) -> None:
    gif = tmp_path / "a.gif"
    Image.new("RGB", (64, 48)).save(gif)
    wished = ["a.jpg", "a.png", "b/a.jpg", "images/x.jpg", "tab\t.jpg", "photo", "classes.jpg"]
    images = [make_image(jpeg, number, name=name) for number, name in enumerate(wished, start=1)]
    images.append(make_image(gif, 8, name="film.gif"))
    assert write(tmp_path / "out", images, names=NAMES) == {
        "name of an image file": 5,
        "image of a format Ultralytics does not read": 1,
    }
    found = {image.image_id: image.file_name for image in read(tmp_path / "out").images()}
    assert found == {
        1: "a.jpg",
        2: "a_2.png",
        3: "b/a.jpg",
        4: "x.jpg",
        5: "tab_.jpg",
        6: "photo.jpg",
        7: "classes_7.jpg",
        8: "film.gif",
    }


def test_what_is_written_can_be_read(jpeg: Path, tmp_path: Path) -> None:
    wished = {2**63 - 1: "./a.jpg", -(2**62): "sub//./e.jpg", 3: "a.jpg"}
    images = [make_image(jpeg, number, name=name) for number, name in wished.items()]
    assert write(tmp_path, images, names=NAMES) == {"name of an image file": 3}
    assert {image.image_id: image.file_name for image in read(tmp_path).images()} == {
        2**63 - 1: "a.jpg",
        -(2**62): "sub/e.jpg",
        3: "a_3.jpg",
    }


@pytest.mark.parametrize("name", ["a\x07", "a\nb", "a\tb", "\x7f", "\x85", "\ud800"])
def test_class_names_that_readers_refuse_are_not_written(
    jpeg: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(
        InputError, match=r"category 17 \('.*'\): YOLO names its classes by text wi"
    ):
        write(tmp_path, [make_image(jpeg, 1)], names={1: "person", 17: name})
    assert not (tmp_path / "data.yaml").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), max_size=5))
def test_other_class_names_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.yaml"
    path.unlink(missing_ok=True)
    write_classes(path, {3: name}, split="train")
    assert load_classes(path).category_names == {3: name}


def test_what_is_lost_is_counted(jpeg: Path, tmp_path: Path) -> None:
    boxes = (
        AnnotatedBox(1, 17, (0, 0, 64, 48), crowd=True),
        AnnotatedBox(2, 17, (float("nan"), 0, 4, 4)),
        AnnotatedBox(3, 17, (60, 0, -4, 4)),
        AnnotatedBox(4, 17, (0, 0, 66, 48)),
        AnnotatedBox(5, 17, (-0.1, 0, 64.2, 48), area=9.0, extra={"segmentation": []}),
        AnnotatedBox(6, 17, (0, 0, 4, 4), area=16),
    )
    assert write(tmp_path, [make_image(jpeg, 1, boxes)], names=NAMES) == {
        "crowd box": 1,
        "box outside its image, or not of numbers": 3,
        "box id": 2,
        "area that is not width x height": 1,
        "segmentation of a box": 1,
    }
    (image,) = read(tmp_path).images()
    assert [box.box_xywh for box in image.boxes] == [(-0.1, 0, 64.2, 48), (0, 0, 4, 4)]


def test_a_second_split_must_have_the_same_classes(jpeg: Path, tmp_path: Path) -> None:
    write(tmp_path, [make_image(jpeg, 1)], names=NAMES)
    with pytest.raises(InputError, match="names other classes than this split"):
        write(tmp_path, [make_image(jpeg, 1)], names={1: "person"}, split="val2017")


def test_an_image_annotated_before_its_orientation_is_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = tmp_path / "turned.jpg"
    Image.new("RGB", (64, 48)).save(turned, exif=exif)
    seen = AnnotatedImage(2, "b.jpg", ImageFile(turned), (64, 48), ())
    boxes = (AnnotatedBox(1, 17, (0, 0, 4, 4)), AnnotatedBox(2, 17, (0, 0, 4, 4), crowd=True))
    lost = write(tmp_path / "out", [make_image(turned, 1, boxes), seen], names=NAMES)
    assert lost == {
        "image of another size than annotated": 1,
        "box of an image of another size than annotated": 2,
    }
    assert [image.image_id for image in read(tmp_path / "out").images()] == [2]


def test_an_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"a\.jpg: not an image of a known format"):
        write(tmp_path / "out", [make_image(tmp_path / "a.jpg", 1)], names=NAMES)
