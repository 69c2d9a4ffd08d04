"""From a detector to one ONNX graph with its postprocess and NonMaxSuppression inside.

The data-dependent part of the postprocess is the custom operator `suite::suppress`, of static shape
to the exporter; here it becomes ONNX's own NonMaxSuppression, scattered back into static rows.

Input `images` float32 [batch,3,H,W], H and W fixed or free in multiples of 32; outputs `boxes`
[batch,D,4], `scores` and `labels` [batch,D], `num_dets` [batch]. What verification compares in
between keeps stable names (`INNER_NAMES`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import onnx
import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from models.detector import Detector
from models.postprocess import PostprocessParameters
from suite.checkpoint import TrainedDetector
from suite.deploy.description import IR_VERSION, OPSET, describe_graph
from suite.errors import InputError
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES
from suite.graph_metadata import Nms, encode_metadata
from suite.recipe_sections import MAX_SIDE
from suite.runtime import postprocess_parameters
from suite.sizing import STRIDE_MULTIPLE

CANDIDATE_NAMES = ("candidate_boxes", "candidate_scores", "candidate_labels")
INNER_NAMES = HEAD_NAMES + CANDIDATE_NAMES

_EXAMPLE_HW = (256, 384)


def build_graph(
    trained: TrainedDetector, *, nms: Nms, size: tuple[int, int] | None = None
) -> onnx.ModelProto:
    """Export a detector with a dynamic batch and its metadata.

    Args:
        trained: the detector; its recipe's thresholds are baked in.
        nms: "op" for the whole postprocess, "none" for raw logits and deltas.
        size: height and width to fix; None leaves them free where the detector does.

    Raises:
        UsageError: the detector cannot take this size.
    """
    metadata = describe_graph(trained, nms=nms, size=size)
    detector, parameters = trained.detector, postprocess_parameters(trained.recipe)
    module: nn.Module = _Graph(detector, parameters) if nms == "op" else detector
    names = (OUTPUT_NAMES if nms == "op" else ()) + HEAD_NAMES
    names += CANDIDATE_NAMES if nms == "op" else ()
    model = _export(module, names, metadata.image_hw)
    if nms == "op":
        # The inner values were outputs only so that the exporter names them.
        del model.graph.output[len(OUTPUT_NAMES) :]
    _make_portable(model)
    plain = encode_metadata(metadata)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in plain.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


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
    """What is exported: the detector followed by its postprocess, every stage an output."""

    def __init__(self, detector: Detector, parameters: PostprocessParameters) -> None:
        super().__init__()
        self.detector = detector
        self.postprocess = parameters

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        image_hw = images.shape[2], images.shape[3]
        outputs = self.detector(images)
        candidates = self.detector.candidates(
            outputs, image_hw=image_hw, pre_topk=self.postprocess.pre_topk
        )
        detections = self.detector.suppress(candidates, self.postprocess, image_hw=image_hw)
        return (*detections, *outputs, *candidates)


def _export(module: nn.Module, names: Sequence[str], image_hw: tuple[int, ...]) -> onnx.ModelProto:
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, *(image_hw or _EXAMPLE_HW))
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if not image_hw:
        for axis, name in ((2, "rows"), (3, "columns")):
            free[axis] = STRIDE_MULTIPLE * torch.export.Dim(name, max=MAX_SIDE // STRIDE_MULTIPLE)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_shapes=(free,),
            custom_translation_table={torch.ops.suite.suppress.default: _suppress},
        )
    assert program is not None
    return program.model_proto


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


def _make_portable(model: onnx.ModelProto) -> None:
    """Drop what speaks of this machine (stack traces, docs) and pin version fields."""
    # The exporter has been seen to write another opset than asked for, in silence.
    opsets = [(entry.domain, entry.version) for entry in model.opset_import]
    assert opsets == [("", OPSET)], f"the exporter wrote opsets {opsets}"
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines and its remarks about absent torchvision operators."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
