"""Reading a graph file that may be damaged, hostile or another's.

Beside it stands a sidecar, the same name plus `.json`, with the metadata, the sha256 of the graph
and the figures of its verification.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from suite.errors import InputError
from suite.graph_metadata import GraphMetadata, parse_metadata

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores", "labels", "num_dets")
HEAD_NAMES = ("logits", "deltas")

# Protobuf itself cannot hold more; a detector's graph has 80 MB.
MAX_GRAPH_BYTES = 2**31 - 1
_MAX_SIDECAR_BYTES = 2**20
_FLOAT, _INT64 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64)
_KINDS = {_FLOAT: "float32", _INT64: "int64"}


@dataclass(frozen=True)
class GraphFile:
    """A graph as read from its file.

    Attributes:
        model: sound as far as its metadata, inputs and outputs go; its nodes are not judged.
        metadata: validated.
        sha256: of the file.
    """

    model: onnx.ModelProto
    metadata: GraphMetadata
    sha256: str


def load_graph(path: Path) -> GraphFile:
    """Read a graph that this suite exported; no file but it and its sidecar is opened.

    Raises:
        InputError: it is missing, damaged, refers to other files, is not ours, or is not what its
            sidecar was written for.
    """
    content = _read_limited(path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX file, or cut short") from error
    if any(_refers_outside(tensor) for tensor in _tensors(model)):
        raise InputError(
            f"{path}: refers to tensors in other files; a graph of this suite is one file"
        )
    metadata = parse_metadata(
        {entry.key: entry.value for entry in model.metadata_props}, source=str(path)
    )
    _check_signature(model.graph, metadata, source=str(path))
    digest = hashlib.sha256(content).hexdigest()
    _check_sidecar(path, digest)
    return GraphFile(model, metadata, digest)


def check_answer(
    outputs: Sequence[NDArray[Any]], metadata: GraphMetadata, *, num_images: int, source: str
) -> None:
    """Hold what a graph answers against its metadata: a file promises more than it may keep.

    Raises:
        InputError: an output is not of the promised shape.
    """
    for (name, _, dims), output in zip(_expected_outputs(metadata), outputs, strict=True):
        sizes = zip(output.shape, (num_images, *dims[1:]), strict=False)
        if output.ndim != len(dims) or any(wanted not in (None, size) for size, wanted in sizes):
            raise InputError(f"{source}: answers with '{name}' of shape {list(output.shape)}")


def check_size(image_hw: tuple[int, int], metadata: GraphMetadata, *, source: str) -> None:
    """Refuse an input that the graph cannot take.

    Raises:
        InputError: it is too small.
    """
    if min(image_hw) < metadata.min_side:
        raise InputError(
            f"{source}: an input of {image_hw[0]}x{image_hw[1]} is too small, it takes at least "
            f"{metadata.min_side} pixels each way: smaller ones may have fewer candidates than the "
            f"{metadata.postprocess.max_detections} detections it answers with"
        )


def sidecar_path(graph: Path) -> Path:
    """Return where the sidecar of a graph stands."""
    return graph.with_name(graph.name + ".json")


def _read_limited(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such graph")
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise InputError(f"{path}: {size:,} bytes; an ONNX file has at most {MAX_GRAPH_BYTES:,}")
    return path.read_bytes()


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor below a message: weights, constants, those in branches and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                yield from _tensors(child)


def _refers_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def _check_signature(graph: onnx.GraphProto, metadata: GraphMetadata, *, source: str) -> None:
    """Require the inputs and outputs that the metadata promises."""
    image_hw = metadata.image_hw or (None, None)
    expected = [(INPUT_NAME, _FLOAT, (None, 3, *image_hw))]
    for name, kind, dims in [*expected, *_expected_outputs(metadata)]:
        found = [value for value in [*graph.input, *graph.output] if value.name == name]
        if len(found) != 1 or not _is_shaped(found[0], kind, dims):
            shape = ", ".join("any" if dim is None else str(dim) for dim in dims)
            raise InputError(f"{source}: '{name}' is absent or not {_KINDS[kind]} [{shape}]")
    if len(graph.input) != 1:
        raise InputError(f"{source}: {len(graph.input)} inputs; a graph of this suite has one")


def _expected_outputs(metadata: GraphMetadata) -> list[tuple[str, int, tuple[int | None, ...]]]:
    if metadata.nms == "none":
        sizes = (metadata.num_logits, 4)
        pairs = zip(HEAD_NAMES, sizes, strict=True)
        return [(name, _FLOAT, (None, None, size)) for name, size in pairs]
    rows = (None, metadata.postprocess.max_detections)
    kinds = (_FLOAT, _FLOAT, _INT64, _INT64)
    shapes = ((*rows, 4), rows, rows, (None,))
    return list(zip(OUTPUT_NAMES, kinds, shapes, strict=True))


def _is_shaped(value: onnx.ValueInfoProto, kind: int, dims: tuple[int | None, ...]) -> bool:
    tensor = value.type.tensor_type
    found = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != kind or len(found) != len(dims):
        return False
    return all(dim in (None, size) for dim, size in zip(dims, found, strict=True))


def _check_sidecar(path: Path, digest: str) -> None:
    """Refuse a graph that is not what was verified: it was damaged, or its export was cut short."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return
    try:
        with sidecar.open("rb") as file:
            stated = json.loads(file.read(_MAX_SIDECAR_BYTES))["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{sidecar}: damaged; delete it, or export the graph again") from error
    if stated != digest:
        raise InputError(
            f"{path}: not the file that was verified, its sha256 is not the one in {sidecar.name}; "
            "export it again"
        )
