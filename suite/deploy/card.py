"""The verb `inspect`: the model card of a checkpoint, a graph of this suite or any other graph.

Nothing is run. What was measured comes from records beside the model: those of the run folder that
it stands in, and those of the folders beside that one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from suite.checkpoint import load_detector
from suite.deploy.cost import Cost, count_detector, count_graph
from suite.deploy.description import GraphRequest, describe_graph
from suite.errors import InputError
from suite.files import is_file, read_bounded
from suite.graph_file import MAX_SIDECAR_BYTES, load_graph, read_model, sidecar_path
from suite.graph_limits import check_tensors
from suite.graph_metadata import GraphMetadata, encode_metadata
from suite.graph_shapes import find_fed_inputs, takes_channels_last
from suite.records import Record, load_record
from suite.run_folder import run_of_checkpoint
from suite.sizing import build_sizing

_MAX_RECORDS = 1000
# How the rest of the suite calls what ONNX calls otherwise.
_DTYPES = {"float": "float32", "double": "float64", "undefined": "?"}


@dataclass(frozen=True, kw_only=True)
class Value:
    """An input or output of a graph; a free side has its name, or "?"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What a graph is made of.

    Attributes:
        operators: how many there are of each, the most frequent first; those of other domains than
            ONNX's own as `domain::name`.
        opsets: version by domain; "" is ONNX's own.
        inputs, outputs: in order.
        ir_version: of the file format.
        producer: the tool that wrote it.
    """

    operators: Mapping[str, int]
    opsets: Mapping[str, int]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    ir_version: int
    producer: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An accuracy with what it was measured on.

    Attributes:
        of: "this file", or "its checkpoint".
        ap, ap50: COCO's, fractions.
        dataset: name of the data set.
        images: how many of its val split; None where the record does not say.
        record: the file that says so.
    """

    of: Literal["this file", "its checkpoint"]
    ap: float
    ap50: float | None
    dataset: str
    images: int | None
    record: Path


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that is known about a model file.

    Attributes:
        kind: "foreign graph" has no metadata of ours.
        metadata: of a checkpoint that of the graph it is exported to.
        nodes: of a graph.
        parity: with its checkpoint, as the sidecar has it.
    """

    file: Path
    kind: Literal["checkpoint", "graph", "foreign graph"]
    num_bytes: int
    sha256: str
    metadata: GraphMetadata | None
    nodes: Nodes | None
    cost: Cost
    measured: Measured | None
    parity: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the card as plain data."""
        plain = asdict(self) | {"file": str(self.file)}
        plain["metadata"] = encode_metadata(self.metadata) if self.metadata else None
        if self.measured:
            plain["measured"]["record"] = str(self.measured.record)
        return plain


def inspect(file: Path) -> Card:
    """Return the card of a model file; `.onnx` is a graph, anything else a checkpoint.

    Raises:
        InputError: it is missing, damaged or hostile.
    """
    return _inspect_graph(file) if file.suffix == ".onnx" else _inspect_checkpoint(file)


def _inspect_checkpoint(file: Path) -> Card:
    trained = load_detector(file)
    sizing = build_sizing(trained.recipe.resize)
    return Card(
        file=file,
        kind="checkpoint",
        num_bytes=file.stat().st_size,
        sha256=trained.sha256,
        metadata=describe_graph(trained, GraphRequest()),
        nodes=None,
        cost=count_detector(trained.recipe, sizing.canvas_hw(sizing.nominal_hw)),
        measured=_find_measured(file, {"checkpoint_sha256": trained.sha256}),
        parity=None,
    )


def _inspect_graph(file: Path) -> Card:
    model, sha256 = read_model(file)
    ours = any(
        entry.key == "schema" and entry.value.startswith('"suite.graph/')
        for entry in model.metadata_props
    )
    metadata = load_graph(file).metadata if ours else None
    if metadata is None:
        check_tensors(model, source=str(file), of_others=True)
    return Card(
        file=file,
        kind="graph" if metadata else "foreign graph",
        num_bytes=file.stat().st_size,
        sha256=sha256,
        metadata=metadata,
        nodes=_describe_nodes(model),
        cost=count_graph(model, _nominal_hw(model, metadata)),
        measured=_measured_graph(file, sha256, metadata) if metadata else None,
        parity=_read_parity(sidecar_path(file)) if metadata else None,
    )


def _describe_nodes(model: onnx.ModelProto) -> Nodes:
    graph = model.graph
    names = (f"{node.domain}::{node.op_type}".removeprefix("::") for node in graph.node)
    return Nodes(
        operators=dict(Counter(names).most_common()),
        opsets={entry.domain: entry.version for entry in model.opset_import},
        inputs=tuple(map(_describe_value, find_fed_inputs(graph))),
        outputs=tuple(map(_describe_value, graph.output)),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )


def _describe_value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if known else "?"
    sides = (dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim)
    return Value(name=value.name, dtype=_DTYPES.get(dtype, dtype), shape=tuple(sides))


def _nominal_hw(model: onnx.ModelProto, metadata: GraphMetadata | None) -> tuple[int, int] | None:
    """Return the size that a graph's cost is stated at; None where nothing says one."""
    if metadata is not None:
        sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
        return sizing.canvas_hw(sizing.nominal_hw)
    images = find_fed_inputs(model.graph)[:1]
    dims = [dim.dim_value for value in images for dim in value.type.tensor_type.shape.dim]
    if len(dims) != 4:
        return None
    height, width = dims[1:3] if takes_channels_last(dims) else dims[2:]
    return (height, width) if height > 0 and width > 0 else None


def _measured_graph(file: Path, sha256: str, metadata: GraphMetadata) -> Measured | None:
    own = _find_measured(file, {"graph_sha256": sha256}) or _read_quantized(sidecar_path(file))
    if own is not None:
        return own
    return _find_measured(
        file, {"checkpoint_sha256": metadata.checkpoint_sha256}, of="its checkpoint"
    )


def _find_measured(
    file: Path,
    subject: Mapping[str, str],
    *,
    of: Literal["this file", "its checkpoint"] = "this file",
) -> Measured | None:
    """Return the newest accuracy in the records around a model whose subject is this one."""
    found = [
        (record["created"], path, record)
        for path, record in _list_records(file)
        if subject.items() <= record["subject"].items()
        # What a graph reaches says nothing sure about its checkpoint.
        and ("graph_sha256" in subject or "graph_sha256" not in record["subject"])
        and record["metrics"].get("ap") is not None
    ]
    if not found:
        return None
    _, path, record = max(found, key=lambda entry: entry[:2])
    return Measured(
        of=of,
        ap=record["metrics"]["ap"],
        ap50=record["metrics"].get("ap50"),
        dataset=record["subject"].get("dataset") or "data without a name",
        images=record["conditions"].get("val_images"),
        record=path,
    )


def _list_records(file: Path) -> Iterator[tuple[Path, Record]]:
    run = run_of_checkpoint(file)
    if run is None:
        return
    paths = [run / "record.json", *sorted(run.parent.glob("eval-*/record.json"))]
    for path in paths[:_MAX_RECORDS]:
        if not is_file(path):
            continue
        try:
            yield path, load_record(path)
        except InputError:  # a record that is none says nothing
            continue


def _read_quantized(sidecar: Path) -> Measured | None:
    """Return the accuracy that an int8 graph was chosen by; anyone may have written it."""
    stated = _read_sidecar(sidecar).get("quantization")
    if not isinstance(stated, dict):
        return None
    ap, dataset, images = (stated.get(key) for key in ("ap", "dataset", "val_images"))
    if not isinstance(ap, float) or not isinstance(dataset, str) or type(images) is not int:
        return None
    return Measured(
        of="this file", ap=ap, ap50=None, dataset=dataset, images=images, record=sidecar
    )


def _read_parity(sidecar: Path) -> Mapping[str, Any] | None:
    parity = _read_sidecar(sidecar).get("parity")
    return parity if isinstance(parity, dict) else None


def _read_sidecar(sidecar: Path) -> Mapping[str, Any]:
    """Return a sidecar that `load_graph` has accepted; nothing where there is none."""
    if not is_file(sidecar):
        return {}
    content = read_bounded(sidecar, limit=MAX_SIDECAR_BYTES, remedy="export the graph again")
    stated: dict[str, Any] = json.loads(content)
    return stated
