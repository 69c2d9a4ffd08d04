"""What is most probably guilty of a difference, told from the first stage that has it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.postprocess import PostprocessParameters
from suite.deploy.end_to_end import distance
from suite.deploy.parity import MAX_HEAD_DIFFERENCE, Parity
from suite.deploy.parts import open_part
from suite.deploy.sides import Fed, Sides, feed_images, feed_stack, generate_images
from suite.deploy.stages import open_stages
from suite.deploy.swaps import explain_input, find_swap
from suite.graph_file import INPUT_NAME, NETWORK_INPUT_NAME
from suite.sizing import build_sizing

_CLOSE_SCORES = 1e-5
# As large as common photos, so that a resize has to make them much smaller.
_LARGE_HW = (480, 640)


def find_cause(sides: Sides, parity: Parity) -> str:
    """Return a sentence on what makes the first stage differ; empty where nothing is known."""
    stage = parity.first_failure()
    if stage is None:
        return ""
    if stage.name == "description":
        return _read_description(parity)
    if stage.name == "input":
        return _blame_preparation(sides)
    if stage.name in ("logits", "deltas"):
        return _blame_heads(sides)
    if stage.name == "candidates":
        return _blame_candidates(sides)
    if stage.name == "NMS":
        return ", ".join(list_other_limits(sides.graph.model.graph, sides.parameters))
    return ""


def _read_description(parity: Parity) -> str:
    if "checkpoint_sha256" in parity.metadata:
        return "the graph is of another checkpoint"
    fed = [key for key in parity.metadata if key.startswith("input.")]
    if fed:
        return f"it asks for images that are prepared otherwise ({', '.join(fed)})"
    return ""


def _blame_preparation(sides: Sides) -> str:
    metadata = sides.graph.metadata
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    fed = feed_stack(generate_images(_LARGE_HW), sizing)
    prepare = open_part(
        sides.graph, inputs=[INPUT_NAME], outputs=[NETWORK_INPUT_NAME], source=sides.source
    )
    assert fed.images is not None
    (found,) = prepare([NETWORK_INPUT_NAME], {INPUT_NAME: fed.images})
    return explain_input(fed.images, found, sizing)


def _blame_heads(sides: Sides) -> str:
    fed = _first_fed(sides)
    ours = sides.ask_checkpoint(fed).heads

    def measure(pixels: torch.Tensor) -> float:
        pairs = zip(ours, sides.ask_network(pixels), strict=True)
        return max(distance(one, other) for one, other in pairs)

    swap = find_swap(fed.pixels, measure, enough=10 * MAX_HEAD_DIFFERENCE)
    if swap:
        return swap
    theirs = sides.ask_network(fed.pixels)
    names = ("logits", "deltas")
    differing = [
        (name, _tell_where(one, other))
        for name, one, other in zip(names, ours, theirs, strict=True)
        if not distance(one, other) <= MAX_HEAD_DIFFERENCE
    ]
    if len(differing) == 1:
        name, where = differing[0]
        head = {"logits": "class", "deltas": "box"}[name]
        return f"weights of the {head} heads, as only the {name} differ ({where})"
    return "weights before the heads, or what is done to the input: both heads differ"


def _tell_where(one: NDArray[np.float32], other: NDArray[np.float32]) -> str:
    if one.shape != other.shape:
        return f"of shape {list(other.shape)} instead of {list(one.shape)}"
    differs = ~(np.abs(one - other) <= MAX_HEAD_DIFFERENCE)
    anchors = np.flatnonzero(differs.any(axis=(0, 2)))
    return f"of anchors {anchors[0]} to {anchors[-1]} of {one.shape[1]}"


def _blame_candidates(sides: Sides) -> str:
    stages = open_stages(sides.graph, sides.detector, sides.parameters, source=sides.source)
    ours, theirs = stages.both_candidates()
    scores = [-np.sort(-found[1], axis=1) for found in (ours, theirs)]
    if not distance(*scores) <= _CLOSE_SCORES:
        return "how logits become scores, or which are the best: the scores differ"
    return "anchors or how boxes are decoded from them: the scores are equal"


def list_other_limits(graph: onnx.GraphProto, limits: PostprocessParameters) -> Iterator[str]:
    """Yield what a graph's own NonMaxSuppression has instead of the checkpoint's."""
    nodes = [node for node in graph.node if node.op_type == "NonMaxSuppression"]
    wanted = {
        "max_output_boxes": (2, limits.max_detections),
        "IoU threshold": (3, limits.iou_threshold),
        "score threshold": (4, limits.score_threshold),
    }
    for node in nodes:
        for name, (place, value) in wanted.items():
            found = _find_constant(graph, node.input[place]) if place < len(node.input) else None
            if found is not None and found != np.float32(value):
                yield f"its NonMaxSuppression has {name} {found:g} instead of {value:g}"


def _find_constant(graph: onnx.GraphProto, name: str) -> float | None:
    stored = [tensor for tensor in graph.initializer if tensor.name == name]
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            stored += [entry.t for entry in node.attribute if entry.name == "value"]
    if len(stored) != 1:
        return None
    values = onnx.numpy_helper.to_array(stored[0])
    return float(values.reshape(-1)[0]) if values.size == 1 else None


def _first_fed(sides: Sides) -> Fed:
    return next(feed_images([], sides.graph.metadata))
