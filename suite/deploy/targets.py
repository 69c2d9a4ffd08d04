"""What each runtime takes of a graph, and how the graph is handed to it.

Limits are those of the documents of ONNX Runtime, OpenVINO, TensorRT 10 and CANN 8.5. ONNX Runtime
and OpenVINO are run by the tests. For TensorRT and CANN there was no hardware: limits, options and
command lines are from their documents and sources, unverified on hardware.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx

from suite.errors import UsageError
from suite.graph_file import INPUT_NAME
from suite.graph_metadata import GraphMetadata, Precision, Target
from suite.graph_session import PROVIDERS, cann_precision_mode, provider_options
from suite.sizing import STRIDE_MULTIPLE, build_sizing

UNVERIFIED: Final = "unverified on hardware"
MAX_BATCH: Final = 8  # that a TensorRT engine of a free batch is built for


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a runtime takes.

    Attributes:
        name: for people.
        opsets: of ONNX.
        precisions: of the network.
        max_detections: that NonMaxSuppression may keep of an image; None: any number.
        max_topk: the K of one TopK; None: any.
        fixed_shape: whether batch, height and width have to be fixed.
        takes_bytes: whether the input may be uint8, as of graphs that prepare images.
        nms_inputs: that NonMaxSuppression has to have at least.
        refused: operators that it lacks.
    """

    name: str
    opsets: range = range(16, 21)
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    max_detections: int | None = None
    max_topk: int | None = None
    fixed_shape: bool = False
    takes_bytes: bool = False
    nms_inputs: int = 2
    refused: frozenset[str] = frozenset()


LIMITS: Final[Mapping[Target, Limits]] = {
    "ort": Limits(name="ONNX Runtime", precisions=("fp32", "fp16", "int8"), takes_bytes=True),
    "openvino": Limits(name="OpenVINO", precisions=("fp32", "fp16", "int8"), takes_bytes=True),
    # Its int8 is symmetric, without the uint8 of our activations; its uint8 inputs are to be cast
    # before anything else, and ours are transposed first.
    "tensorrt": Limits(name="TensorRT", max_topk=3839),
    # atc crashes of a NonMaxSuppression with four inputs, and takes uint8 by its AIPP only. int8
    # comes from Ascend's own tool AMCT.
    "cann": Limits(
        name="CANN",
        opsets=range(16, 19),
        max_detections=700,
        fixed_shape=True,
        nms_inputs=5,
        refused=frozenset({"If", "Loop", "Scan", "Trilu"}),
    ),
}


def check_target(metadata: GraphMetadata, model: onnx.ModelProto | None = None) -> None:
    """Hold a graph against the limits of the runtime that it is made for.

    Args:
        metadata: what the graph says, or will say, of itself.
        model: the graph, once there is one.

    Raises:
        UsageError: it breaks limits, all of which are named with their remedies.
    """
    broken = [*_list_broken(metadata), *(_list_foreign(model, metadata) if model else ())]
    if broken:
        lines = "".join(f"\n  {sentence}" for sentence in broken)
        raise UsageError(f"--target {metadata.target}: {LIMITS[metadata.target].name} takes{lines}")


def list_providers(metadata: GraphMetadata) -> list[tuple[str, dict[str, str]]]:
    """Return execution providers of ONNX Runtime with their options, in order of preference.

    What the first does not take falls to the next: assert `session.get_providers()[0]` before a
    number is believed. TensorRT and CANN: unverified on hardware. Those of CANN are what
    `open_graph` itself passes on an Ascend; this suite opens no session with TensorRT's.

    Raises:
        UsageError: the graph is made for a runtime of its own.
    """
    if metadata.target == "ort":
        return [("CPUExecutionProvider", {})]
    if metadata.target == "tensorrt":
        # NonMaxSuppression there cuts the candidates, and leaves ties in any order.
        options = {"trt_op_types_to_exclude": "NonMaxSuppression"}
        if _is_free(metadata):
            for name, shape in _shape_range(metadata).items():
                options[f"trt_profile_{name}_shapes"] = _profile(shape)
        return [("TensorrtExecutionProvider", options), ("CUDAExecutionProvider", {})]
    if metadata.target == "cann":
        return [(PROVIDERS["npu"], provider_options("npu", metadata.precision))]
    raise UsageError("OpenVINO runs its graphs itself, without ONNX Runtime's providers")


def require_int8(metadata: GraphMetadata, *, source: str) -> None:
    """Refuse a graph whose runtime would not take it in int8.

    Args:
        metadata: of the fp32 graph.
        source: how messages name it.

    Raises:
        UsageError: it is made for such a runtime.
    """
    limits = LIMITS[metadata.target]
    if "int8" in limits.precisions:
        return
    able = [name for name, other in LIMITS.items() if "int8" in other.precisions]
    raise UsageError(
        f"{source}: exported with --target {metadata.target}, and {limits.name} takes "
        f"{' and '.join(limits.precisions)}, not int8; export it with --target {' or '.join(able)}"
    )


def atc_command(metadata: GraphMetadata, graph: Path, soc: str) -> list[str]:
    """Return the words of the command that compiles a graph for an Ascend; unverified on hardware.

    Args:
        metadata: of the graph, made for `cann`.
        graph: its file; the result is to stand beside it, with the suffix `.om`.
        soc: what `npu-smi info` calls the chip, after "Ascend", such as Ascend310P3.

    Raises:
        UsageError: the graph is not made for CANN, or `soc` is no name of an Ascend.
    """
    _require_target(metadata, "cann", graph)
    if not re.fullmatch(r"Ascend[A-Za-z0-9_]{1,32}", soc):
        raise UsageError(f"{soc[:50]!r}: no Ascend; give its name, such as Ascend310P3")
    shape = ",".join(str(side) for side in _shape(metadata, metadata.batch, metadata.image_hw))
    return [
        "atc",
        "--framework=5",
        f"--model={graph}",
        f"--output={graph.with_suffix('')}",
        f"--soc_version={soc}",
        f"--input_format={metadata.input.layout}",
        f"--input_shape={INPUT_NAME}:{shape}",
        f"--precision_mode={cann_precision_mode(metadata.precision)}",
    ]


def trtexec_command(metadata: GraphMetadata, graph: Path) -> list[str]:
    """Return the words of the command that builds a TensorRT engine; unverified on hardware.

    Args:
        metadata: of the graph, made for `tensorrt`.
        graph: its file; the engine is to stand beside it.

    Raises:
        UsageError: the graph is not made for TensorRT.
    """
    _require_target(metadata, "tensorrt", graph)
    words = ["trtexec", f"--onnx={graph}", f"--saveEngine={graph.with_suffix('.engine')}"]
    # Types as they are in the graph, whose postprocess is fp32; and fp32 without TF32's rounding.
    words += ["--stronglyTyped", "--noTF32"]
    if _is_free(metadata):
        for name, shape in _shape_range(metadata).items():
            words.append(f"--{name}Shapes={_profile(shape)}")
    return words


def format_handover(metadata: GraphMetadata, graph: Path, *, soc: str) -> str:
    """Return how a graph for TensorRT or CANN is handed over, as lines of a shell script.

    Args:
        metadata: of the graph.
        graph: its file.
        soc: as in `atc_command`; TensorRT has no use for it.

    Raises:
        UsageError: the graph is made for neither, or `soc` is no name of an Ascend.
    """
    is_cann = metadata.target == "cann"
    words = atc_command(metadata, graph, soc) if is_cann else trtexec_command(metadata, graph)
    return (
        f"# {LIMITS[metadata.target].name}: {UNVERIFIED}\n"
        f"{shlex.join(words)}\n"
        f"# providers of ONNX Runtime: {json.dumps(list_providers(metadata))}\n"
    )


def _is_free(metadata: GraphMetadata) -> bool:
    """Whether batch, or height and width, are free."""
    return metadata.batch == 0 or not metadata.image_hw


def _list_broken(metadata: GraphMetadata) -> Iterator[str]:
    limits, postprocess = LIMITS[metadata.target], metadata.postprocess
    if metadata.opset not in limits.opsets:
        yield (
            f"opset {limits.opsets.start} to {limits.opsets[-1]}, not {metadata.opset}; "
            f"pass --opset {limits.opsets[-1]}"
        )
    if metadata.precision not in limits.precisions:
        yield (
            f"{' and '.join(limits.precisions)}, not {metadata.precision}; "
            f"pass --precision {limits.precisions[0]}"
        )
    if metadata.prepares_images and not limits.takes_bytes:
        yield "images as float32, not as uint8; leave --preprocess out"
    if limits.fixed_shape and metadata.batch == 0:
        yield "a fixed batch; pass --batch 1, or another number"
    if limits.fixed_shape and not metadata.image_hw:
        yield "a fixed size; pass --size, such as --size 800x1344"
    if metadata.nms == "none":
        return
    if limits.max_detections is not None and postprocess.max_detections > limits.max_detections:
        yield (
            f"at most {limits.max_detections} detections, not {postprocess.max_detections}; "
            f"pass --max-detections {limits.max_detections}"
        )
    if limits.max_topk is not None and postprocess.pre_topk > limits.max_topk:
        yield (
            f"at most {limits.max_topk} candidates of one TopK, not {postprocess.pre_topk}; "
            f"pass --pre-topk {limits.max_topk}"
        )


def _list_foreign(model: onnx.ModelProto, metadata: GraphMetadata) -> Iterator[str]:
    limits = LIMITS[metadata.target]
    nodes = list(model.graph.node)
    for name in sorted({node.op_type for node in nodes} & limits.refused):
        yield f"no operator {name}, which is in the graph"
    for node in nodes:
        given = sum(bool(name) for name in node.input)
        if node.op_type == "NonMaxSuppression" and given < limits.nms_inputs:
            yield f"NonMaxSuppression with {limits.nms_inputs} inputs, the graph's has {given}"
        if node.op_type == "Resize" and metadata.target != "ort" and _is_antialiased(node):
            yield "no antialiased Resize, which is in the graph"


def _is_antialiased(node: onnx.NodeProto) -> bool:
    return any(entry.name == "antialias" and entry.i for entry in node.attribute)


def _require_target(metadata: GraphMetadata, target: Target, graph: Path) -> None:
    if metadata.target != target:
        raise UsageError(
            f"{graph}: made for {LIMITS[metadata.target].name}; export it with --target {target}"
        )


def _shape(metadata: GraphMetadata, batch: int, image_hw: tuple[int, ...]) -> tuple[int, ...]:
    return (batch, *image_hw, 3) if metadata.prepares_images else (batch, 3, *image_hw)


def _shape_range(metadata: GraphMetadata) -> dict[str, tuple[int, ...]]:
    """Return the smallest, the most frequent and the largest input of a graph with free sides."""
    sizing = build_sizing(metadata.resize)
    usual = metadata.image_hw or sizing.canvas_hw(sizing.nominal_hw)
    low, high = metadata.image_hw, metadata.image_hw
    if not metadata.image_hw:
        least = -(-metadata.min_side // STRIDE_MULTIPLE) * STRIDE_MULTIPLE
        low, high = (least, least), (max(usual), max(usual))
    batches = (metadata.batch,) * 2 if metadata.batch else (1, MAX_BATCH)
    return {
        "min": _shape(metadata, batches[0], low),
        "opt": _shape(metadata, batches[0], usual),
        "max": _shape(metadata, batches[1], high),
    }


def _profile(shape: tuple[int, ...]) -> str:
    return f"{INPUT_NAME}:{'x'.join(str(side) for side in shape)}"
