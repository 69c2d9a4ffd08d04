"""The small graph of ours, rewritten into the layouts of other tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from suite.data.transforms import MEAN, STD

Change = Callable[[onnx.ModelProto], None]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def append(
    *nodes: onnx.NodeProto, outputs: Sequence[onnx.ValueInfoProto], **weights: Any
) -> Change:
    """Add nodes behind a graph, whose outputs become these."""

    def change(model: onnx.ModelProto) -> None:
        store(model, **weights)
        model.graph.node.extend(nodes)
        del model.graph.output[:]
        model.graph.output.extend(outputs)

    return change


def prepend(*nodes: onnx.NodeProto, dims: Sequence[Any] = (), **weights: Any) -> Change:
    """Put nodes that lead from `given` to `images` before a graph, whose input is `given` then."""

    def change(model: onnx.ModelProto) -> None:
        store(model, **weights)
        for place, node in enumerate(nodes):
            model.graph.node.insert(place, node)
        dims_ = dims or ("batch", 3, 300, 300)
        model.graph.input[0].CopyFrom(make_tensor_value_info("given", FLOAT, dims_))

    return change


def store(model: onnx.ModelProto, **weights: Any) -> None:
    for name, value in weights.items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))


def of_mmdeploy(*nodes: onnx.NodeProto, labels: str = "labels", **weights: Any) -> Change:
    return append(
        *nodes,
        make_node("Unsqueeze", ["scores", "last"], ["column"]),
        make_node("Concat", ["boxes", "column"], ["dets"], axis=-1),
        outputs=[
            make_tensor_value_info("dets", FLOAT, ["batch", 200, 5]),
            make_tensor_value_info(labels, INT64, ["batch", 200]),
        ],
        last=np.array([-1]),
        **weights,
    )


def of_ultralytics(*nodes: onnx.NodeProto, boxes: str = "boxes", **weights: Any) -> Change:
    return append(
        *nodes,
        make_node("Unsqueeze", ["scores", "last"], ["column"]),
        make_node("Cast", ["labels"], ["classes"], to=FLOAT),
        make_node("Unsqueeze", ["classes", "last"], ["class_column"]),
        make_node("Concat", [boxes, "column", "class_column"], ["output0"], axis=-1),
        outputs=[make_tensor_value_info("output0", FLOAT, ["batch", 200, 6])],
        last=np.array([-1]),
        **weights,
    )


def of_torchvision(shift: int = 1) -> Change:
    """Ragged, labels from 1, of one image [3,H,W] with values from 0 to 1."""
    cuts = [
        node
        for name, kept in (("boxes", "b"), ("scores", "s"), ("shifted", "l"))
        for node in (
            make_node("Squeeze", [name, "first"], [f"{kept}_rows"]),
            make_node("Slice", [f"{kept}_rows", "first", "num_dets", "first"], [f"cut_{kept}"]),
        )
    ]
    behind = append(
        make_node("Add", ["labels", "shift"], ["shifted"]),
        *cuts,
        outputs=[
            make_tensor_value_info("cut_b", FLOAT, ["found", 4]),
            make_tensor_value_info("cut_l", INT64, ["found"]),
            make_tensor_value_info("cut_s", FLOAT, ["found"]),
        ],
        first=np.array([0]),
        shift=np.array([shift]),
    )
    before = prepend(
        make_node("Sub", ["given", "mean"], ["centred"]),
        make_node("Div", ["centred", "std"], ["normalised"]),
        make_node("Unsqueeze", ["normalised", "first"], ["images"]),
        dims=(3, 300, 300),
        mean=MEAN[:, None, None],
        std=STD[:, None, None],
    )

    def change(model: onnx.ModelProto) -> None:
        before(model)
        behind(model)

    return change


def normalising(mean: Any = MEAN, std: Any = STD) -> Change:
    return prepend(
        make_node("Sub", ["given", "mean"], ["centred"]),
        make_node("Div", ["centred", "std"], ["images"]),
        mean=np.broadcast_to(mean, 3)[:, None, None],
        std=np.broadcast_to(std, 3)[:, None, None],
    )


def swapping() -> Change:
    return prepend(make_node("Gather", ["given", "order"], ["images"], axis=1), order=[2, 1, 0])
