"""The sizes told of a graph's values are those that ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from suite.deploy.description import OPSETS
from suite.graph_file import IMAGE_NAMES, load_graph
from suite.graph_shapes import OWN_OPERATORS, OWN_OPSETS, NoShapes, infer_shapes
from suite.graph_sizes import find_sizes

Node = tuple[str, str, dict[str, int]]

HW = (40, 64)
NUMBERS = {"one": [1], "two": [2], "seven": [7], "many": [9, 5], "first": [0], "minus": [-1]}


def build(*nodes: Node) -> onnx.ModelProto:
    """Build a graph of nodes (operator, inputs, attributes), each called by its number.

    The last is the shape of `filled`.
    """
    made = [
        helper.make_node(op_type, inputs.split(), [str(number)], **attributes)
        for number, (op_type, inputs, attributes) in enumerate(nodes)
    ]
    made.append(helper.make_node("Expand", ["zero", str(len(nodes) - 1)], ["filled"]))
    stored = [helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])]
    for name, numbers in NUMBERS.items():
        stored.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    filled = helper.make_tensor_value_info("filled", TensorProto.FLOAT, None)
    graph = helper.make_graph(made, "g", [images], [filled], stored)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])


def run(model: onnx.ModelProto, images: np.ndarray, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the shapes of values that are computed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.shape(output) for output in session.run(list(names), {"images": images})]


SIDES: Node = ("Shape", "images", {"start": 2, "end": 4})
COMPUTED: dict[str, list[Node]] = {
    "whole shape": [("Shape", "images", {})],
    "sides": [SIDES],
    "from the end": [("Shape", "images", {"start": -1})],
    "sum": [SIDES, ("Add", "0 many", {})],
    "difference": [SIDES, ("Sub", "0 many", {})],
    "product": [SIDES, ("Mul", "0 two", {})],
    "quotient": [SIDES, ("Div", "0 seven", {})],
    # -7 / 2 is -3 in ONNX: 3 + 9 and so on, and not the floor.
    "towards zero": [
        SIDES,
        ("Sub", "first seven", {}),
        ("Div", "1 two", {}),
        ("Add", "2 many", {}),
    ],
    "larger": [SIDES, ("Max", "0 many", {})],
    "smaller": [SIDES, ("Min", "0 many", {})],
    "side by side": [SIDES, ("Concat", "0 many one", {"axis": 0})],
    "reshaped": [SIDES, ("Reshape", "0 minus", {})],
    "scalar and back": [
        ("Shape", "images", {"start": 2, "end": 3}),
        ("Squeeze", "0", {}),
        ("Unsqueeze", "1 first", {}),
    ],
    "cast": [SIDES, ("Cast", "0", {"to": TensorProto.INT32}),
             ("Cast", "1", {"to": TensorProto.INT64})],
    "of what was filled": [SIDES, ("Div", "0 seven", {}), ("Expand", "zero 1", {}),
                           ("Shape", "2", {})],
    "of counted up": [
        ("Shape", "images", {"start": 2, "end": 3}),
        ("Div", "0 seven", {}),
        ("Squeeze", "1", {}),
        ("Squeeze", "first", {}),
        ("Squeeze", "one", {}),
        ("Range", "3 2 4", {}),
        ("Shape", "5", {}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_sizes_that_are_computed_of_the_images_are_told(name: str) -> None:
    model = build(*COMPUTED[name])
    sizes = find_sizes(model, HW, images=["images"])
    assert [sizes["filled"]] == run(model, np.zeros((1, 3, *HW), np.float32), ["filled"])


@pytest.mark.parametrize(
    "nodes",
    [
        [SIDES, ("Div", "0 first", {})],  # by zero
        [("Cast", "zero", {"to": TensorProto.INT64})],  # of a real number
        [("Concat", " ".join(["many"] * 2000), {"axis": 0})],  # of more than a size has
    ],
)
def test_what_cannot_be_told_is_left_out(nodes: list[Node]) -> None:
    assert "filled" not in find_sizes(build(*nodes), HW, images=["images"])


def test_operators_that_cannot_work_are_refused() -> None:
    model = build(SIDES)
    model.graph.node.append(helper.make_node("Add", ["many", "three"], ["sum"]))
    model.graph.initializer.append(helper.make_tensor("three", TensorProto.INT64, [3], [1] * 3))
    with pytest.raises(NoShapes, match="Add"):
        find_sizes(model, HW, images=["images"])
    assert infer_shapes(model, HW, images=["images"])["images"] == (1, 3, *HW)


def check_every_value(path: Path, images_hw: tuple[int, int]) -> None:
    model = load_graph(path).model
    sizes = find_sizes(model, images_hw, images=IMAGE_NAMES)
    names = [name for node in model.graph.node for name in node.output if name]
    assert set(names) <= sizes.keys()
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred}
    declared = {value.name for value in model.graph.output}
    for name in names:
        if name not in declared:
            output = model.graph.output.add(name=name)
            output.type.tensor_type.elem_type = kinds[name]
    rng = np.random.default_rng(0)
    computed = run(model, rng.normal(size=(1, 3, *images_hw)).astype(np.float32), names)
    for name, shape in zip(names, computed, strict=True):
        told = sizes[name]
        assert len(told) == len(shape)
        # How many boxes are selected is for the pixels to say.
        if told != shape:
            assert all(side <= most for side, most in zip(shape, told, strict=True)), name
    differing = [name for name, shape in zip(names, computed, strict=True) if sizes[name] != shape]
    assert len(differing) <= 3


def test_every_value_of_an_export_is_told(small_graph: Path) -> None:
    check_every_value(small_graph, (300, 300))


@pytest.mark.slow
def test_every_value_of_an_export_of_any_size_is_told(small_retinanet_graph: Path) -> None:
    check_every_value(small_retinanet_graph, (96, 160))


def test_the_versions_and_operators_are_those_of_exports(small_graph: Path) -> None:
    assert OWN_OPSETS == OPSETS
    assert {node.op_type for node in onnx.load(small_graph).graph.node} < OWN_OPERATORS
