"""What a graph file may hold: no more than it says, and nothing that grows or runs without end.

A small file can ask for much: two bytes make a node, one number declares a terabyte, thirty
functions that each call the one before twice are a billion nodes, a loop may never end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import cache

import numpy as np
import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from suite.errors import InputError
from suite.graph_shapes import infer_shapes

# A detector's graph has 10,000; each takes some 100 bytes of memory.
MAX_PARTS = 500_000
# Of one value between two operators, at one image: 8 GiB of float32. A detector's have 20 million.
MAX_VALUE_NUMBERS = 2**31
# One byte of a packed field may become eight in memory.
_PACKED_BYTES_A_PART = 128
_MAX_DEPTH = 100  # protobuf's own

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


def check_encoding(content: bytes, *, source: str) -> None:
    """Look through an encoded model before protobuf makes objects of it.

    Raises:
        InputError: it is no model, or has more than `MAX_PARTS` nodes, names and numbers.
    """
    try:
        _Count(content).enter(0, len(content), onnx.ModelProto.DESCRIPTOR, depth=0)
    except _TooMany as error:
        raise InputError(
            f"{source}: more than {MAX_PARTS:,} nodes, names and numbers; no detector has as many"
        ) from error
    except _Malformed as error:
        raise InputError(f"{source}: not an ONNX file, or cut short") from error


def check_tensors(model: onnx.ModelProto, *, source: str, of_others: bool = False) -> None:
    """Require of every tensor that it holds what it declares, and finite numbers.

    Args:
        model: any.
        source: how messages name it.
        of_others: other kinds of numbers are left alone then, and infinity means something.

    Raises:
        InputError: names the first that does not.
    """
    for tensor in list_tensors(model):
        known = tensor.data_type in _NUMBERS
        problem = _find_size_problem(tensor) if known else ""
        if not of_others:
            problem = problem or ("" if known else "is of a kind that no graph of this suite has")
            problem = problem or ("" if _is_finite(tensor) else "holds NaN or infinity")
        if problem:
            raise InputError(f"{source}: tensor {_show(tensor.name)} {problem}; export it again")


def check_versions(model: onnx.ModelProto, opset: int, ir_version: int, *, source: str) -> None:
    """Require the versions that a graph's metadata speaks of, and that they are known here.

    Raises:
        InputError: names both.
    """
    newest = onnx.defs.onnx_opset_version()
    found = [entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS]
    if found != [opset] or opset > newest or model.ir_version != ir_version:
        imports = ", ".join(map(str, found[:3])) or "none"
        raise InputError(
            f"{source}: of opset {imports} and IR {model.ir_version}, its metadata says {opset} "
            f"and {ir_version}, and opset {newest} is the newest known here; export it again"
        )


def check_operators(model: onnx.ModelProto, *, opset: int, source: str) -> None:
    """Require a plain list of standard operators: what ends, and runs in any runtime.

    Args:
        model: its tensors are sound.
        opset: of ONNX.
        source: how messages name the graph.

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


def check_wiring(
    model: onnx.ModelProto, image_hw: tuple[int, int], *, images: Collection[str], source: str
) -> None:
    """Require that every value is made once, before it is used, and is of a size that can be.

    Args:
        model: of sound tensors and standard operators.
        image_hw: height and width of an image that it takes.
        images: names of the values that are images.
        source: how messages name it.

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
    shapes = infer_shapes(model, image_hw, images=images)
    largest = max(shapes, key=lambda name: math.prod(shapes[name]), default="")
    if largest and math.prod(shapes[largest]) > MAX_VALUE_NUMBERS:
        shape = "x".join(map(str, shapes[largest]))
        raise InputError(
            f"{source}: value {_show(largest)} has {shape} numbers for one image; at most "
            f"{MAX_VALUE_NUMBERS:,} are computed"
        )


def list_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor below a message: weights, constants, those in branches and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from list_tensors(child)


def _find_size_problem(tensor: onnx.TensorProto) -> str:
    if tensor.HasField("segment"):  # nothing reads these
        return "is a segment of another"
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    numbers = getattr(tensor, _NUMBERS[tensor.data_type])
    stored = len(tensor.raw_data) / size if tensor.HasField("raw_data") else len(numbers)
    if all(dim >= 0 for dim in tensor.dims) and stored == math.prod(tensor.dims):
        return ""
    shape = "x".join(map(str, tensor.dims[:8])) or "1"
    return f"declares {shape} numbers and holds {stored:,.12g}"


def _is_finite(tensor: onnx.TensorProto) -> bool:
    values = onnx.numpy_helper.to_array(tensor)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _show(text: str) -> str:
    return ascii(text[:_MAX_SHOWN])


class _TooMany(Exception):
    """More parts than allowed."""


class _Malformed(Exception):
    """Not the encoding of a message (https://protobuf.dev/programming-guides/encoding)."""


@cache
def _known_fields(descriptor: Descriptor) -> dict[int, FieldDescriptor]:
    return {field.number: field for field in descriptor.fields}


class _Count:
    """Counts the fields of a message and of all within, in order of the file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_PARTS

    def enter(self, start: int, end: int, descriptor: Descriptor, *, depth: int) -> None:
        """Count the fields between two places, which are of the message that is described."""
        if depth > _MAX_DEPTH:
            raise _Malformed
        fields = _known_fields(descriptor)
        position = start
        while position < end:
            self._spend(1)
            tag, position = self._read_number(position)
            kind, number = tag & 7, tag >> 3
            if kind == 0:
                _, position = self._read_number(position)
            elif kind == 2:
                length, position = self._read_number(position)
                if position + length > end:
                    raise _Malformed
                if number in fields:
                    self._look_inside(fields[number], position, length, depth)
                position += length
            elif kind in (1, 5):
                position += 8 if kind == 1 else 4
            else:
                raise _Malformed
        if position != end:
            raise _Malformed

    def _look_inside(self, field: FieldDescriptor, position: int, length: int, depth: int) -> None:
        if field.message_type is not None:
            self.enter(position, position + length, field.message_type, depth=depth + 1)
        elif field.type == FieldDescriptor.TYPE_STRING:
            # Protobuf would hand out bytes where all code expects text.
            try:
                self._content[position : position + length].decode()
            except UnicodeDecodeError as error:
                raise _Malformed from error
        elif field.type != FieldDescriptor.TYPE_BYTES:
            self._spend(length // _PACKED_BYTES_A_PART)

    def _spend(self, parts: int) -> None:
        self._left -= parts
        if self._left < 0:
            raise _TooMany

    def _read_number(self, position: int) -> tuple[int, int]:
        """Return a number of seven bits a byte, and the place behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(self._content):
                raise _Malformed
            byte = self._content[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
        raise _Malformed
