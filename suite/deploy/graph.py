"""From a detector to one ONNX graph with its postprocess and NonMaxSuppression inside.

The data-dependent part of the postprocess is the custom operator `suite::suppress`, of static shape
to the exporter; here it becomes ONNX's own NonMaxSuppression, scattered back into static rows.

Input `images` float32 [batch,3,H,W], H and W fixed or free in multiples of 32, or uint8
[batch,H,W,3] of any size where the graph prepares images itself; outputs `boxes` [batch,D,4],
`scores` and `labels` [batch,D], `num_dets` [batch]. What verification compares in between keeps
stable names (`INNER_NAMES`).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import onnx
import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from models.detector import Detector
from models.postprocess import PostprocessParameters
from models.structures import HeadOutputs
from suite.checkpoint import TrainedDetector
from suite.deploy.description import IR_VERSION, GraphRequest, describe_graph
from suite.deploy.preparation import Preparation, measure, to_image
from suite.errors import InputError
from suite.graph_file import (
    HEAD_NAMES,
    INPUT_NAME,
    NETWORK_INPUT_NAME,
    OUTPUT_NAMES,
    THRESHOLD_NAMES,
)
from suite.graph_metadata import GraphMetadata, encode_metadata
from suite.recipe_sections import MAX_SIDE
from suite.sizing import STRIDE_MULTIPLE, build_sizing

CANDIDATE_NAMES = ("candidate_boxes", "candidate_scores", "candidate_labels")
INNER_NAMES = HEAD_NAMES + CANDIDATE_NAMES

_EXAMPLE_HW = (256, 384)


def build_graph(trained: TrainedDetector, request: GraphRequest) -> onnx.ModelProto:
    """Export a detector with its metadata.

    An int8 graph is made of the fp32 one: see `suite.deploy.quantization`.

    Args:
        trained: the detector; its recipe's thresholds are baked in.
        request: what kind of graph is wanted.

    Raises:
        UsageError: there can be no such graph of it.
    """
    metadata = describe_graph(trained, request)
    module = _Graph(trained.detector, metadata)
    names = module.output_names()
    model = _export(module, names, metadata)
    # The inner values were outputs only so that the exporter names them.
    del model.graph.output[len(_final_names(metadata)) :]
    if metadata.runtime_thresholds:
        _open_thresholds(model)
    _make_portable(model, metadata.opset)
    describe_in(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def describe_in(model: onnx.ModelProto, metadata: GraphMetadata) -> None:
    """Let a graph say what it is."""
    plain = encode_metadata(metadata)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in plain.items()})


def _final_names(metadata: GraphMetadata) -> tuple[str, ...]:
    return OUTPUT_NAMES if metadata.nms == "op" else HEAD_NAMES


def cut_graph(
    model: onnx.ModelProto, *, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return the part of a graph that leads from named values to named values.

    Raises:
        InputError: the graph has no such values.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    if not {*inputs, *outputs} <= {*makers, INPUT_NAME}:
        raise InputError(
            f"the graph does not name its inner values {', '.join(INNER_NAMES)} "
            "(rewritten by another tool?); export it again"
        )
    used = set(outputs)
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name in makers and name not in inputs:
            pending += set(makers[name].input) - used
            used |= set(makers[name].input)
    needed = used - set(inputs)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "part"
    part.graph.input.extend(_declare(name) for name in inputs)
    part.graph.output.extend(_declare(name) for name in outputs)
    # ONNX Runtime infers the sizes of some operators wrongly without these.
    part.graph.value_info.extend(v for v in model.graph.value_info if v.name in needed)
    part.graph.node.extend(n for n in model.graph.node if not needed.isdisjoint(n.output))
    part.graph.initializer.extend(w for w in model.graph.initializer if w.name in needed)
    return part


def _declare(name: str) -> onnx.ValueInfoProto:
    whole = name in ("labels", "num_dets", "candidate_labels")
    kind = onnx.TensorProto.INT64 if whole else onnx.TensorProto.FLOAT
    return onnx.helper.make_tensor_value_info(name, kind, None)


class _Graph(nn.Module):
    """What is exported: preparation, detector and postprocess, every stage an output."""

    def __init__(self, detector: Detector, metadata: GraphMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.parameters_of_nms = PostprocessParameters(**asdict(metadata.postprocess))
        self.preparation = None
        if metadata.prepares_images:
            sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
            self.preparation = Preparation(sizing, metadata.input)
        self.detector = _halved(detector) if metadata.precision == "fp16" else detector

    def output_names(self) -> tuple[str, ...]:
        """Return the names of what `forward` returns: first what stays."""
        inner = (*HEAD_NAMES, *CANDIDATE_NAMES) if self.metadata.nms == "op" else ()
        prepared = (NETWORK_INPUT_NAME,) if self.preparation is not None else ()
        return (*_final_names(self.metadata), *inner, *prepared)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        prepared: tuple[Tensor, ...] = ()
        pixels = images
        if self.preparation is not None:
            pixels, picture_hw = self.preparation(images)
            prepared = (pixels,)
        outputs = self._detect(pixels)
        if self.metadata.nms == "none":
            return (*outputs, *prepared)
        image_hw = pixels.shape[2], pixels.shape[3]
        candidates = self.detector.candidates(
            outputs, image_hw=image_hw, pre_topk=self.parameters_of_nms.pre_topk
        )
        detections = self.detector.suppress(candidates, self.parameters_of_nms, image_hw=image_hw)
        if self.preparation is not None:
            boxes_xyxy = to_image(detections[0], measure(images), picture_hw)
            detections = boxes_xyxy, *detections[1:]
        return (*detections, *outputs, *candidates, *prepared)

    def _detect(self, pixels: Tensor) -> HeadOutputs:
        if self.metadata.precision != "fp16":
            return self.detector(pixels)
        return HeadOutputs(*(output.float() for output in self.detector(pixels.half())))


def _halved(detector: Detector) -> Detector:
    """Return a copy whose weights are fp16; anchors and what else is computed stay fp32."""
    half = copy.deepcopy(detector)
    for module in half.modules():
        weights = list(module.parameters(recurse=False))
        for tensor in [*weights, *(module.buffers(recurse=False) if weights else ())]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.half()
    return half


def _export(module: nn.Module, names: Sequence[str], metadata: GraphMetadata) -> onnx.ModelProto:
    example, free = _example(metadata)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=metadata.opset,
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_shapes=(free,),
            custom_translation_table={torch.ops.suite.suppress.default: _suppress},
        )
    assert program is not None
    return program.model_proto


def _example(metadata: GraphMetadata) -> tuple[Tensor, dict[int, Any]]:
    """Return an input, and which of its axes are free."""
    # Two images: a batch of one would be taken for a constant.
    batch = metadata.batch or 2
    free: dict[int, Any] = {} if metadata.batch else {0: torch.export.Dim("batch")}
    if metadata.prepares_images:
        free |= {axis: torch.export.Dim(name) for axis, name in ((1, "height"), (2, "width"))}
        return torch.zeros(batch, *_EXAMPLE_HW, 3, dtype=torch.uint8), free
    if not metadata.image_hw:
        for axis, name in ((2, "rows"), (3, "columns")):
            free[axis] = STRIDE_MULTIPLE * torch.export.Dim(name, max=MAX_SIDE // STRIDE_MULTIPLE)
    return torch.zeros(batch, 3, *(metadata.image_hw or _EXAMPLE_HW)), free


def _suppress(
    boxes_xyxy: FLOAT, scores: FLOAT, iou_threshold: float, score_threshold: float, max_dets: int
) -> tuple[FLOAT, INT64]:
    """Write `models.postprocess.suppress` in ONNX operators; the annotations are ONNX types."""
    limit = _int64(max_dets)
    selected = op.NonMaxSuppression(
        boxes_xyxy,
        op.Unsqueeze(scores, _int64(1)),
        limit,
        _float32(iou_threshold),
        _float32(score_threshold),
    )
    # Rows of (image, class, box); there is one class row, the classes lie apart on a grid.
    places = op.Gather(selected, _int64(0, 2), axis=1)
    nothing = op.Expand(_float32(0.0), op.Shape(scores))
    kept = op.ScatterND(nothing, places, op.GatherND(scores, places))
    return op.TopK(kept, limit, axis=1)


# onnxscript types a Constant as any tensor.
def _int64(*values: int) -> INT64:
    return cast(INT64, op.Constant(value_ints=values))


def _float32(value: float) -> FLOAT:
    return cast(FLOAT, op.Constant(value_floats=[value]))


def _open_thresholds(model: onnx.ModelProto) -> None:
    """Make both thresholds inputs, whose defaults are what is baked in."""
    graph = model.graph
    (suppression,) = [node for node in graph.node if node.op_type == "NonMaxSuppression"]
    baked = {tensor.name: tensor for tensor in graph.initializer}
    for name, place in zip(THRESHOLD_NAMES, (4, 3), strict=True):
        default = onnx.TensorProto()
        default.CopyFrom(baked[suppression.input[place]])
        default.name = suppression.input[place] = name
        graph.initializer.append(default)
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]))
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _make_portable(model: onnx.ModelProto, opset: int) -> None:
    """Drop what speaks of this machine (stack traces, docs) and pin version fields."""
    # The exporter has been seen to write another opset than asked for, in silence.
    opsets = [(entry.domain, entry.version) for entry in model.opset_import]
    assert opsets == [("", opset)], f"the exporter wrote opsets {opsets}"
    model.ir_version = IR_VERSION
    model.producer_name = "npu-detection-suite"
    model.producer_version = ""
    model.graph.name = "detector"
    graph = model.graph
    for part in [
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
    ]:
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        # Its default, and unknown below opset 18, for which the exporter's converter leaves it.
        for attribute in [one for one in node.attribute if one.name == "noop_with_empty_axes"]:
            assert attribute.i == 0
            node.attribute.remove(attribute)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines and its remarks about absent torchvision operators."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
