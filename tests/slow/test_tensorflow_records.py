"""TFRecord files that we write, read by TensorFlow itself, and those that it writes, read by us."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.destination import Destination
from suite.data.formats.tfrecord import read_tfrecord
from suite.data.formats.tfrecord_writing import write_tfrecord
from suite.data.images import read_image
from suite.data.sample import ImageFile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SCRIPT = Path(__file__).resolve().parents[1] / "witnesses" / "tensorflow_records.py"
NAMES = {1: "person", 17: "cat", 90: "日本語"}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A JPEG and a PNG file of 80 x 60 pixels."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((80, 60))
    paths = [tmp_path / "a.jpg", tmp_path / "b.png"]
    for path in paths:
        image.save(path)
    return paths


def run(python: Path, *arguments: str | Path) -> str:
    done = subprocess.run([python, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tensorflow_reads_what_we_write(
    tensorflow_python: Path, photos: list[Path], tmp_path: Path
) -> None:
    boxes = (
        AnnotatedBox(0, 17, (1.25, 2.0, 30.5, 40.0), area=700.5),
        AnnotatedBox(0, 90, (0.0, 0.0, 80.0, 60.0), crowd=True),
    )
    images = [
        AnnotatedImage(number, f"{number}{path.suffix}", ImageFile(path), (60, 80), boxes[:count])
        for number, (path, count) in enumerate(zip(photos * 3, (0, 1, 2, 2, 0, 1), strict=True))
    ]
    annotated = AnnotatedSet(NAMES, len(images), lambda: iter(images), "")
    folder = tmp_path / "set"
    write_tfrecord(annotated, Destination(folder=folder, split="train2017", num_shards=4))

    found: list[dict[str, Any]] = json.loads(
        run(tensorflow_python, "read", folder / "train2017-*.tfrecord")
    )
    assert sorted(int(record["image/source_id"]) for record in found) == list(range(6))
    for record in found:
        image = images[int(record["image/source_id"])]
        content = image.image.read()
        assert record["image/encoded"] == len(content)
        assert record["image/key/sha256"] == hashlib.sha256(content).hexdigest()
        assert record["image/filename"] == image.file_name
        assert record["image/format"] == ("png" if image.file_name.endswith("png") else "jpeg")
        assert record["shape"] == [60, 80, 3]
        assert (record["image/height"], record["image/width"]) == (60, 80)
        assert record["mean"] == pytest.approx(read_image(image.image).mean(), abs=0.05)
        corners = [
            [record[f"image/object/bbox/{side}"] for side in pair]
            for pair in (("xmin", "ymin"), ("xmax", "ymax"))
        ]
        starts, ends = (np.array(pair).T * (80, 60) for pair in corners)
        expected = np.array([box.box_xywh for box in image.boxes]).reshape(-1, 4)
        assert np.hstack([starts, ends - starts]) == pytest.approx(expected, abs=1e-4)
        objects = {
            "class/text": [NAMES[box.category_id] for box in image.boxes],
            "class/label": [box.category_id for box in image.boxes],
            "is_crowd": [int(box.crowd) for box in image.boxes],
            "area": [700.5, 4800.0][: len(image.boxes)],
        }
        assert {key: record[f"image/object/{key}"] for key in objects} == objects


def test_we_read_what_tensorflow_writes(
    tensorflow_python: Path, photos: list[Path], tmp_path: Path
) -> None:
    run(tensorflow_python, "write", tmp_path, photos[0])
    annotated = read_tfrecord(tmp_path / "tf-*.record")
    assert annotated.category_names == {1: "class 1", 17: "class 17", 90: "class 90"}
    assert annotated.num_images == 10
    expected = json.loads((tmp_path / "written.json").read_text())
    for image, record in zip(annotated.images(), expected, strict=True):
        assert image.image_id == record["image_id"]
        assert image.image_hw == (60, 80)
        assert image.image.read() == photos[0].read_bytes()
        for box, stated in zip(image.boxes, record["boxes"], strict=True):
            x0, y0, x1, y1 = stated["xyxy"]
            assert box.box_xywh == (x0, y0, round(x1 - x0, 2), round(y1 - y0, 2))
            assert (box.category_id, box.crowd) == (stated["label"], bool(stated["crowd"]))
