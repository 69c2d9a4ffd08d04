"""The smallest files that each loader accepts, to be damaged."""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import TensorProto, helper

NUM_ROWS = 4
_METADATA: dict[str, Any] = {
    "schema": "suite.graph/3",
    "detector": "ssd_r34",
    "width": 0.125,
    "num_classes": 2,
    "num_logits": 3,
    "class_names": ["ball", "brick"],
    "category_ids": [1, 2],
    "image_hw": [32, 32],
    "batch": 0,
    "min_side": 32,
    "resize": {"mode": "stretch", "short_side": 32, "long_side": 32},
    "input": {
        "name": "images",
        "layout": "NCHW",
        "dtype": "float32",
        "colour": "RGB",
        "scale": 0.00392156862745098,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "resize": "bilinear",
    },
    "outputs": "boxes, scores, labels and how many there are",
    "postprocess": {
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "max_detections": NUM_ROWS,
        "pre_topk": 8,
    },
    "nms": "op",
    "runtime_thresholds": False,
    "precision": "fp32",
    "calibration": None,
    "target": "ort",
    "opset": 18,
    "ir_version": 8,
    "recipe": "tiny",
    "recipe_digest": "0" * 64,
    "dataset": "generated",
    "checkpoint_sha256": "1" * 64,
    "step": 1,
    "software": {"suite": "0.1.0", "torch": "2.13.0", "onnx": "1.23.2"},
}

RECIPE = "recipes/demo.yaml"

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}],
    "annotations": [
        {"id": 5, "image_id": 1, "category_id": 7, "bbox": [1, 2.5, 10, 20], "area": 200.0,
         "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 22]]},
    ],
    "categories": [{"id": 7, "name": "ball", "supercategory": "toy"}],
}  # fmt: skip

VOC = """<annotation><folder>VOC</folder><filename>a.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>ball</name><difficult>0</difficult><part><name>x</name></part>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11.5</xmax><ymax>22</ymax></bndbox></object>
</annotation>"""


def build_graph() -> onnx.ModelProto:
    """Return a graph that looks at its images and finds nothing."""
    batch, side, rows = "batch", 32, NUM_ROWS
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["logits"], kernel_shape=[1, 1]),
        helper.make_node("Shape", ["images"], ["num_images"], start=0, end=1),
        helper.make_node("Concat", ["num_images", "rows"], ["rows_shape"], axis=0),
        helper.make_node("Concat", ["rows_shape", "four"], ["boxes_shape"], axis=0),
        helper.make_node("Expand", ["zero", "boxes_shape"], ["boxes"]),
        helper.make_node("Expand", ["zero", "rows_shape"], ["scores"]),
        helper.make_node("Expand", ["none", "rows_shape"], ["labels"]),
        helper.make_node("Sub", ["num_images", "num_images"], ["nothing"]),
        helper.make_node("Expand", ["nothing", "num_images"], ["num_dets"]),
    ]
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [declare("images", TensorProto.FLOAT, [batch, 3, side, side])],
        [
            declare("boxes", TensorProto.FLOAT, [batch, rows, 4]),
            declare("scores", TensorProto.FLOAT, [batch, rows]),
            declare("labels", TensorProto.INT64, [batch, rows]),
            declare("num_dets", TensorProto.INT64, [batch]),
        ],
        [
            helper.make_tensor("kernel", TensorProto.FLOAT, [2, 3, 1, 1], [0.5] * 6),
            helper.make_tensor("rows", TensorProto.INT64, [1], [rows]),
            helper.make_tensor("four", TensorProto.INT64, [1], [4]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("none", TensorProto.INT64, [1], [-1]),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {key: json.dumps(value) for key, value in _METADATA.items()})
    return model


def build_sidecar(sha256: str) -> dict[str, Any]:
    """Return what stands beside a graph of this digest."""
    parity = {"logits": 1e-6, "deltas": 1e-7, "detections": 3, "paired": 3, "metadata": []}
    return {**_METADATA, "sha256": sha256, "parity": parity}
