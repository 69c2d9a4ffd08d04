"""`suite data convert` from the outside: what it prints and refuses, and the memory it takes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from suite.data.converting import ConversionOptions, convert
from suite.data.formats import Format, Location

Run = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One image with one box, category 90."""
    folder = tmp_path / "photos"
    put_many(folder, 1, keypoints=[1])
    return folder


def put_many(folder: Path, num_images: int, **extra: Any) -> Location:
    (folder / "images").mkdir(parents=True)
    for number in range(num_images):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{number}.jpg")
    images = [
        {"id": number + 1, "file_name": f"{number}.jpg", "height": 8, "width": 8}
        for number in range(num_images)
    ]
    boxes = [
        {"id": number + 1, "image_id": number + 1, "category_id": 90, "bbox": [1, 2, 3, 4], **extra}
        for number in range(num_images)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 90, "name": "dog"}]
    document = {"images": images, "annotations": boxes, "categories": categories}
    path = folder / "train.json"
    path.write_text(json.dumps(document))
    return Location(format="coco", annotations=path, images=folder / "images")


def test_the_map_and_what_was_lost_are_told(photos: Path, tmp_path: Path, run_suite: Run) -> None:
    where = ["--format", "coco", "--annotations", photos / "train.json",
             "--images", photos / "images", "--output", tmp_path / "new"]  # fmt: skip
    finished = run_suite("data", "convert", *where, "--to", "yolo")
    assert finished.code == 0, finished.stderr
    rounding = "rounding: read from coco: no rounding; written to yolo: boxes to within 1e-6 pixels"
    assert [line.split() for line in finished.stdout.splitlines()] == [
        ["source", "id", "yolo", "id", "name"],
        ["-----------", "---------", "------"],
        ["1", "0", "cat"],
        ["90", "1", "dog"],
        [],
        ["train:", "1", "images,", "1", "boxes"],
        ["not", "carried:", "box", "id:", "1"],
        ["not", "carried:", "keypoints", "of", "a", "box:", "1"],
        rounding.split(),
        [str(tmp_path / "new")],
    ]
    stored = json.loads((tmp_path / "new" / "conversion.json").read_text())
    assert stored["schema"] == "suite.conversion/1"
    assert stored["splits"]["train"]["not_carried"] == {"box id": 1, "keypoints of a box": 1}
    assert stored["categories"][1] == {"source_id": 90, "target_id": 1, "name": "dog"}
    again = run_suite("data", "convert", *where, "--to", "yolo")
    assert (again.code, again.stdout) == (2, "")
    assert "is there already" in again.stderr


def test_a_split_may_be_named(photos: Path, tmp_path: Path, run_suite: Run) -> None:
    where = ["--format", "coco", "--annotations", photos / "train.json",
             "--images", photos / "images", "--output", tmp_path / "new"]  # fmt: skip
    run_suite("data", "convert", *where, "--to", "voc", "--split", "val")
    assert (tmp_path / "new" / "ImageSets" / "Main" / "val.txt").read_text() == "0\n"


def test_a_recipe_is_converted_with_both_splits(tmp_path: Path, run_suite: Run) -> None:
    run_suite("data", "synth", tmp_path / "set", "--train", "3", "--val", "2")
    finished = run_suite("data", "convert", "demo", "--data", tmp_path / "set", "--to", "tfrecord",
                         "--output", tmp_path / "new", "--shards", "1", "--json")  # fmt: skip
    assert finished.code == 0, finished.stderr
    document = json.loads(finished.stdout)
    numbers = {name: split["num_images"] for name, split in document["splits"].items()}
    assert numbers == {"train": 3, "val": 2}
    pattern = ["--format", "tfrecord", "--annotations", tmp_path / "new" / "val*"]
    back = run_suite("data", "convert", *pattern, "--to", "coco", "--output", tmp_path / "back")
    assert back.code == 0, back.stderr
    assert "val: 2 images" in back.stdout
    annotations = json.loads((tmp_path / "back/annotations/instances_val.json").read_text())
    before = json.loads((tmp_path / "set/annotations/instances_val.json").read_text())
    for key in ("id", "name"):
        assert [item[key] for item in annotations["categories"]] == [
            item[key] for item in before["categories"]
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a recipe, or the data"),
        (["demo", "--annotations", "x"], "--annotations: a recipe says this itself"),
        (["demo", "--split", "x"], "--split: a recipe has two"),
        (["--format", "coco", "--annotations", "x"], "--format coco needs the folder"),
        (["--format", "voc", "--annotations", "x", "--data", "y"], "--data: it changes a recipe"),
        (["--format", "tfrecord", "--annotations", "x", "--images", "y"], "hold the images"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    run_suite: Run, arguments: list[str], message: str, tmp_path: Path
) -> None:
    finished = run_suite("data", "convert", *arguments, "--to", "voc", "--output", tmp_path / "x")
    assert finished.code == 2
    assert message in finished.stderr


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "tfrecord"])
def test_memory_does_not_grow_with_the_set(tmp_path: Path, to: Format, run_suite: Run) -> None:
    peaks = {}
    for num_images in (1, 20, 200):  # at the first, modules are imported
        folder = tmp_path / str(num_images)
        source = put_many(folder, num_images, segmentation=[[0.5] * 300])
        peaks[num_images] = measure_conversion(source, to, folder / "there")
        peaks[-num_images] = measure_conversion(locate(folder / "there", to), "coco", folder / "b")
    assert peaks[200] < peaks[20] + 100_000  # bytes; the lists of the larger document are 1.6 MB
    assert peaks[-200] < peaks[-20] + 100_000


def locate(root: Path, written: Format) -> Location:
    """Return where `convert` puts the split train."""
    return {
        "coco": Location(
            format="coco",
            annotations=root / "annotations" / "instances_train.json",
            images=root / "train",
        ),
        "voc": Location(format="voc", annotations=root / "ImageSets" / "Main" / "train.txt"),
        "yolo": Location(
            format="yolo", annotations=root / "labels" / "train", images=root / "images" / "train"
        ),
        "tfrecord": Location(format="tfrecord", annotations=root / "train*"),
    }[written]


def measure_conversion(source: Location, to: Format, output: Path) -> int:
    """Return the most memory that Python's objects took, bytes."""
    tracemalloc.start()
    try:
        options = ConversionOptions(num_shards=2)
        convert({"train": source}, to=to, output=output, options=options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
