"""What a conversion says of what it lost: by the reader, by infinite numbers, by rounding."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from suite.data.converting import Conversion, ConversionOptions, convert
from suite.data.formats import Format, Location, open_annotated

NOT_FINITE = "box with a coordinate that is not finite"


def put_coco(
    root: Path, boxes: list[dict[str, Any]], *, file_name: str = "a.jpg", **others: Any
) -> Location:
    """Write a COCO set of one image of 64 x 48 pixels."""
    path = root / "images" / file_name
    path.parent.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(path)
    document = {
        "images": [{"id": 1, "file_name": file_name, "width": 64, "height": 48}],
        "annotations": [{"image_id": 1, "category_id": 1, **box} for box in boxes],
        "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}],
        **others,
    }
    (root / "train.json").write_text(json.dumps(document))
    return Location(format="coco", annotations=root / "train.json", images=root / "images")


def change(
    source: Location, to: Format, output: Path, options: ConversionOptions | None = None
) -> Conversion:
    options = options or ConversionOptions(num_shards=1)
    return convert({"train": source}, to=to, output=output, options=options)


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "tfrecord"])
def test_what_the_reader_has_no_place_for_is_counted(tmp_path: Path, to: Format) -> None:
    box = {"bbox": [1, 1, 2, 2], "iscrowd": 1}
    source = put_coco(tmp_path / "set", [box], info={"year": 2017}, licenses=[{"id": 1}])
    done = change(source, to, tmp_path / "new")
    by_writer = {"crowd box": 1} if to == "yolo" else {}
    assert done.splits["train"].not_carried == {
        "info of the data set": 1,
        "licenses of the data set": 1,
        "supercategory of a category": 1,
        **by_writer,
    }
    stored = json.loads((tmp_path / "new" / "conversion.json").read_text())
    assert stored["splits"]["train"]["not_carried"] == done.splits["train"].not_carried


def test_what_a_voc_file_says_of_an_image_is_counted(tmp_path: Path) -> None:
    source = put_coco(tmp_path / "set", [{"bbox": [1, 1, 2, 2]}])
    change(source, "voc", tmp_path / "voc")
    path = tmp_path / "voc" / "Annotations" / "a.xml"
    parts = "<part><name>head</name></part><part><name>tail</name></part></object>"
    text = path.read_text().replace("</object>", parts)
    path.write_text(text.replace("<size>", "<owner><name>x</name></owner><size>"))
    voc = Location(format="voc", annotations=tmp_path / "voc" / "ImageSets" / "Main" / "train.txt")
    assert change(voc, "coco", tmp_path / "new").splits["train"].not_carried == {
        "owner of an image": 1,
        "part of a box, all but the last": 1,
    }


@pytest.mark.parametrize("file_name", ["./a.jpg", "sub/.//a.jpg", "./" * 40 + "a.jpg"])
def test_left_images_start_from_the_folder_of_the_source(tmp_path: Path, file_name: str) -> None:
    source = put_coco(tmp_path / "set", [], file_name=file_name)
    leave = ConversionOptions(images="leave")
    done = change(source, "coco", tmp_path / "new", leave)
    assert done.splits["train"].images_left_in == str(tmp_path / "set" / "images")


def test_left_images_of_voc_start_from_its_folder(tmp_path: Path) -> None:
    boxes = [{"bbox": [1, 1, 2, 2]}]
    change(put_coco(tmp_path / "set", boxes, file_name="b/a.jpg"), "voc", tmp_path / "voc")
    voc = Location(format="voc", annotations=tmp_path / "voc" / "ImageSets" / "Main" / "train.txt")
    done = change(voc, "coco", tmp_path / "new", ConversionOptions(images="leave"))
    assert done.splits["train"].images_left_in == str(tmp_path / "voc" / "JPEGImages")


HUGE = {
    "area": [1, 1, 1e200, 1e200],
    "right": [1e308, 1, 1e308, 1],
    "left": [-1.7e308, 1, -1.7e308, 1],
    "bottom": [1, 1e308, 0, 1e308],
}


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "tfrecord"])
@pytest.mark.parametrize("bbox", HUGE.values(), ids=HUGE)
def test_no_infinite_number_is_written(tmp_path: Path, to: Format, bbox: list[float]) -> None:
    source = put_coco(tmp_path / "set", [{"bbox": bbox}, {"bbox": [1, 1, 2, 2]}])
    done = change(source, to, tmp_path / "new").splits["train"]
    assert done.not_carried == {"supercategory of a category": 1, NOT_FINITE: 1}
    assert done.num_boxes == 2
    if to == "coco":
        text = (tmp_path / "new" / "annotations" / "instances_train.json").read_text()
        assert "Infinity" not in text
        assert len(json.loads(text)["annotations"]) == 1


@pytest.mark.parametrize(
    "box",
    [
        {"bbox": [1e200, 1, 1, 1]},
        {"bbox": [1, 1, 1e20, 1e20]},
        {"bbox": [3e38, 1, 3e38, 1e-38]},
        {"bbox": [1, 1, 2, 2], "area": 1e39},
    ],
)
def test_numbers_beyond_float32_do_not_go_into_records(tmp_path: Path, box: dict[str, Any]) -> None:
    source = put_coco(tmp_path / "set", [box])
    records = change(source, "tfrecord", tmp_path / "records").splits["train"]
    assert records.not_carried[NOT_FINITE] == 1
    assert NOT_FINITE not in change(source, "coco", tmp_path / "new").splits["train"].not_carried


def test_boxes_of_left_out_images_add_up(tmp_path: Path) -> None:
    source = put_coco(tmp_path / "set", [{"bbox": [1, 1, 2, 2]}] * 3)
    text = source.annotations.read_text().replace('"width": 64', '"width": 60')
    source.annotations.write_text(text)
    done = change(source, "yolo", tmp_path / "new").splits["train"]
    assert (done.num_images, done.num_boxes) == (1, 3)
    assert Counter(done.not_carried) - Counter({"supercategory of a category": 1}) == {
        "image of another size than annotated": 1,
        "box of an image of another size than annotated": 3,
    }


def test_the_rounding_is_that_of_reading_and_of_writing(tmp_path: Path) -> None:
    box = {"bbox": [1.2345678, 1, 2, 2], "area": 4}
    change(put_coco(tmp_path / "set", [box]), "tfrecord", tmp_path / "records")
    records = Location(format="tfrecord", annotations=tmp_path / "records" / "train*")
    done = change(records, "coco", tmp_path / "new")
    assert done.rounding == (
        "read from tfrecord: boxes to 0.001 pixels, areas to six digits; "
        "written to coco: no rounding"
    )
    written = Location(
        format="coco",
        annotations=tmp_path / "new" / "annotations" / "instances_train.json",
        images=tmp_path / "new" / "train",
    )
    (image,) = open_annotated(written).images()
    assert image.boxes[0].box_xywh == (1.235, 1, 2, 2)
