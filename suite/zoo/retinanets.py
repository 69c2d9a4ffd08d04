"""What RetinaNets of all projects have in common here."""

from __future__ import annotations

from typing import Final

from models.anchors import RETINANET_SHAPES
from suite.zoo.classes import Classes, resolve_classes
from suite.zoo.layouts import select_slots
from suite.zoo.plan import Options, count_slots
from suite.zoo.state_file import StateFile
from suite.zoo.translate import Rewrite

BASE_RECIPE: Final = "retinanet_r50_fpn_8p"
# Tested on images padded to multiples of 32, everywhere.
RESIZE: Final = {"mode": "pad", "short_side": 800, "long_side": 1333}
_CLASS_LAYER: Final = ("head.class_out.weight", "head.class_out.bias")
_PYRAMID_CHANNELS: Final = 256


def find_p6_source(file: StateFile, key: str) -> str:
    """Return what P6 was computed from: P5 has the pyramid's channels, C5 has more."""
    p6 = file.tensors.get(key)
    from_p5 = p6 is not None and p6.ndim == 4 and p6.shape[1] == _PYRAMID_CHANNELS
    return "p5" if from_p5 else "c5"


def plan_classes(
    file: StateFile,
    options: Options,
    *,
    class_out: str,
    background: int,
    named: tuple[str, ...],
    hint: str,
) -> tuple[Classes, list[Rewrite]]:
    """Return the classes of a head and the rewrite that brings them into our order.

    Args:
        file: of the detector.
        options: with the annotations.
        class_out: the file's key of the last classification layer.
        background: 1 if its first output per anchor is background, else 0.
        named: the classes as the file names them; () where it does not.
        hint: what to give instead of a file without such a layer.

    Raises:
        InputError: there is no such layer, or nobody knows its classes.
    """
    path = file.path
    num_slots = count_slots(
        file.tensors, class_out, num_anchors=RETINANET_SHAPES, source=path, hint=hint
    )
    classes = resolve_classes(
        num_slots,
        background=background,
        named=named,
        annotations=options.annotations,
        source=path,
    )
    return classes, select_slots(_CLASS_LAYER, num_slots=num_slots, slots=classes.slots)
