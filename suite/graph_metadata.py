"""What a graph says about itself: all that a stranger needs to feed it and to read its answer.

In the file it stands as `metadata_props`, one JSON value per field of `GraphMetadata`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from suite.errors import InputError, UsageError
from suite.recipe_sections import Count, CountOrZero, Pixels, Positive, Postprocess, Resize
from suite.strict_yaml import Limit, Rule, encode_plain, read_plain

SCHEMA = "suite.graph/3"
# The names of some 5,000 classes; checking much more would take minutes.
_MAX_VALUE_CHARACTERS = 2**17

Nms = Literal["op", "none"]
Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["ort", "openvino", "tensorrt", "cann"]
Digest = Annotated[
    str,
    Limit("64 hexadecimal digits", lambda value: re.fullmatch(r"[0-9a-f]{64}", value) is not None),
]
Channels = Limit("three numbers, one per channel", lambda value: len(value) == 3)


@dataclass(frozen=True, kw_only=True)
class GraphInput:
    """How pixels become the input: bytes x scale, minus mean, divided by std; padding is zero.

    A graph that prepares images itself takes them as they are, uint8 NHWC of any size.
    """

    name: Literal["images"]
    layout: Literal["NCHW", "NHWC"]
    dtype: Literal["float32", "uint8"]
    colour: Literal["RGB"]
    scale: Positive
    mean: Annotated[tuple[float, ...], Channels]
    std: Annotated[tuple[Positive, ...], Channels]
    resize: str


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Images from which the ranges of an int8 graph were taken.

    Attributes:
        sha256: over the sorted sha256 of the images.
        float_nodes: convolutions that stayed float.
    """

    sha256: Digest
    num_images: Count
    float_nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions of what wrote the graph."""

    suite: str
    torch: str
    onnx: str


@dataclass(frozen=True, kw_only=True)
class GraphMetadata:
    """All that a stranger needs to feed a graph and to read its answer, and where it comes from."""

    schema: Literal["suite.graph/3"]
    detector: str
    width: Positive
    num_classes: Count
    num_logits: Count
    """Of each anchor in raw heads; one more than classes where the first is background."""
    class_names: tuple[str, ...]
    """By label; the dataset's own ids below likewise."""
    category_ids: tuple[CountOrZero, ...]
    image_hw: Annotated[
        tuple[Pixels, ...],
        Limit("height and width, or nothing", lambda value: len(value) in (0, 2)),
    ]
    """Of the network's input; empty: both are free, in multiples of 32."""
    batch: CountOrZero
    """Images at a time; 0: any number."""
    min_side: Pixels
    """The smallest height and width: below, there are fewer candidates than output rows."""
    resize: Resize
    """How an image is fitted to the input."""
    input: GraphInput
    outputs: str
    """What each output holds, in words."""
    postprocess: Postprocess
    nms: Nms
    runtime_thresholds: bool
    """Whether score and IoU threshold are inputs too, whose defaults are those of `postprocess`."""
    precision: Precision
    """Of the network; the postprocess is fp32 always."""
    calibration: Calibration | None
    """Of int8."""
    target: Target
    """The runtime whose limits it keeps to."""
    opset: Count
    ir_version: Count
    recipe: str
    recipe_digest: Digest
    dataset: str
    checkpoint_sha256: Digest
    step: CountOrZero
    software: Software

    @property
    def prepares_images(self) -> bool:
        """Whether resize and normalisation are in the graph."""
        return self.input.dtype == "uint8"


_RULES = (
    Rule(
        ("class_names", "num_classes"),
        lambda names, number: len(names) == number,
        "num_classes is {1}, but class_names are not as many",
    ),
    Rule(
        ("category_ids", "num_classes"),
        lambda ids, number: len(ids) == number,
        "num_classes is {1}, but category_ids are not as many",
    ),
)


def encode_metadata(metadata: GraphMetadata) -> dict[str, Any]:
    """Return metadata as plain data, what `metadata_props` and the sidecar hold."""
    plain: dict[str, Any] = encode_plain(metadata)
    return plain


def parse_metadata(properties: dict[str, str], *, source: str) -> GraphMetadata:
    """Decode and validate the metadata of a graph; keys that other tools added are left alone.

    Raises:
        InputError: the graph is not ours, or a value is damaged.
    """
    schema = properties.get("schema")
    if schema != json.dumps(SCHEMA) and str(schema).startswith('"suite.graph/'):
        raise InputError(f"{source}: exported by another version of this suite; export it again")
    if schema != json.dumps(SCHEMA):
        raise InputError(f"{source}: not a graph exported by this suite (no suite metadata in it)")
    plain = {}
    for name in (field.name for field in fields(GraphMetadata)):
        try:
            plain[name] = json.loads(properties.get(name, "")[:_MAX_VALUE_CHARACTERS])
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{source}: damaged metadata, '{name}' is missing or not JSON; export it again"
            ) from error
    try:
        return read_plain(plain, GraphMetadata, source="metadata", rules=_RULES)
    except UsageError as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{source}: damaged {problem}; export it again") from error
