"""mmdetection's RetinaNet, 2.x and 3.x, and backbones under its names.

The head's channels are anchor by anchor and class by class, without background, as ours; sizes,
anchors and losses are our defaults. `caffe` models have the stride of a stage in its first 1x1
convolution, where they have one (ResNet-50 and up), and were trained on BGR bytes without division;
the input is converted, the stride is a variant.

Source: mmdet/models/necks/fpn.py, mmdet/models/dense_heads/retina_head.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from suite.zoo.layouts import caffe_input
from suite.zoo.plan import BackbonePlan, DetectorPlan, Options, Plan
from suite.zoo.resnets import find_depth, has_bottlenecks, ignore_counter, plan_backbone
from suite.zoo.retinanets import BASE_RECIPE, RESIZE, find_p6_source, plan_classes
from suite.zoo.state_file import StateFile
from suite.zoo.translate import Translation

_BACKBONE: Final = "backbone."
_CLASS_OUT: Final = "bbox_head.retina_cls.weight"
_P6: Final = "neck.fpn_convs.3.conv.weight"
_HINT: Final = "give a RetinaNet checkpoint of mmdetection with a plain ResNet, or a ResNet"
_LATERAL: Final = re.compile(r"neck\.lateral_convs\.([012])\.conv\.(weight|bias)")
_PYRAMID: Final = re.compile(r"neck\.fpn_convs\.([01234])\.conv\.(weight|bias)")
_TOWER: Final = re.compile(r"bbox_head\.(cls|reg)_convs\.([0123])\.conv\.(weight|bias)")
_OUT: Final = re.compile(r"bbox_head\.retina_(cls|reg)\.(weight|bias)")
_STYLE_NOTE: Final = "models with caffe in their names need --style caffe"
_LEVELS: Final = ("output.0", "output.1", "output.2", "p6", "p7")
_OURS: Final = {"cls": "class", "reg": "box"}


def plan_mmdet(file: StateFile, options: Options) -> Plan:
    """Return how a file of mmdetection is imported.

    Raises:
        InputError: it is of another network.
    """
    if any(key.startswith(_BACKBONE) for key in file.tensors):
        return _plan_detector(file, options)
    plan = plan_backbone(file, what="mmdetection's ResNet", hint=_HINT)
    if options.style == "pytorch":
        return replace(plan, notes=(_STYLE_NOTE,))
    assert isinstance(plan.target, BackbonePlan)
    strided = has_bottlenecks(plan.target.depth)
    return replace(
        plan,
        translation=replace(plan.translation, rewrites=(caffe_input("conv1.weight"),)),
        notes=("goes with detector.variant.caffe_stride: true",) if strided else (),
    )


def rename(key: str) -> str | None:
    """Return our name of a key of mmdetection's RetinaNet; None if it is not one."""
    if key.startswith(_BACKBONE):
        return key
    if match := _LATERAL.fullmatch(key):
        return f"neck.lateral.{match[1]}.{match[2]}"
    if match := _PYRAMID.fullmatch(key):
        number = int(match[1])
        return (
            f"neck.output.{number}.{match[2]}" if number < 3 else f"neck.p{number + 3}.{match[2]}"
        )
    if match := _TOWER.fullmatch(key):
        return f"head.{_OURS[match[1]]}_tower.{match[2]}.{match[3]}"
    if match := _OUT.fullmatch(key):
        return f"head.{_OURS[match[1]]}_out.{match[2]}"
    return None


def _ignore(key: str) -> str | None:
    if key.startswith("data_preprocessor."):
        return "the input's mean and std, which --style tells"
    return ignore_counter(key)


def _plan_detector(file: StateFile, options: Options) -> Plan:
    depth = find_depth(file.tensors, prefix=_BACKBONE, source=file.path)
    classes, rewrites = plan_classes(
        file,
        options,
        class_out=_CLASS_OUT,
        background=0,
        named=_find_class_names(file.beside),
        hint=_HINT,
    )
    caffe = options.style == "caffe"
    if caffe:
        rewrites.append(caffe_input("backbone.conv1.weight"))
    translation = Translation(
        what=f"mmdetection's RetinaNet with ResNet-{depth}, style {options.style}",
        rename=rename,
        ignore=_ignore,
        rewrites=tuple(rewrites),
        hint=_HINT,
    )
    variant = {
        "caffe_stride": caffe and has_bottlenecks(depth),
        "p6_from": find_p6_source(file, _P6),
    }
    detector = {"name": f"retinanet_r{depth}_fpn", "variant": variant}
    notes = () if caffe else (_STYLE_NOTE,)
    target = DetectorPlan(BASE_RECIPE, detector, {"resize": RESIZE}, classes)
    return Plan(file.tensors, translation, target, notes)


def _find_class_names(beside: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the names in a checkpoint's `meta`, where 2.x or 3.x put them; () if none."""
    meta = beside.get("meta")
    if not isinstance(meta, dict):
        return ()
    dataset = meta.get("dataset_meta")
    places = [meta, dataset] if isinstance(dataset, dict) else [meta]
    for place in places:
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, list | tuple) and all(type(name) is str for name in names):
                return tuple(names)
    return ()
