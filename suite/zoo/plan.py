"""What one file is imported as: a backbone's weights, or a whole detector with its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from suite.errors import InputError
from suite.zoo.classes import Classes
from suite.zoo.translate import Tensors, Translation


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the weights do not say of themselves.

    Attributes:
        recipe: the recipe that an imported detector goes on with; None: the source's usual one.
        style: `caffe`, stride in the 1x1 convolutions and BGR bytes as input, or `pytorch`.
        annotations: COCO JSON with the classes, where they are not COCO's.
        batch_norm_eps: epsilon the network was run with; None: nobody says, so 1e-5.
    """

    recipe: str | None = None
    style: Literal["pytorch", "caffe"] = "pytorch"
    annotations: Path | None = None
    batch_norm_eps: float | None = None


@dataclass(frozen=True)
class BackbonePlan:
    """A backbone's weights, what `detector.backbone_weights` names.

    Attributes:
        depth: of the ResNet.
        num_stages: that the file has; SSD takes three, RetinaNet four.
    """

    depth: int
    num_stages: int = 4


@dataclass(frozen=True)
class DetectorPlan:
    """A checkpoint of a detector.

    Attributes:
        base_recipe: what its recipe starts from, where no other is asked for.
        detector: fields of the recipe's `detector` section.
        others: fields by section that make the base recipe test as the source does.
        classes: of its outputs.
    """

    base_recipe: str
    detector: Mapping[str, Any]
    others: Mapping[str, Mapping[str, Any]]
    classes: Classes


@dataclass(frozen=True)
class Plan:
    """How a file is imported.

    Attributes:
        theirs: its tensors.
        translation: of its keys and layouts.
        target: what comes out.
        notes: what whoever uses the weights has to know.
    """

    theirs: Tensors
    translation: Translation
    target: BackbonePlan | DetectorPlan
    notes: tuple[str, ...] = ()


def count_slots(theirs: Tensors, key: str, *, num_anchors: int, source: Path, hint: str) -> int:
    """Return how many outputs a classification layer has for each anchor.

    Raises:
        InputError: there is no such layer, or its channels do not divide.
    """
    if key not in theirs:
        raise InputError(f"{source}: no '{key}', so no detector of this kind; {hint}")
    shape = theirs[key].shape
    if len(shape) == 0 or shape[0] == 0 or shape[0] % num_anchors:
        raise InputError(
            f"{source}: '{key}' has shape {tuple(shape)}, expected a multiple of {num_anchors} "
            "outputs, one group for each anchor of a cell"
        )
    return shape[0] // num_anchors
