"""What a detector's graph will say about itself, and which input sizes it may have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import onnx
import torch

import suite
from models.detector import Detector
from suite.checkpoint import TrainedDetector
from suite.data.transforms import MEAN, STD
from suite.errors import UsageError
from suite.graph_metadata import (
    GraphInput,
    GraphMetadata,
    Nms,
    Precision,
    Software,
    Target,
)
from suite.recipe import Recipe, recipe_digest
from suite.recipe_sections import MAX_SIDE, Postprocess
from suite.sizing import STRIDE_MULTIPLE, build_sizing

OPSETS: Final = range(16, 21)
OPSET: Final = 18
# The newest that every ONNX Runtime since 1.16 loads; the exporter's own (10) needs 1.18.
IR_VERSION: Final = 8

_BOXES_OF = {
    False: "boxes: xyxy in pixels of the input, multiply by original size / size within the "
    "input; ",
    True: "boxes: xyxy in pixels of the image; ",
}
_ROWS = (
    "scores: best first; labels: places in class_names; num_dets: rows in use, the others hold box "
    "0, score 0, label -1"
)
_HEADS = {
    True: "logits: before the softmax, class 0 is background; deltas: of the anchors' centres and "
    "log sizes, divided by 0.1 and 0.2",
    False: "logits: before the sigmoid, no background; deltas: of the anchors' centres and log "
    "sizes",
}
_RESIZE = "bilinear, antialiased, half-pixel centres, "
_FITTING = {
    "stretch": _RESIZE + "aspect ratio not kept",
    "pad": _RESIZE + "aspect ratio kept; zeros to the right and below, after normalisation",
}
_FITTING["fixed"] = _FITTING["pad"]


@dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What kind of graph is wanted.

    Attributes:
        nms: "op" puts the postprocess into the graph, "none" leaves raw heads.
        size: height and width to fix; None leaves them free where the detector does.
        batch: images at a time; 0 leaves it free.
        prepare: whether resize and normalisation are in the graph.
        precision: of the network.
        opset: of ONNX, 16 to 20.
        target: the runtime whose limits it keeps to.
        runtime_thresholds: whether score and IoU threshold are inputs too.
        score_threshold, iou_threshold, max_detections, pre_topk: instead of the recipe's.
    """

    nms: Nms = "op"
    size: tuple[int, int] | None = None
    batch: int = 0
    prepare: bool = False
    precision: Precision = "fp32"
    opset: int = OPSET
    target: Target = "ort"
    runtime_thresholds: bool = False
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    pre_topk: int | None = None


def request_like(metadata: GraphMetadata) -> GraphRequest:
    """Return what was wanted of a graph, its thresholds in place of the recipe's."""
    image_hw, limits = metadata.image_hw, metadata.postprocess
    return GraphRequest(
        nms=metadata.nms,
        size=(image_hw[0], image_hw[1]) if image_hw else None,
        batch=metadata.batch,
        prepare=metadata.prepares_images,
        precision=metadata.precision,
        opset=metadata.opset,
        target=metadata.target,
        runtime_thresholds=metadata.runtime_thresholds,
        score_threshold=limits.score_threshold,
        iou_threshold=limits.iou_threshold,
        max_detections=limits.max_detections,
        pre_topk=limits.pre_topk,
    )


def describe_graph(trained: TrainedDetector, request: GraphRequest) -> GraphMetadata:
    """Return the metadata of a detector's graph.

    Raises:
        UsageError: there can be no such graph of it.
    """
    if request.opset not in OPSETS:
        raise UsageError(f"--opset {request.opset}: {OPSETS.start} to {OPSETS[-1]} can be written")
    if request.nms == "none" and request.runtime_thresholds:
        raise UsageError("--runtime-thresholds: a graph with --nms none has no thresholds")
    detector = trained.detector
    recipe = replace(trained.recipe, postprocess=_choose_limits(trained.recipe, request))
    image_hw = _choose_size(recipe, request.size)
    if request.prepare and not image_hw:
        raise UsageError(
            "--preprocess: needs a fixed size to fit images into; pass --size, such as "
            f"--size {_suggest_size(recipe)}"
        )
    min_side = _find_min_side(detector, recipe, image_hw)
    if image_hw and min(image_hw) < min_side:
        raise UsageError(
            f"--size {image_hw[0]}x{image_hw[1]}: gives fewer candidates than "
            f"postprocess.max_detections {recipe.postprocess.max_detections}; at least {min_side} "
            "pixels each way"
        )
    return GraphMetadata(
        schema="suite.graph/3",
        detector=recipe.detector.name,
        width=recipe.detector.width,
        num_classes=recipe.detector.num_classes,
        num_logits=detector.num_logits,
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        image_hw=image_hw,
        batch=request.batch,
        min_side=min_side,
        resize=recipe.resize,
        input=GraphInput(
            name="images",
            layout="NHWC" if request.prepare else "NCHW",
            dtype="uint8" if request.prepare else "float32",
            colour="RGB",
            scale=1 / 255,
            mean=tuple(MEAN.tolist()),
            std=tuple(STD.tolist()),
            resize=_FITTING[recipe.resize.mode],
        ),
        outputs=_describe_outputs(detector, request),
        postprocess=recipe.postprocess,
        nms=request.nms,
        runtime_thresholds=request.runtime_thresholds,
        precision=request.precision,
        calibration=None,
        target=request.target,
        opset=request.opset,
        ir_version=IR_VERSION,
        recipe=recipe.name,
        recipe_digest=recipe_digest(trained.recipe),
        dataset=recipe.data.name,
        checkpoint_sha256=trained.sha256,
        step=trained.step,
        software=Software(
            suite=suite.__version__, torch=str(torch.__version__), onnx=onnx.__version__
        ),
    )


def _describe_outputs(detector: Detector, request: GraphRequest) -> str:
    if request.nms == "op":
        return _BOXES_OF[request.prepare] + _ROWS
    return _HEADS[detector.num_logits > detector.num_classes]


def _choose_limits(recipe: Recipe, request: GraphRequest) -> Postprocess:
    """Return the recipe's thresholds and limits, or what is asked for instead."""
    names = ("score_threshold", "iou_threshold", "max_detections", "pre_topk")
    asked = {name: getattr(request, name) for name in names}
    limits = replace(
        recipe.postprocess, **{name: value for name, value in asked.items() if value is not None}
    )
    if limits.pre_topk < limits.max_detections:
        raise UsageError(
            f"--pre-topk {limits.pre_topk}: fewer candidates than --max-detections "
            f"{limits.max_detections}"
        )
    return limits


def _suggest_size(recipe: Recipe) -> str:
    sizing = build_sizing(recipe.resize)
    height, width = sizing.canvas_hw(sizing.nominal_hw)
    return f"{height}x{width}"


def _choose_size(recipe: Recipe, size: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the fixed height and width of a recipe's graph; nothing where they are free.

    Raises:
        UsageError: the detector cannot take this size.
    """
    resize = recipe.resize
    if resize.mode == "stretch":
        only = (resize.short_side, resize.long_side)
        if size not in (None, only):
            raise UsageError(
                f"--size {size[0]}x{size[1]}: {recipe.detector.name} takes {only[0]}x{only[1]} only"
            )
        return only
    if size is None:
        return ()
    if any(side % STRIDE_MULTIPLE or not 1 <= side <= MAX_SIDE for side in size):
        raise UsageError(
            f"--size {size[0]}x{size[1]}: height and width are multiples of {STRIDE_MULTIPLE} "
            f"up to {MAX_SIDE}"
        )
    return size


def _find_min_side(detector: Detector, recipe: Recipe, image_hw: tuple[int, ...]) -> int:
    """Return the side of the smallest square input with as many candidates as detections."""
    if recipe.resize.mode == "stretch":
        return image_hw[0]
    side, wanted = STRIDE_MULTIPLE, recipe.postprocess.max_detections
    while detector.num_anchors((side, side)) * detector.num_classes < wanted:
        side += STRIDE_MULTIPLE
    return side
