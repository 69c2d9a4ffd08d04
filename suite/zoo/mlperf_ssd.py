"""MLPerf training's PyTorch reference of SSD-ResNet34 at 300x300 (v0.5 to v1.1).

The backbone is torchvision's cut in two: `model.layer1` holds the stem and the first two stages,
`model.layer2` the third. Head outputs are viewed as [class, anchor and cell] and [coordinate,
anchor and cell], so channels are class * S + anchor and coordinate * S + anchor where ours are
anchor * K + class and anchor * 4 + coordinate. Background is class 0 there as here; boxes are
centre x, centre y, width, height with the scales 0.1 and 0.2 in both, anchors the same.

Source: mlcommons/training, single_stage_detector/ssd (ssd300.py, base_model.py, utils.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from models.anchors import SSD300_LEVELS
from suite.zoo.classes import Classes, resolve_classes
from suite.zoo.layouts import anchor_major, select_slots
from suite.zoo.plan import DetectorPlan, Options, Plan, count_slots
from suite.zoo.resnets import ignore_counter
from suite.zoo.state_file import StateFile
from suite.zoo.translate import Rewrite, Translation

_BASE_RECIPE: Final = "ssd_r34_8p"
_CLASS_OUT: Final = "conf.0.weight"
_HINT: Final = (
    "give a checkpoint of the reference's train.py, whose keys begin with model, loc, conf"
)
_STEM: Final = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2"}
_BACKBONE: Final = re.compile(r"model\.layer1\.([0145])\.(.+)")
_THIRD_STAGE: Final = re.compile(r"model\.layer2\.0\.(.+)")
_EXTRA: Final = re.compile(r"additional_blocks\.(\d)\.([02])\.(weight|bias)")
_HEAD: Final = re.compile(r"(loc|conf)\.(\d)\.(weight|bias)")


def plan_mlperf_ssd(file: StateFile, options: Options) -> Plan:
    """Return how a checkpoint of the reference is imported.

    Raises:
        InputError: it is of another network.
    """
    num_slots = count_slots(
        file.tensors,
        _CLASS_OUT,
        num_anchors=SSD300_LEVELS[0].num_shapes,
        source=file.path,
        hint=_HINT,
    )
    classes = resolve_classes(
        num_slots,
        background=1,
        named=_find_class_names(file.beside),
        annotations=options.annotations,
        source=file.path,
    )
    translation = Translation(
        what="MLPerf's SSD-ResNet34",
        rename=rename,
        ignore=ignore_counter,
        rewrites=tuple(_build_rewrites(num_slots, classes)),
        hint=_HINT,
    )
    notes = (
        "the weights of MLPerf inference's 1200x1200 variant have the same names and shapes; "
        "only those trained at 300x300 detect here",
    )
    target = DetectorPlan(_BASE_RECIPE, {"name": "ssd_r34"}, {}, classes)
    return Plan(file.tensors, translation, target, notes)


def rename(key: str) -> str | None:
    """Return our name of a key of the reference; None if it is not one."""
    if match := _BACKBONE.fullmatch(key):
        return f"backbone.{_STEM[match[1]]}.{match[2]}"
    if match := _THIRD_STAGE.fullmatch(key):
        return f"backbone.layer3.{match[1]}"
    if match := _EXTRA.fullmatch(key):
        return f"extras.{match[1]}.{'squeeze' if match[2] == '0' else 'expand'}.{match[3]}"
    if match := _HEAD.fullmatch(key):
        return f"{'box' if match[1] == 'loc' else 'class'}_heads.{match[2]}.{match[3]}"
    return None


def _build_rewrites(num_slots: int, classes: Classes) -> list[Rewrite]:
    num_anchors = {
        f"{head}.{level}.{kind}": shapes.num_shapes
        for head in ("class_heads", "box_heads")
        for level, shapes in enumerate(SSD300_LEVELS)
        for kind in ("weight", "bias")
    }
    class_keys = [key for key in num_anchors if key.startswith("class")]
    turn = anchor_major(num_anchors, what="anchor innermost -> anchor outermost")
    return [turn, *select_slots(class_keys, num_slots=num_slots, slots=(0, *classes.slots))]


def _find_class_names(beside: Mapping[Any, Any]) -> Sequence[str]:
    """Return the names in the checkpoint's `label_map`, without the background; () if none."""
    label_map = beside.get("label_map")
    if not isinstance(label_map, dict):
        return ()
    names = [label_map.get(label) for label in range(1, len(label_map))]
    return [name for name in names if type(name) is str]
