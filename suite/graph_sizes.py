"""The size of every value of a graph of this suite, for images of a known size.

ONNX's inference alone does not follow sizes that a graph computes of its image's: here the whole
numbers of such computations are worked out between passes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from suite.graph_shapes import MAX_KEPT_NUMBERS, MAX_RANK, Shape, run_inference, strip

# Our own graphs take 3.
_MAX_PASSES = 8
_TOO_MANY = 2**40  # boxes, which still fit where sides are written
_FLOAT, _DOUBLE, _INT32, _INT64 = (
    int(kind)
    for kind in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.INT32,
        onnx.TensorProto.INT64,
    )
)
_DTYPES = {_FLOAT: np.float32, _DOUBLE: np.float64, _INT32: np.int32, _INT64: np.int64}

Numbers = NDArray[Any]


def find_sizes(
    model: onnx.ModelProto, image_hw: tuple[int, int], *, images: Collection[str]
) -> dict[str, Shape]:
    """Return the shapes of values and stored tensors; those that are not known are left out.

    Of what depends on the pixels, the selection of boxes, it is the largest possible.

    Args:
        model: of sound tensors and of the operators of this suite.
        image_hw: height and width of `images`.
        images: names of values [N,3,H,W] or [N,H,W,3] that are images.

    Raises:
        NoShapes: an operator is given what it cannot work on.
    """
    light = strip(model, image_hw, images=images)
    known = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in light.graph.initializer
        if tensor.data_type in (_INT32, _INT64)
    }
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes: dict[str, Shape] = {}
    for _ in range(_MAX_PASSES):
        computed = {name: numbers.shape for name, numbers in known.items()}
        shapes = stored | computed | _read_shapes(run_inference(light, strict=True))
        if not _learn(light.graph, shapes, known):
            break
    return shapes


def _read_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shapes of which every side is known, or is none at all."""
    shapes = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        known = all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims)
        if tensor.HasField("shape") and len(dims) <= MAX_RANK and known:
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _learn(graph: onnx.GraphProto, shapes: Mapping[str, Shape], known: dict[str, Numbers]) -> bool:
    """Store the whole numbers that can be told now in place of their nodes; whether some could."""
    left, before = onnx.GraphProto(), len(graph.node) - len(graph.value_info)
    for node in graph.node:
        numbers = _compute(node, shapes, known)
        if numbers is None:
            left.node.append(node)
            graph.value_info.extend(_bound_selection(node, shapes))
        else:
            known[node.output[0]] = numbers
            graph.initializer.append(onnx.numpy_helper.from_array(numbers, node.output[0]))
    del graph.node[:]
    graph.node.extend(left.node)
    return len(graph.node) - len(graph.value_info) < before


def _bound_selection(
    node: onnx.NodeProto, shapes: Mapping[str, Shape]
) -> list[onnx.ValueInfoProto]:
    """Declare that every box of every class is selected, where nothing is known yet."""
    if node.op_type != "NonMaxSuppression" or len(node.input) < 2 or not node.output:
        return []
    scores = shapes.get(node.input[1])
    if scores is None or node.output[0] in shapes:
        return []
    dims = [min(math.prod(scores), _TOO_MANY), 3]
    return [onnx.helper.make_tensor_value_info(node.output[0], _INT64, dims)]


def _compute(
    node: onnx.NodeProto, shapes: Mapping[str, Shape], known: Mapping[str, Numbers]
) -> Numbers | None:
    """Return the few whole numbers that a node computes; None for any other node."""
    if len(node.output) != 1 or not node.input:
        return None
    shape = shapes.get(node.input[0]) if node.op_type == "Shape" else None
    given = [known[name] for name in node.input if name in known]
    if shape is not None:
        given = [np.array(shape, np.int64)]
    elif len(given) != len(node.input) or any(array.dtype.kind != "i" for array in given):
        return None
    if sum(array.size for array in given) > MAX_KEPT_NUMBERS:
        return None
    try:
        with np.errstate(all="ignore"):
            numbers = _apply(node, given)
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        return None  # ONNX's inference judges it
    return None if numbers is None or numbers.size > MAX_KEPT_NUMBERS else np.asarray(numbers)


def _apply(node: onnx.NodeProto, given: Sequence[Numbers]) -> Numbers | None:
    first, *others = given
    options = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    match node.op_type:
        case "Shape":
            return first[options.get("start", 0) : options.get("end")]
        case "Cast":
            return first.astype(_DTYPES[options["to"]])
        case "Concat":
            return np.concatenate(given, axis=options["axis"])
        case "Reshape":
            return first.reshape(others[0].tolist())
        case "Squeeze":
            return np.squeeze(first, _read_axes(others[0]) if others else None)
        case "Unsqueeze":
            return np.expand_dims(first, _read_axes(others[0]))
        case name if name in _ARITHMETIC and len(others) == 1:
            return _ARITHMETIC[name](first, others[0])
    return None


def _read_axes(numbers: Numbers) -> tuple[int, ...]:
    return tuple(numbers.ravel().tolist())


def _divide(dividend: Numbers, divisor: Numbers) -> Numbers:
    """Divide as C does, towards zero."""
    if not divisor.all():
        raise ZeroDivisionError
    sign = np.sign(dividend) * np.sign(divisor)
    quotient: Numbers = sign * (np.abs(dividend) // np.abs(divisor))
    return quotient


_ARITHMETIC: dict[str, Callable[[Numbers, Numbers], Numbers]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Max": np.maximum,
    "Min": np.minimum,
}
