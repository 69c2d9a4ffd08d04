"""Graphs that say nothing of themselves: which of the known layouts their inputs and outputs have.

Shape letters: N images, H W rows and columns of the input, A anchors, K logits per anchor, D rows
of detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx

from suite.errors import InputError
from suite.graph_file import INPUT_NAME, read_model
from suite.graph_limits import check_operators, check_tensors, check_wiring
from suite.graph_shapes import find_fed_inputs, takes_channels_last
from suite.strict_nodes import clean

Name = Literal["heads", "suite", "mmdeploy", "torchvision", "ultralytics"]

_FLOAT, _INT32, _INT64 = (
    int(kind) for kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64)
)
_UINT8 = int(onnx.TensorProto.UINT8)
# At which the sizes of inner values are looked at where an input is free.
_PROBE_HW = (800, 1344)
_MAX_SHOWN = 6


@dataclass(frozen=True)
class _Output:
    """What an output has to be; `dims` of any length are None, `name` is "" where any will do."""

    name: str
    kinds: tuple[int, ...]
    dims: tuple[int | None, ...]


_BOXES, _ROWS = (None, None, 4), (None, None)
_KNOWN: dict[Name, tuple[_Output, ...]] = {
    "heads": (
        _Output("logits", (_FLOAT,), (None, None, None)),
        _Output("deltas", (_FLOAT,), _BOXES),
    ),
    "suite": (
        _Output("boxes", (_FLOAT,), _BOXES),
        _Output("scores", (_FLOAT,), _ROWS),
        _Output("labels", (_INT64,), _ROWS),
        _Output("num_dets", (_INT64,), (None,)),
    ),
    "mmdeploy": (
        _Output("", (_FLOAT,), (None, None, 5)),
        _Output("", (_INT64, _INT32), _ROWS),
    ),
    "torchvision": (
        _Output("", (_FLOAT,), (None, 4)),
        _Output("", (_FLOAT,), (None,)),
        _Output("", (_INT64,), (None,)),
    ),
    "ultralytics": (_Output("", (_FLOAT,), (None, None, 6)),),
}
DESCRIPTIONS: dict[Name, str] = {
    "heads": "raw heads logits [N,A,K] and deltas [N,A,4]",
    "suite": "this suite's boxes, scores, labels and num_dets",
    "mmdeploy": "mmdeploy's dets [N,D,5] and labels [N,D]",
    "torchvision": "torchvision's boxes [D,4], scores [D] and labels [D] of one image",
    "ultralytics": "ultralytics' [N,D,6]",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a graph is fed and read.

    Attributes:
        name: the known layout.
        outputs: names in the graph, in the order of the layout.
        dims: of these outputs; a free one is 0.
        batch: images at a time; 0: any number.
        image_hw: of the input; () where a side is free.
        bare: the input is [3,H,W], without an axis of images.
        prepares: the input is uint8 [N,H,W,3], of any size.
    """

    name: Name
    outputs: tuple[str, ...]
    dims: tuple[tuple[int, ...], ...]
    batch: int
    image_hw: tuple[int, ...]
    bare: bool
    prepares: bool


@dataclass(frozen=True)
class ThirdParty:
    """A graph of another tool, or one of ours whose metadata were lost.

    Attributes:
        model: of sound tensors and standard operators that end; its input is called `images`.
        sha256: of the file.
    """

    model: onnx.ModelProto
    layout: Layout
    sha256: str


def load_third_party(path: Path) -> ThirdParty | None:
    """Read a graph without metadata of this suite; None for one that has them.

    Raises:
        InputError: it is missing, damaged or hostile, or of no known layout.
    """
    model, sha256 = read_model(path)
    if any(
        entry.key == "schema" and entry.value.startswith('"suite.graph/')
        for entry in model.metadata_props
    ):
        return None
    source = str(path)
    check_tensors(model, source=source, of_others=True)
    check_operators(_flatten(model), opset=_find_opset(model, source=source), source=source)
    layout, input_name = recognise(model.graph, source=source)
    image_hw = layout.image_hw or _PROBE_HW
    check_wiring(model, (image_hw[0], image_hw[1]), images=[input_name], source=source)
    if input_name != INPUT_NAME:
        layout = _name_input(model.graph, layout, input_name)
    return ThirdParty(model, layout, sha256)


def recognise(graph: onnx.GraphProto, *, source: str) -> tuple[Layout, str]:
    """Return the layout of a graph, from kinds and shapes of what goes in and out, and its input.

    Names decide only between layouts of this suite and others.

    Raises:
        InputError: it is none of the known ones; lists these and what the graph has.
    """
    inputs = find_fed_inputs(graph)
    for name, wanted in _KNOWN.items():
        found = _match(graph.output, wanted)
        if found and len(inputs) == 1 and _takes_images(inputs[0], name):
            return _describe(name, inputs[0], found), inputs[0].name
    known = "; ".join(DESCRIPTIONS.values())
    raise InputError(
        f"{source}: says nothing of itself and is of no known layout ({known}), each of one input "
        f"float32 [N,3,H,W]: it has {_show(inputs)} in, {_show(graph.output)} out"
    )


def _match(
    outputs: Sequence[onnx.ValueInfoProto], wanted: Sequence[_Output]
) -> list[onnx.ValueInfoProto]:
    """Return the outputs in the order wanted; nothing where they are others."""
    found = [[value for value in outputs if _is_wanted(value, output)] for output in wanted]
    if len(outputs) != len(wanted) or any(len(values) != 1 for values in found):
        return []
    return [values[0] for values in found]


def _is_wanted(value: onnx.ValueInfoProto, wanted: _Output) -> bool:
    dims = _dims(value)
    return (
        wanted.name in ("", value.name)
        and value.type.tensor_type.elem_type in wanted.kinds
        and len(dims) == len(wanted.dims)
        and all(side in (None, dim) for side, dim in zip(wanted.dims, dims, strict=True))
    )


def _takes_images(value: onnx.ValueInfoProto, name: Name) -> bool:
    dims, kind = _dims(value), value.type.tensor_type.elem_type
    if name in ("heads", "suite") and kind == _UINT8:
        return len(dims) == 4 and takes_channels_last(dims)
    channels = dims[-3:-2]
    ranks = (3, 4) if name == "torchvision" else (4,)
    return kind == _FLOAT and len(dims) in ranks and channels in ([3], [0])


def _describe(
    name: Name, images: onnx.ValueInfoProto, outputs: Sequence[onnx.ValueInfoProto]
) -> Layout:
    dims = _dims(images)
    prepares = images.type.tensor_type.elem_type == _UINT8
    sides = () if prepares else tuple(dims[-2:])
    return Layout(
        name=name,
        outputs=tuple(value.name for value in outputs),
        dims=tuple(tuple(_dims(value)) for value in outputs),
        # Without an axis of images in the answer there is one image only.
        batch=1 if name == "torchvision" else dims[0],
        image_hw=sides if all(sides) else (),
        bare=len(dims) == 3,
        prepares=prepares,
    )


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [max(dim.dim_value, 0) for dim in value.type.tensor_type.shape.dim]


def _show(values: Sequence[onnx.ValueInfoProto]) -> str:
    """Return names, kinds and shapes; anyone may have chosen the names."""
    shown = []
    for value in values[:_MAX_SHOWN]:
        kind = value.type.tensor_type.elem_type
        known = kind in onnx.TensorProto.DataType.values()
        dtype = onnx.TensorProto.DataType.Name(kind).lower() if known else "?"
        sides = ",".join(str(side or "?") for side in _dims(value))
        shown.append(f"{clean(value.name)} {dtype} [{sides}]")
    more = ["more"] if len(values) > _MAX_SHOWN else []
    return ", ".join([*shown, *more]) or "nothing"


def _flatten(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the operators of a graph and of its branches as one list; others' graphs have some.

    Loops stay what they are, for they may never end.
    """
    flat = onnx.ModelProto(functions=model.functions)
    for graph in _list_branches(model.graph):
        flat.graph.sparse_initializer.extend(graph.sparse_initializer)
        flat.graph.node.extend(node for node in graph.node if not _is_branch(node))
    return flat


def _list_branches(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in filter(_is_branch, graph.node):
        for entry in node.attribute:
            yield from _list_branches(entry.g)


def _is_branch(node: onnx.NodeProto) -> bool:
    plain = node.op_type == "If" and node.domain in ("", "ai.onnx")
    return plain and all(entry.HasField("g") and not entry.graphs for entry in node.attribute)


def _find_opset(model: onnx.ModelProto, *, source: str) -> int:
    newest = onnx.defs.onnx_opset_version()
    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(found) != 1 or not 1 <= found[0] <= newest:
        imports = ", ".join(map(str, found[:3])) or "none"
        raise InputError(f"{source}: of opset {imports}; one of 1 to {newest} is known here")
    return int(found[0])


def _name_input(graph: onnx.GraphProto, layout: Layout, name: str) -> Layout:
    """Call the input what all code here feeds; another value of that name gets the input's."""
    names = {name: INPUT_NAME, INPUT_NAME: name}
    for part in _list_branches(graph):
        for node in part.node:
            node.input[:] = [names.get(value, value) for value in node.input]
            node.output[:] = [names.get(value, value) for value in node.output]
        for value in [*part.input, *part.output, *part.value_info, *part.initializer]:
            value.name = names.get(value.name, value.name)
    return replace(layout, outputs=tuple(names.get(value, value) for value in layout.outputs))
