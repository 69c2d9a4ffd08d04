"""Shape inference in this process bears whatever numbers our own operators are given.

More than the few examples of every run: SUITE_FUZZ_EXAMPLES=20000 .venv/bin/pytest tests/fuzz
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, defs, helper

from suite.graph_shapes import OWN_OPERATORS, OWN_OPSETS, NoShapes, infer_shapes, is_own
from suite.graph_sizes import find_sizes
from tests.fuzz.test_loaders import some

_SMALL = [0, 1, -1, 2, 3, -2, 4, 7, 10, 16, -16]
_LARGE = [0, 1, -1, 2, 3, -2, 2**31, 2**62, -(2**63), 2**63 - 1]
_SHAPES = [[], [1], [2, 3], [4, 3, 1, 1], [4], [0], [2, 0, 1, 1]]
_TEXTS = ["", "x", "SAME_UPPER", "VALID", "linear", "cubic", "floor"]
_KINDS: dict[int, st.SearchStrategy[Any]] = {
    onnx.AttributeProto.INT: st.sampled_from(_SMALL),
    onnx.AttributeProto.INTS: st.lists(st.sampled_from(_SMALL), max_size=4),
    onnx.AttributeProto.FLOAT: st.sampled_from([0.0, -1.0, 1e38, float("nan")]),
    onnx.AttributeProto.STRING: st.sampled_from(_TEXTS),
}


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """One operator, fed with images, their shape and any numbers; its answer is used as a shape."""
    opset = draw(st.sampled_from(OWN_OPSETS))
    schema = defs.get_schema(draw(st.sampled_from(sorted(OWN_OPERATORS))), opset)
    stored: list[onnx.TensorProto] = []
    fewest = schema.min_input
    count = draw(st.integers(fewest, min(schema.max_input, max(fewest, 4))) | st.integers(0, 5))
    inputs = [_draw_input(draw, stored) for _ in range(count)]
    outputs = draw(st.sampled_from([schema.min_output] * 3 + [0, 1, 2, 3]))
    node = helper.make_node(schema.name, inputs, [f"o{place}" for place in range(outputs)])
    for name, attribute in schema.attributes.items():
        kind = attribute.type.value
        if kind in _KINDS and (attribute.required or draw(st.booleans())):
            value = 0 if name == "batch_dims" else draw(_KINDS[kind])  # as `is_own` demands
            node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        node,
        helper.make_node("Reshape", ["images", "o0"], ["reshaped"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])
    reshaped = helper.make_tensor_value_info("reshaped", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [images], [reshaped], stored)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


def _draw_input(draw: st.DrawFn, stored: list[onnx.TensorProto]) -> str:
    kind = draw(st.sampled_from(["images", "shape", "whole", "real", ""]))
    if kind not in ("whole", "real"):
        return kind
    name = f"c{len(stored)}"
    if kind == "whole":
        numbers = draw(st.lists(st.sampled_from(_LARGE), max_size=8))
        dims = [] if len(numbers) == 1 and draw(st.booleans()) else [len(numbers)]
        stored.append(helper.make_tensor(name, TensorProto.INT64, dims, numbers))
    else:
        dims = draw(st.sampled_from(_SHAPES))
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
        tensor.float_data.extend([0.5] * math.prod(dims))
        stored.append(tensor)
    return name


@given(model=graphs())
@some
def test_own_operators_with_any_numbers(model: onnx.ModelProto) -> None:
    assert all(map(is_own, model.graph.node))
    for infer in (infer_shapes, find_sizes):
        with suppress(NoShapes):
            infer(model, (32, 32), images=["images"])
