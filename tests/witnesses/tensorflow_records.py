"""Read and write TFRecord files of detection examples with a real TensorFlow.

    tf/bin/python tests/witnesses/tensorflow_records.py read 'FOLDER/train*' > what.json
    tf/bin/python tests/witnesses/tensorflow_records.py write FOLDER IMAGE

`read` checks nothing: it says what TensorFlow finds, one JSON object for each record. `write` makes
two files of five records, and `written.json` says what is in them.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

ONE = {
    "image/height": tf.int64,
    "image/width": tf.int64,
    "image/filename": tf.string,
    "image/source_id": tf.string,
    "image/key/sha256": tf.string,
    "image/encoded": tf.string,
    "image/format": tf.string,
}
MANY = {
    **{f"image/object/bbox/{side}": tf.float32 for side in ("xmin", "xmax", "ymin", "ymax")},
    "image/object/class/text": tf.string,
    "image/object/class/label": tf.int64,
    "image/object/is_crowd": tf.int64,
    "image/object/area": tf.float32,
}


def read(pattern: str) -> list[dict[str, Any]]:
    """Return what each record holds; the image as the shape and mean of its pixels."""
    files = tf.data.Dataset.list_files(pattern, shuffle=False)
    spec: dict[str, Any] = {key: tf.io.FixedLenFeature([], kind) for key, kind in ONE.items()}
    spec |= {key: tf.io.RaggedFeature(kind) for key, kind in MANY.items()}
    found = []
    for batch in tf.data.TFRecordDataset(files).batch(4):
        columns = tf.io.parse_example(batch, spec)
        for index in range(len(batch)):
            record = {key: _plain(column[index].numpy()) for key, column in columns.items()}
            encoded = columns["image/encoded"][index]
            is_jpeg = record["image/format"] == "jpeg"
            pixels = _decode_jpeg(encoded) if is_jpeg else tf.io.decode_png(encoded)
            record["image/encoded"] = len(encoded.numpy())
            record["shape"] = list(pixels.shape)
            record["mean"] = float(tf.reduce_mean(tf.cast(pixels, tf.float32)))
            found.append(record)
    return found


def _decode_jpeg(encoded: Any) -> Any:
    # As exactly as it can: its default is quicker and a unit or so off.
    return tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    plain = value.tolist()
    if isinstance(plain, list):
        return [_plain(item) if isinstance(item, bytes) else item for item in plain]
    return plain


def write(folder: Path, image: Path) -> None:
    """Write records of boxes in hundredths of a pixel; every other one lacks what it may."""
    content = image.read_bytes()
    height, width, _ = tf.io.decode_jpeg(content).shape
    draw = random.Random(0)
    written = []
    for shard in range(2):
        name = f"tf-{shard:05d}-of-00002.record"
        with tf.io.TFRecordWriter(str(folder / name)) as file:
            for number in range(5):
                boxes = [_draw_box(draw, width, height) for _ in range(number)]
                image_id = 1000 * shard + number
                written.append({"image_id": image_id, "boxes": boxes})
                features = _describe(boxes, width, height)
                features["image/encoded"] = _feature("bytes", [content])
                features["image/source_id"] = _feature("bytes", [str(image_id).encode()])
                if number % 2:
                    features["image/height"] = _feature("int64", [height])
                    features["image/width"] = _feature("int64", [width])
                    features["image/filename"] = _feature("bytes", [f"{image_id}.jpg".encode()])
                example = tf.train.Example(features=tf.train.Features(feature=features))
                file.write(example.SerializeToString())
    (folder / "written.json").write_text(json.dumps(written))


def _draw_box(draw: random.Random, width: int, height: int) -> dict[str, Any]:
    x0, x1 = sorted(draw.sample(range(width * 100), 2))
    y0, y1 = sorted(draw.sample(range(height * 100), 2))
    label = draw.choice([1, 17, 90])
    return {"xyxy": [x0 / 100, y0 / 100, x1 / 100, y1 / 100], "label": label, "crowd": x0 % 2}


def _describe(boxes: list[dict[str, Any]], width: int, height: int) -> dict[str, Any]:
    features = {
        "class/label": _feature("int64", [box["label"] for box in boxes]),
        "class/text": _feature("bytes", [f"class {box['label']}".encode() for box in boxes]),
        "is_crowd": _feature("int64", [box["crowd"] for box in boxes]),
    }
    for index, side in enumerate(("xmin", "ymin", "xmax", "ymax")):
        extent = height if index % 2 else width
        values = [box["xyxy"][index] / extent for box in boxes]
        features[f"bbox/{side}"] = _feature("float", values)
    return {f"image/object/{key}": feature for key, feature in features.items()} if boxes else {}


def _feature(kind: str, values: list[Any]) -> Any:
    if kind == "bytes":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if kind == "float":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


if __name__ == "__main__":
    if sys.argv[1] == "read":
        print(json.dumps(read(sys.argv[2])))
    else:
        write(Path(sys.argv[2]), Path(sys.argv[3]))
