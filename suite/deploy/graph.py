"""From a detector to one ONNX graph with its postprocess and NonMaxSuppression inside.

The data-dependent part of the postprocess is the custom operator `suite::suppress`, of static shape to
the exporter; here it becomes ONNX's own NonMaxSuppression, scattered back into static rows. Input
`images` float32 [batch,3,H,W]; outputs `boxes` [batch,D,4], `scores` [batch,D], `labels` [batch,D],
`num_dets` [batch]. The values in between that verification compares keep stable names (`INNER_NAMES`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from typing import Any, Literal

import onnx
import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op
from torch import Tensor, nn

from models.postprocess import PostprocessParameters, postprocess
from suite.runtime import OUTPUT_NAMES

OPSET = 18
# The newest that every ONNX Runtime since 1.16 loads; the exporter's own (10) needs 1.18.
IR_VERSION = 8

CANDIDATE_NAMES = ("candidate_boxes", "candidate_scores", "candidate_labels")
HEAD_NAMES = ("logits", "deltas")
INNER_NAMES = HEAD_NAMES + CANDIDATE_NAMES

Nms = Literal["op", "none"]


class _Graph(nn.Module):
    """What is exported: the detector followed by its postprocess, every stage an output."""

    def __init__(self, detector: nn.Module, parameters: PostprocessParameters) -> None:
        super().__init__()
        self.detector = detector
        self.parameters_ = parameters

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.detector(images)
        candidates = self.detector.candidates(outputs, pre_topk=self.parameters_.pre_topk)  # type: ignore[operator]
        detections = postprocess(
            *candidates,
            num_classes=self.detector.num_classes,  # type: ignore[arg-type]  # Module attributes are untyped
            image_hw=self.detector.image_hw,  # type: ignore[arg-type]
            parameters=self.parameters_,
        )
        return (*detections, *outputs, *candidates)


def build_graph(
    detector: nn.Module,
    parameters: PostprocessParameters,
    *,
    nms: Nms,
    metadata: dict[str, Any],
) -> onnx.ModelProto:
    """Export a detector with a dynamic batch.

    Args:
        detector: in eval mode on the CPU.
        parameters: baked into the graph.
        nms: "op" for the whole postprocess, "none" for raw logits and deltas.
        metadata: becomes `metadata_props`, one JSON value per key.
    """
    height, width = detector.image_hw  # type: ignore[misc]  # Module attributes are untyped
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, height, width)
    module = _Graph(detector, parameters) if nms == "op" else detector
    names = OUTPUT_NAMES + INNER_NAMES if nms == "op" else HEAD_NAMES
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            custom_translation_table={torch.ops.suite.suppress.default: _suppress},
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    del model.graph.output[len(OUTPUT_NAMES if nms == "op" else HEAD_NAMES) :]
    _make_portable(model)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def expose_inner_values(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose outputs are also the values of `INNER_NAMES` that it has."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {output.name for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    for name in INNER_NAMES:
        if name in made and name not in present:
            kind = onnx.TensorProto.INT64 if name == "candidate_labels" else onnx.TensorProto.FLOAT
            exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return exposed


def extract_nms_stage(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the part of a graph from its candidates to its outputs."""
    inferred = onnx.shape_inference.infer_shapes(model)
    return onnx.utils.Extractor(inferred).extract_model(list(CANDIDATE_NAMES), list(OUTPUT_NAMES))


def _suppress(  # type: ignore[no-untyped-def]  # onnxscript reads the annotations as ONNX types
    boxes_xyxy: FLOAT, scores: FLOAT, iou_threshold: float, score_threshold: float, max_dets: int
):
    """ONNX form of `models.postprocess.suppress`."""
    limit = op.Constant(value_ints=[max_dets])
    selected = op.NonMaxSuppression(
        boxes_xyxy,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        limit,
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    # Rows of (image, class, box); there is one class row, the classes lie apart on a grid.
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    nothing = op.Expand(op.Constant(value_floats=[0.0]), op.Shape(scores))
    kept: INT64 = op.ScatterND(nothing, places, op.GatherND(scores, places))
    best, index = op.TopK(kept, limit, axis=1)
    return best, index


def _make_portable(model: onnx.ModelProto) -> None:
    """Drop what speaks of this machine (stack traces, docs) and pin version fields."""
    opset = model.opset_import[0].version
    # The exporter has been seen to write another opset than asked for, in silence.
    assert len(model.opset_import) == 1 and opset == OPSET, f"exporter wrote opset {opset}"
    model.ir_version = IR_VERSION
    model.producer_name = "npu-detection-suite"
    model.producer_version = ""
    model.doc_string = ""
    model.graph.name = "detector"
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Any:
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
