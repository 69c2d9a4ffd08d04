"""Reading a graph file that may be damaged, hostile or another's.

Beside it stands a sidecar, the same name plus `.json`, with the metadata, the sha256 of the graph
and the figures of its verification.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from suite.errors import InputError
from suite.files import is_file, read_bounded
from suite.graph_encoding import check_encoding
from suite.graph_limits import (
    check_operators,
    check_tensors,
    check_versions,
    check_wiring,
    list_tensors,
)
from suite.graph_metadata import GraphMetadata, parse_metadata
from suite.sizing import build_sizing

INPUT_NAME = "images"
# Of a graph that takes images as they are: what other graphs call `images`.
NETWORK_INPUT_NAME = "network_input"
IMAGE_NAMES = (INPUT_NAME, NETWORK_INPUT_NAME)
THRESHOLD_NAMES = ("score_threshold", "iou_threshold")
OUTPUT_NAMES = ("boxes", "scores", "labels", "num_dets")
HEAD_NAMES = ("logits", "deltas")

# Protobuf itself cannot hold more; a detector's graph has 80 MB.
MAX_GRAPH_BYTES = 2**31 - 1
MAX_SIDECAR_BYTES = 2**20
_FLOAT, _INT64 = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.INT64)
_UINT8 = int(onnx.TensorProto.UINT8)
_KINDS = {_FLOAT: "float32", _INT64: "int64", _UINT8: "uint8"}


@dataclass(frozen=True)
class GraphFile:
    """A graph as read from its file.

    Attributes:
        model: sound as far as its metadata, inputs, outputs and tensors go, of operators that this
            suite exports and values of known sizes; what it computes is not judged.
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
    model, digest = read_model(path)
    metadata = parse_metadata(
        {entry.key: entry.value for entry in model.metadata_props}, source=str(path)
    )
    _check_signature(model.graph, metadata, source=str(path))
    check_versions(model, metadata.opset, metadata.ir_version, source=str(path))
    check_operators(model, opset=metadata.opset, source=str(path), ours=True)
    check_tensors(model, source=str(path))
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    image_hw = sizing.canvas_hw(sizing.nominal_hw)
    check_wiring(model, image_hw, images=IMAGE_NAMES, source=str(path), ours=True)
    _check_sidecar(path, digest)
    return GraphFile(model, metadata, digest)


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read any ONNX file, ours or not, and its sha256; what is in it is not judged.

    Raises:
        InputError: it is missing, no ONNX file, larger than any detector, or refers to other files,
            none of which is opened.
    """
    content = _read_limited(path)
    check_encoding(content, source=str(path))
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX file, or cut short") from error
    if any(_refers_outside(tensor) for tensor in list_tensors(model)):
        raise InputError(
            f"{path}: refers to tensors in other files; save it as one file, weights included"
        )
    return model, hashlib.sha256(content).hexdigest()


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


def check_size(image_hw: Sequence[int], metadata: GraphMetadata, *, source: str) -> None:
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
    if not is_file(path):
        raise InputError(f"{path}: no such graph")
    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise InputError(f"{path}: {size:,} bytes; an ONNX file has at most {MAX_GRAPH_BYTES:,}")
    return read_bounded(path, limit=MAX_GRAPH_BYTES, remedy="give a graph")


def _refers_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or bool(tensor.external_data)


def _check_signature(graph: onnx.GraphProto, metadata: GraphMetadata, *, source: str) -> None:
    """Require the inputs and outputs that the metadata promises."""
    expected = _expected_inputs(metadata)
    for name, kind, dims in [*expected, *_expected_outputs(metadata)]:
        found = [value for value in [*graph.input, *graph.output] if value.name == name]
        if len(found) != 1 or not _is_shaped(found[0], kind, dims):
            shape = ", ".join("any" if dim is None else str(dim) for dim in dims)
            raise InputError(f"{source}: '{name}' is absent or not {_KINDS[kind]} [{shape}]")
    if len(graph.input) != len(expected):
        raise InputError(
            f"{source}: {len(graph.input)} inputs; its metadata speaks of {len(expected)}"
        )


def _expected_inputs(metadata: GraphMetadata) -> list[tuple[str, int, tuple[int | None, ...]]]:
    batch = metadata.batch or None
    if metadata.prepares_images:
        images: tuple[str, int, tuple[int | None, ...]]
        images = INPUT_NAME, _UINT8, (batch, None, None, 3)
    else:
        images = INPUT_NAME, _FLOAT, (batch, 3, *(metadata.image_hw or (None, None)))
    if not metadata.runtime_thresholds:
        return [images]
    return [images, *((name, _FLOAT, (1,)) for name in THRESHOLD_NAMES)]


def _expected_outputs(metadata: GraphMetadata) -> list[tuple[str, int, tuple[int | None, ...]]]:
    batch = metadata.batch or None
    if metadata.nms == "none":
        sizes = (metadata.num_logits, 4)
        pairs = zip(HEAD_NAMES, sizes, strict=True)
        return [(name, _FLOAT, (batch, None, size)) for name, size in pairs]
    rows = (batch, metadata.postprocess.max_detections)
    kinds = (_FLOAT, _FLOAT, _INT64, _INT64)
    shapes = ((*rows, 4), rows, rows, (batch,))
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
    if not os.path.lexists(sidecar):
        return
    remedy = "delete it, or export the graph again"
    if sidecar.is_symlink() and not path.is_symlink():  # stores of models link both
        raise InputError(f"{sidecar}: is a link beside a graph that is none; {remedy}")
    content = read_bounded(sidecar, limit=MAX_SIDECAR_BYTES, remedy=remedy)
    try:
        stated = json.loads(content)["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{sidecar}: damaged; {remedy}") from error
    if stated != digest:
        raise InputError(
            f"{path}: not the file that was verified, its sha256 is not the one in {sidecar.name}; "
            "export it again"
        )
