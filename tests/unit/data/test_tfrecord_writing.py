"""TFRecord files that the suite writes: the way back, names of files, what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.destination import Destination
from suite.data.formats.label_map import LabelMap, load_label_map
from suite.data.formats.tfrecord import read_tfrecord
from suite.data.formats.tfrecord_writing import write_tfrecord
from suite.data.sample import ImageFile
from suite.errors import InputError, UsageError

CATS = LabelMap({17: "cat", 18: "dog"}, {"cat": 17, "dog": 18})


def read(pattern: Path, label_map: LabelMap) -> list[AnnotatedImage]:
    return list(read_tfrecord(pattern, label_map=label_map).images())


def make_set(images: list[AnnotatedImage], names: Mapping[int, str]) -> AnnotatedSet:
    return AnnotatedSet(names, len(images), lambda: iter(images), "")


def make_image(
    file: Path, image_id: int = 1, boxes: tuple[AnnotatedBox, ...] = (), name: str = ""
) -> AnnotatedImage:
    return AnnotatedImage(image_id, name or f"{image_id}.jpg", ImageFile(file), (48, 64), boxes)


CENTS = st.integers(-300, 9000).map(lambda cents: cents / 100)
PIXELS = st.integers(-3, 90).map(float)
BOXES = st.lists(
    st.builds(
        AnnotatedBox,
        box_id=st.just(0),
        category_id=st.sampled_from([17, 18]),
        box_xywh=st.tuples(CENTS, CENTS, CENTS, CENTS) | st.tuples(PIXELS, PIXELS, PIXELS, PIXELS),
        crowd=st.booleans(),
    ),
    max_size=5,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=st.lists(BOXES, min_size=1, max_size=5),
    ids=st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=5, max_size=5, unique=True),
    num_shards=st.integers(1, 7),
)
def test_a_round_trip_is_identity(
    jpeg: Path,
    tmp_path_factory: pytest.TempPathFactory,
    boxes: list[list[AnnotatedBox]],
    ids: list[int],
    num_shards: int,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    images = [
        make_image(jpeg, image_id, tuple(each), name=f"in/{image_id}.jpg")
        for image_id, each in zip(ids, boxes, strict=False)
    ]
    destination = Destination(folder=folder, split="train2017", num_shards=num_shards)
    lost = write_tfrecord(make_set(images, CATS.category_names), destination)
    assert lost == Counter()
    label_map = load_label_map(folder / "label_map.pbtxt")
    annotated = read_tfrecord(folder / "train2017*", label_map=label_map)
    assert annotated.category_names == CATS.category_names
    assert annotated.num_images == len(images)
    found = {image.image_id: image for image in annotated.images()}
    for image in images:
        again = found[image.image_id]
        assert (again.file_name, again.image_hw) == (image.file_name, image.image_hw)
        assert again.boxes == image.boxes
        assert again.image.read() == jpeg.read_bytes()


def test_areas_and_finer_boxes_are_rounded_as_stated(jpeg: Path, tmp_path: Path) -> None:
    finer = AnnotatedBox(0, 17, (1.23456, 2.0, 3.00049, 4.0), area=702.105)
    plain = AnnotatedBox(0, 18, (1.0, 2.0, 3.0, 4.0))
    images = [make_image(jpeg, 1, (finer, plain)), make_image(jpeg, 2, (plain,))]
    write_tfrecord(
        make_set(images, CATS.category_names), Destination(folder=tmp_path, split="a", num_shards=1)
    )
    first, second = read(tmp_path / "a*", CATS)
    assert first.boxes[0] == AnnotatedBox(0, 17, (1.235, 2.0, 3.0, 4.0), area=702.105)
    assert (first.boxes[1].area, second.boxes[0].area) == (12.0, None)


def test_records_go_to_the_files_in_turn(jpeg: Path, tmp_path: Path) -> None:
    images = [make_image(jpeg, number) for number in (1, 2, 3)]
    destination = Destination(folder=tmp_path, split="val", num_shards=2)
    write_tfrecord(make_set(images, CATS.category_names), destination)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "label_map.pbtxt",
        "val-00000-of-00002.tfrecord",
        "val-00001-of-00002.tfrecord",
    ]
    assert [image.image_id for image in read(tmp_path / "val*", CATS)] == [1, 3, 2]


def test_what_is_lost_is_counted(jpeg: Path, tmp_path: Path) -> None:
    webp = tmp_path / "b.webp"
    Image.new("RGB", (64, 48)).save(webp)
    box = AnnotatedBox(7, 0, (1, 2, 3, 4), extra={"segmentation": [[1, 2, 3]]})
    images = [make_image(jpeg, 1, (box, box)), make_image(webp, 2)]
    destination = Destination(folder=tmp_path / "out", split="val", num_shards=1)
    assert write_tfrecord(make_set(images, {0: "cat"}), destination) == {
        "box id": 2,
        "segmentation of a box": 2,
        "image of a format TensorFlow does not decode": 1,
        "category id 0, which TensorFlow keeps for the background": 1,
    }
    _, second = read(tmp_path / "out" / "val*", LabelMap({0: "cat"}, {"cat": 0}))
    assert second.image.read() == webp.read_bytes()


def test_numbers_that_are_none_pass_as_they_are(jpeg: Path, tmp_path: Path) -> None:
    box = AnnotatedBox(0, 17, (float("nan"), 1.0, float("inf"), 2.0))
    destination = Destination(folder=tmp_path, split="a", num_shards=1)
    write_tfrecord(make_set([make_image(jpeg, 1, (box,))], {17: "cat"}), destination)
    x, y, width, height = read(tmp_path / "a*", CATS)[0].boxes[0].box_xywh
    assert np.isnan([x, width]).all()
    assert (y, height) == (1.0, 2.0)


def test_a_second_split_must_have_the_same_classes(jpeg: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        destination = Destination(folder=tmp_path, split=split, num_shards=1)
        write_tfrecord(make_set([make_image(jpeg)], {17: "cat"}), destination)
    with pytest.raises(InputError, match="holds other categories than this split"):
        write_tfrecord(
            make_set([make_image(jpeg)], {17: "dog"}), Destination(folder=tmp_path, split="test")
        )


@pytest.mark.parametrize("num_shards", [0, 513])
def test_number_of_shards(jpeg: Path, tmp_path: Path, num_shards: int) -> None:
    destination = Destination(folder=tmp_path, split="a", num_shards=num_shards)
    with pytest.raises(UsageError, match=f"from 1 to 512 files, got {num_shards}"):
        write_tfrecord(make_set([make_image(jpeg)], {17: "cat"}), destination)
