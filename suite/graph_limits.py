"""What a graph file may hold: no more than it says, and nothing that grows or runs without end.

A small file can ask for much: one number declares a terabyte, thirty functions that each call the
one before twice are a billion nodes, a loop may never end.

What is bounded, and what not: of a graph of this suite the size of every value at the size of image
that its metadata speak of, and so the memory that one operator takes. A graph that takes images of
any size may still ask for more at another one. Of graphs of others the values whose sizes ONNX can
infer are bounded, and the rest is not. How long a graph computes is bounded for none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

from suite.errors import InputError
from suite.graph_shapes import (
    MAX_RANK,
    OWN_OPERATORS,
    OWN_OPSETS,
    NoShapes,
    Shape,
    infer_shapes,
    is_own,
)
from suite.graph_sizes import find_sizes
from suite.strict_nodes import clean

# Of one value between two operators: 8 GiB of float32. A detector's have 20 million an image.
MAX_VALUE_NUMBERS = 2**31

_STANDARD_DOMAINS = ("", "ai.onnx")
_MAX_SHOWN = 80
# The field that holds a tensor's numbers where `raw_data` does not.
_NUMBERS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.FLOAT16: "int32_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.BOOL: "int32_data",
    onnx.TensorProto.INT8: "int32_data",
    onnx.TensorProto.UINT8: "int32_data",
    onnx.TensorProto.INT32: "int32_data",
    onnx.TensorProto.INT64: "int64_data",
}


def check_tensors(model: onnx.ModelProto, *, source: str, of_others: bool = False) -> None:
    """Require of every tensor that it holds what it declares, and finite numbers.

    Shapes of more than `MAX_RANK` sides are refused wherever they stand, tensors or not.

    Args:
        model: any.
        source: how messages name it.
        of_others: other kinds of numbers are left alone then, and infinity means something.

    Raises:
        InputError: names the first that does not.
    """
    for shape in _list_messages(model, onnx.TensorShapeProto):
        if len(shape.dim) > MAX_RANK:
            raise InputError(
                f"{source}: declares a value of {len(shape.dim):,} sides; at most {MAX_RANK} are "
                "read"
            )
    for tensor in list_tensors(model):
        known = tensor.data_type in _NUMBERS
        problem = _find_shape_problem(tensor) or (_find_size_problem(tensor) if known else "")
        if not of_others:
            problem = problem or ("" if known else "is of a kind that no graph of this suite has")
            problem = problem or ("" if _is_finite(tensor) else "holds NaN or infinity")
        if problem:
            raise InputError(f"{source}: tensor {_show(tensor.name)} {problem}; export it again")


def check_versions(model: onnx.ModelProto, opset: int, ir_version: int, *, source: str) -> None:
    """Require the versions that a graph's metadata speaks of, and those that exports have.

    Raises:
        InputError: names both.
    """
    found = [entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS]
    if found != [opset] or opset not in OWN_OPSETS or model.ir_version != ir_version:
        imports = ", ".join(map(str, found[:3])) or "none"
        raise InputError(
            f"{source}: of opset {imports} and IR {model.ir_version}, its metadata says {opset} "
            f"and {ir_version}, and exports have {OWN_OPSETS[0]} to {OWN_OPSETS[-1]}; export it "
            "again"
        )


def check_operators(model: onnx.ModelProto, *, opset: int, source: str, ours: bool = False) -> None:
    """Require a plain list of standard operators: what ends, and runs in any runtime.

    Args:
        model: its tensors are sound.
        opset: of ONNX.
        source: how messages name the graph.
        ours: whether only operators that this suite exports may be there.

    Raises:
        InputError: says what else is there.
    """
    if model.functions or model.graph.sparse_initializer:
        raise InputError(f"{source}: has functions or sparse tensors; no graph of this suite has")
    for node in model.graph.node:
        name = _show(node.op_type)
        if node.domain not in _STANDARD_DOMAINS or not onnx.defs.has(node.op_type, opset):
            where = f" of {_show(node.domain)}" if node.domain else ""
            raise InputError(f"{source}: operator {name}{where} is none of ONNX opset {opset}")
        if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
            raise InputError(
                f"{source}: operator {name} has a graph inside, which might never end; no graph of "
                "this suite has"
            )
        if ours and not is_own(node):
            problem = "has attributes that no export has"
            if node.op_type not in OWN_OPERATORS:
                problem = "is none that this suite exports"
            raise InputError(f"{source}: operator {name} {problem}; export it again")


def check_wiring(
    model: onnx.ModelProto,
    image_hw: tuple[int, int],
    *,
    images: Collection[str],
    source: str,
    ours: bool = False,
) -> None:
    """Require that every value is made once, before it is used, and is of a size that can be.

    Args:
        model: of sound tensors and standard operators.
        image_hw: height and width of an image that it takes.
        images: names of the values that are images.
        source: how messages name it.
        ours: whether it has only operators that this suite exports; the size of every value has to
            be known then.

    Raises:
        InputError: names the value.
    """
    graph = model.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        missing = [name for name in node.input if name and name not in known]
        twice = [name for name in node.output if name and name in known]
        if missing or twice:
            problem = "used before it is made" if missing else "made twice"
            raise InputError(f"{source}: value {_show([*missing, *twice][0])} is {problem}")
        known.update(node.output)
    try:
        shapes = (find_sizes if ours else infer_shapes)(model, image_hw, images=images)
    except NoShapes as error:
        raise InputError(
            f"{source}: the sizes of its values cannot be inferred "
            f"({clean(str(error).splitlines()[0])}); export it again"
        ) from error
    _check_sizes(shapes, source=source)
    unknown = sorted(known - shapes.keys() - {""}) if ours else []
    if unknown:
        raise InputError(
            f"{source}: value {_show(unknown[0])} is of a size that cannot be told from that of "
            "the image; export it again"
        )


def list_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor below a message: weights, constants, those in branches and functions."""
    return _list_messages(message, onnx.TensorProto)


def _list_messages(message: Message, kind: type[Message]) -> Iterator[Any]:
    """Yield every message of a kind below another; there are none within one of these."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from _list_messages(child, kind)


def _check_sizes(shapes: dict[str, Shape], *, source: str) -> None:
    largest = max(shapes, key=lambda name: math.prod(shapes[name]), default="")
    if largest and math.prod(shapes[largest]) > MAX_VALUE_NUMBERS:
        shape = "x".join(map(str, shapes[largest]))
        raise InputError(
            f"{source}: value {_show(largest)} has {shape} numbers; at most "
            f"{MAX_VALUE_NUMBERS:,} are computed at a time"
        )


def _find_shape_problem(tensor: onnx.TensorProto) -> str:
    """Look at the shape before anything multiplies its sides."""
    if len(tensor.dims) > MAX_RANK:
        return f"declares {len(tensor.dims):,} sides, at most {MAX_RANK} are read"
    if any(dim < 0 for dim in tensor.dims):
        return f"declares {_show_shape(tensor)} numbers"
    return ""


def _find_size_problem(tensor: onnx.TensorProto) -> str:
    if tensor.HasField("segment"):  # nothing reads these
        return "is a segment of another"
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    numbers = getattr(tensor, _NUMBERS[tensor.data_type])
    stored = len(tensor.raw_data) / size if tensor.HasField("raw_data") else len(numbers)
    if stored == math.prod(tensor.dims):
        return ""
    return f"declares {_show_shape(tensor)} numbers and holds {stored:,.12g}"


def _show_shape(tensor: onnx.TensorProto) -> str:
    return "x".join(map(str, tensor.dims)) or "1"


def _is_finite(tensor: onnx.TensorProto) -> bool:
    values = onnx.numpy_helper.to_array(tensor)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _show(text: str) -> str:
    return ascii(text[:_MAX_SHOWN])
