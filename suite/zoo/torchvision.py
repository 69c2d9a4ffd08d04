"""torchvision's RetinaNet (`retinanet_resnet50_fpn`, the first version) and its ResNets.

Key names of both eras are taken: in older files the convolutions of a tower are numbered 0, 2, 4, 6
and those of the pyramid have no inner number. Channels of the head are anchor by anchor, as ours;
each anchor has one output per label, and labels are category ids: 0, the background, is an output
that nothing reads.

Source: torchvision/models/detection/retinanet.py, torchvision/ops/feature_pyramid_network.py.
"""

from __future__ import annotations

import re
from typing import Final

from models.anchors import RETINANET_SHAPES
from suite.errors import InputError, UsageError
from suite.zoo.plan import DetectorPlan, Options, Plan, count_slots
from suite.zoo.resnets import find_depth, ignore_counter, plan_backbone
from suite.zoo.retinanets import BASE_RECIPE, RESIZE, find_p6_source, plan_classes
from suite.zoo.state_file import StateFile
from suite.zoo.translate import Translation

_BODY: Final = "backbone.body."
_CLASS_OUT: Final = "head.classification_head.cls_logits.weight"
_P6: Final = "backbone.fpn.extra_blocks.p6.weight"
_GROUP_NORM: Final = "head.classification_head.conv.0.1.weight"
_HINT: Final = "give the state dict of torchvision's retinanet_resnet50_fpn or of a ResNet"
_COCO_SLOTS: Final = 91
_EPS_NOTE: Final = (
    "batch norm epsilon taken to be 1e-5; if training began from torchvision's COCO weights it was "
    "0: import with --batch-norm-eps 0"
)
# RetinaNet's own defaults there.
_POSTPROCESS: Final = {
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "max_detections": 300,
    "pre_topk": 1000,
}
_LATERAL: Final = re.compile(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)")
_OUTPUT: Final = re.compile(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)")
_EXTRA: Final = re.compile(r"backbone\.fpn\.extra_blocks\.(p[67]\.(?:weight|bias))")
_TOWER: Final = re.compile(
    r"head\.(classification|regression)_head\.conv\.(?:([0246])|([0123])\.0)\.(weight|bias)"
)
_OUT: Final = re.compile(
    r"head\.(?:classification_head\.(cls)_logits|regression_head\.bbox_reg)\.(weight|bias)"
)


def plan_torchvision(file: StateFile, options: Options) -> Plan:
    """Return how a file of torchvision is imported.

    Raises:
        InputError: it is of another network.
        UsageError: it may be torchvision's COCO detector and its epsilon is not given.
    """
    if _GROUP_NORM in file.tensors:
        raise InputError(
            f"{file.path}: the second version of torchvision's RetinaNet, whose head has group "
            "norm and is not built here; give the first version, retinanet_resnet50_fpn"
        )
    if any(key.startswith(_BODY) for key in file.tensors):
        return _plan_detector(file, options)
    return plan_backbone(file, what="torchvision's ResNet", hint=_HINT)


def rename(key: str) -> str | None:
    """Return our name of a key of torchvision's RetinaNet; None if it is not one."""
    if key.startswith(_BODY):
        return "backbone." + key.removeprefix(_BODY)
    if match := _LATERAL.fullmatch(key):
        return f"neck.lateral.{match[1]}.{match[2]}"
    if match := _OUTPUT.fullmatch(key):
        return f"neck.output.{match[1]}.{match[2]}"
    if match := _EXTRA.fullmatch(key):
        return f"neck.{match[1]}"
    if match := _TOWER.fullmatch(key):
        tower = "class_tower" if match[1] == "classification" else "box_tower"
        number = int(match[2]) // 2 if match[2] else int(match[3])
        return f"head.{tower}.{number}.{match[4]}"
    if match := _OUT.fullmatch(key):
        return f"head.{'class' if match[1] else 'box'}_out.{match[2]}"
    return None


def _plan_detector(file: StateFile, options: Options) -> Plan:
    depth = find_depth(file.tensors, prefix=_BODY, source=file.path)
    _require_eps(file, options)
    classes, rewrites = plan_classes(
        file, options, class_out=_CLASS_OUT, background=1, named=(), hint=_HINT
    )
    translation = Translation(
        what=f"torchvision's RetinaNet with ResNet-{depth}",
        rename=rename,
        ignore=ignore_counter,
        rewrites=tuple(rewrites),
        hint=_HINT,
    )
    variant = {
        "p6_from": find_p6_source(file, _P6),
        "relu_before_p7": True,
        "anchors": "torchvision",
        "normaliser": "image",
        "low_quality": "own_best",
    }
    detector = {"name": f"retinanet_r{depth}_fpn", "variant": variant}
    target = DetectorPlan(
        BASE_RECIPE, detector, {"postprocess": _POSTPROCESS, "resize": RESIZE}, classes
    )
    notes = (_EPS_NOTE,) if options.batch_norm_eps is None else ()
    return Plan(file.tensors, translation, target, notes)


def _require_eps(file: StateFile, options: Options) -> None:
    """Have the epsilon stated for what may be torchvision's COCO weights, which run with 0."""
    num_slots = count_slots(
        file.tensors, _CLASS_OUT, num_anchors=RETINANET_SHAPES, source=file.path, hint=_HINT
    )
    if num_slots == _COCO_SLOTS and options.batch_norm_eps is None:
        raise UsageError(
            f"{file.path}: does not say which batch norm epsilon it goes with; give "
            "--batch-norm-eps 0 for torchvision's COCO weights and what was trained on from them, "
            "--batch-norm-eps 1e-5 for a network trained otherwise"
        )
