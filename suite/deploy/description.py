"""What a detector's graph will say about itself, and which input sizes it may have."""

from __future__ import annotations

import onnx
import torch

import suite
from models.detector import Detector
from suite.checkpoint import TrainedDetector
from suite.data.transforms import MEAN, STD
from suite.errors import UsageError
from suite.graph_metadata import GraphInput, GraphMetadata, Nms, Software
from suite.recipe import Recipe, recipe_digest
from suite.recipe_sections import MAX_SIDE
from suite.sizing import STRIDE_MULTIPLE

OPSET = 18
# The newest that every ONNX Runtime since 1.16 loads; the exporter's own (10) needs 1.18.
IR_VERSION = 8

_DETECTIONS = (
    "boxes: xyxy in pixels of the input, multiply by original size / size within the input; "
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


def describe_graph(
    trained: TrainedDetector, *, nms: Nms, size: tuple[int, int] | None = None
) -> GraphMetadata:
    """Return the metadata of a detector's graph.

    Raises:
        UsageError: the detector cannot take this size.
    """
    recipe, detector = trained.recipe, trained.detector
    image_hw = _choose_size(recipe, size)
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
        batch=0,
        min_side=min_side,
        resize=recipe.resize,
        input=GraphInput(
            name="images",
            layout="NCHW",
            dtype="float32",
            colour="RGB",
            scale=1 / 255,
            mean=tuple(MEAN.tolist()),
            std=tuple(STD.tolist()),
            resize=_FITTING[recipe.resize.mode],
        ),
        outputs=_DETECTIONS if nms == "op" else _HEADS[detector.num_logits > detector.num_classes],
        postprocess=recipe.postprocess,
        nms=nms,
        runtime_thresholds=False,
        precision="fp32",
        calibration=None,
        target="ort",
        opset=OPSET,
        ir_version=IR_VERSION,
        recipe=recipe.name,
        recipe_digest=recipe_digest(recipe),
        dataset=recipe.data.name,
        checkpoint_sha256=trained.sha256,
        step=trained.step,
        software=Software(
            suite=suite.__version__, torch=str(torch.__version__), onnx=onnx.__version__
        ),
    )


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
