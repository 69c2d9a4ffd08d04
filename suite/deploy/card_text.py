"""A model card as text for people, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from suite.deploy.card import Card, Nodes, Value
from suite.graph_metadata import GraphMetadata
from suite.strict_nodes import clean

_WIDTH = 80
_LABEL_WIDTH = 15
_MAX_CLASSES = 10
_MAX_OPERATORS = 40
_MAX_VALUES = 12
# A space where no line ends.
_GLUE = "\N{NO-BREAK SPACE}"
_KINDS = {
    "checkpoint": "checkpoint of this suite",
    "graph": "ONNX graph of this suite",
    "foreign graph": "ONNX graph of another tool (no suite metadata in it)",
}


def format_card(card: Card) -> str:
    """Return the card, a paragraph for each fact."""
    rows = [("file", clean(str(card.file))), ("kind", _KINDS[card.kind])]
    if card.metadata:
        rows += _describe_model(card.metadata)
        rows += _describe_origin(card.metadata, exported=card.kind == "graph")
    if card.nodes:
        rows += _describe_nodes(card.nodes)
    rows += _describe_figures(card)
    return "\n".join(_format_row(label, text) for label, text in rows)


def _format_row(label: str, text: str) -> str:
    filled = textwrap.fill(
        text,
        _WIDTH,
        initial_indent=f"{label:<{_LABEL_WIDTH}}",
        subsequent_indent=" " * _LABEL_WIDTH,
        break_on_hyphens=False,
    )
    return filled.replace(_GLUE, " ")


def _describe_model(metadata: GraphMetadata) -> Iterator[tuple[str, str]]:
    limits = metadata.postprocess
    yield "detector", f"{metadata.detector}, width {metadata.width:g}"
    yield (
        "classes",
        f"{metadata.num_classes}: {_shorten(map(clean, metadata.class_names), _MAX_CLASSES)}",
    )
    yield "input", describe_input(metadata)
    yield "output", metadata.outputs
    if metadata.nms == "op":
        fed = ", both also inputs" if metadata.runtime_thresholds else ""
        yield (
            "thresholds",
            f"score {limits.score_threshold:g}, IoU {limits.iou_threshold:g}{fed}; at most "
            f"{limits.max_detections} detections of the {limits.pre_topk} best candidates",
        )


def _describe_origin(metadata: GraphMetadata, *, exported: bool) -> Iterator[tuple[str, str]]:
    yield "data set", metadata.dataset
    yield "recipe", f"{metadata.recipe}, step {metadata.step:,}"
    yield "recipe sha256", metadata.recipe_digest
    yield "precision", _describe_precision(metadata) if exported else metadata.precision
    if exported:
        software = metadata.software
        yield "checkpoint", metadata.checkpoint_sha256
        yield "made by", f"suite {software.suite}, torch {software.torch}, onnx {software.onnx}"


def describe_input(metadata: GraphMetadata) -> str:
    """Return, in words that are enough to implement it, how an image becomes the input."""
    fed, resize = metadata.input, metadata.resize
    batch = str(metadata.batch or "batch")
    if metadata.prepares_images:
        return (
            f"'{fed.name}' uint8 [{batch}, height, width, 3]: {fed.colour} pixels as decoded, of "
            "any size; resize and normalisation are inside"
        )
    sides = ", ".join(map(str, metadata.image_hw)) or "height, width"
    if resize.mode == "stretch":
        fit = f"resize to {resize.short_side} x {resize.long_side} (height x width)"
    else:
        fit = (
            f"resize so that the short side is {resize.short_side} and the long side at most "
            f"{resize.long_side}, then pad"
        )
        fit += (
            f" to {metadata.image_hw[0]} x {metadata.image_hw[1]}, shrinking what does not fit"
            if metadata.image_hw
            else f" to multiples of 32, at least {metadata.min_side}"
        )
    mean, std = (", ".join(f"{number:g}" for number in part) for part in (fed.mean, fed.std))
    return (
        f"'{fed.name}' {fed.dtype} [{batch}, 3, {sides}], {fed.colour}, channels first: {fit} "
        f"({fed.resize}); bytes x {_as_fraction(fed.scale)}, minus mean ({mean}), divided by std "
        f"({std})"
    )


def _as_fraction(scale: float) -> str:
    return "1/255" if scale == 1 / 255 else f"{scale:.9g}"


def _describe_precision(metadata: GraphMetadata) -> str:
    made = metadata.calibration
    if made is None:
        return f"{metadata.precision}, for {metadata.target}"
    return (
        f"{metadata.precision}, for {metadata.target}; calibrated on {made.num_images} images "
        f"(digest {made.sha256}), {len(made.float_nodes)} convolutions left float"
    )


def _describe_nodes(nodes: Nodes) -> Iterator[tuple[str, str]]:
    yield "inputs", _list_values(nodes.inputs)
    yield "outputs", _list_values(nodes.outputs)
    opsets = (f"{clean(domain)} {version}".strip() for domain, version in nodes.opsets.items())
    producer = f", written by {clean(nodes.producer)}" if nodes.producer else ""
    yield "opset", f"{', '.join(opsets) or 'none'}; IR {nodes.ir_version}{producer}"
    counts = [f"{clean(name)}{_GLUE}{count}" for name, count in nodes.operators.items()]
    total = sum(nodes.operators.values())
    yield "operators", f"{total:,} nodes: {_shorten(counts, _MAX_OPERATORS)}"


def _list_values(values: tuple[Value, ...]) -> str:
    texts = [
        f"{clean(value.name)} {value.dtype} [{', '.join(clean(str(s)) for s in value.shape)}]"
        for value in values
    ]
    return _shorten(texts, _MAX_VALUES)


def _describe_figures(card: Card) -> Iterator[tuple[str, str]]:
    cost = card.cost
    yield "parameters", f"{cost.parameters:,}{', batch norms folded' if card.nodes else ''}"
    if cost.flops is None or cost.image_hw is None:
        yield "FLOPs", "not counted: the sizes in this graph are not known"
    else:
        size = f"{cost.image_hw[0]} x {cost.image_hw[1]}"
        yield "FLOPs", f"{cost.flops / 1e9:,.4g} G an image of {size} (a multiply-add is two)"
    yield "AP", _describe_accuracy(card)
    if card.parity:
        yield "parity", _describe_parity(card.parity)
    yield "size", f"{card.num_bytes:,} bytes"
    yield "file sha256", card.sha256


def _describe_accuracy(card: Card) -> str:
    found = card.measured
    if found is None:
        return "not measured"
    at_half = "" if found.ap50 is None else f", AP50 {100 * found.ap50:.2f}"
    images = "" if found.images is None else f" ({found.images:,} images)"
    return (
        f"{100 * found.ap:.2f}{at_half} of {found.of}, on {clean(found.dataset)}{images}; "
        f"{clean(str(found.record))}"
    )


def _describe_parity(parity: Mapping[str, Any]) -> str:
    """Return the figures of a sidecar, which anyone may have written."""
    logits, deltas, found, paired = (
        parity.get(name) for name in ("logits", "deltas", "detections", "paired")
    )
    numbers = (logits, deltas, found, paired)
    if not all(isinstance(number, int | float) and abs(number) < 2**53 for number in numbers):
        return "the sidecar has other figures; see --json"
    return (
        f"logits and deltas within {logits:.2g} and {deltas:.2g} of its checkpoint's, {paired:,} "
        f"of {found:,} detections paired"
    )


def _shorten(texts: Iterable[str], most: int) -> str:
    """Return the first few texts; of one more than those, no less is said by naming it."""
    texts = list(texts)
    if len(texts) <= most + 1:
        return ", ".join(texts)
    return f"{', '.join(texts[:most])} and {len(texts) - most:,} more"
