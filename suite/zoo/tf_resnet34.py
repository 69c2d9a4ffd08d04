"""The ResNet-34 in TensorFlow that SSD-ResNet34 starts from on TPUs and NPUs, `model.ckpt-28152`.

The layers have no names of their own, so TensorFlow numbers them in the order in which the code
makes them: `conv2d`, `conv2d_1`, ... and `batch_normalization`, `batch_normalization_1`, ... In a
block the projection of the shortcut comes first; the first stage has none. Kernels are HWIO. The
pooling is padded as TensorFlow's SAME, which `detector.padding: same` does here.

The names stand alone in the ImageNet checkpoint and under `resnet34/` in one of the detector, which
has the first three stages only.

Source: mlcommons/training_results_v0.6, Google's SSD (ssd_architecture.py, ssd_model.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from suite.zoo.layouts import hwio_to_oihw
from suite.zoo.plan import BackbonePlan, Plan
from suite.zoo.translate import Tensors, Translation

_BLOCKS: Final = (3, 4, 6, 3)
_LAST_STAGE: Final = "layer4."
_SCOPE: Final = "resnet34/"
_LAYER: Final = re.compile(r"(conv2d|batch_normalization)(?:_([1-9]\d?))?/(\w+)")
_KINDS: Final = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_SLOTS: Final = re.compile(r".+/(Momentum|RMSProp|Adam|LARS)\w*(_\d+)?")
_HINT: Final = (
    "give the ResNet-34 checkpoint of Google's MLPerf SSD, with the variables conv2d/kernel to "
    "conv2d_28/kernel (three stages) or conv2d_35/kernel (four), alone or under resnet34/"
)


def plan_tf_resnet34(bundle: Tensors) -> Plan:
    """Return how a checkpoint is imported, with as many stages as it has."""
    scope = _SCOPE if any(name.startswith(_SCOPE) for name in bundle) else ""
    translation = translation_in(scope)
    names = (translation.rename(name) for name in bundle)
    whole = any(name is not None and name.startswith(_LAST_STAGE) for name in names)
    target = BackbonePlan(34, num_stages=4 if whole else 3)
    notes = ["goes with detector.padding: same"]
    if not whole:
        notes.append("has three stages, as ssd_r34 takes them; retinanet_r34_fpn needs four")
    return Plan(bundle, translation, target, tuple(notes))


def translation_in(scope: str) -> Translation:
    """Return the translation of variables whose names begin with `scope`."""
    return Translation(
        what="TensorFlow's ResNet-34",
        rename=lambda name: _rename(name, scope),
        ignore=lambda name: _ignore(name, scope),
        rewrites=(hwio_to_oihw(f"{conv}.weight" for conv, _ in _LAYERS),),
        hint=_HINT,
    )


def _list_layers() -> Iterator[tuple[str, str]]:
    """Yield our convolutions and their batch norms in the order in which TensorFlow makes them."""
    yield "conv1", "bn1"
    for stage, num_blocks in enumerate(_BLOCKS, start=1):
        for number in range(num_blocks):
            block = f"layer{stage}.{number}"
            if stage > 1 and number == 0:
                yield f"{block}.downsample.0", f"{block}.downsample.1"
            yield f"{block}.conv1", f"{block}.bn1"
            yield f"{block}.conv2", f"{block}.bn2"


_LAYERS: Final = tuple(_list_layers())


def _rename(name: str, scope: str) -> str | None:
    match = _LAYER.fullmatch(name.removeprefix(scope)) if name.startswith(scope) else None
    number = int(match[2] or 0) if match else 0
    if match is None or number >= len(_LAYERS) or match[3] not in _KINDS:
        return None
    is_norm = match[1] == "batch_normalization"
    if is_norm == (match[3] == "kernel"):
        return None
    return f"{_LAYERS[number][is_norm]}.{_KINDS[match[3]]}"


def _ignore(name: str, scope: str) -> str | None:
    if name in ("global_step", "beta1_power", "beta2_power", "_CHECKPOINTABLE_OBJECT_GRAPH"):
        return "the state of training"
    if name.endswith("/ExponentialMovingAverage"):
        return "the moving average of a variable; the variable itself is taken"
    if _SLOTS.fullmatch(name):
        return "a slot of the optimizer"
    if name.startswith(f"{scope}dense/"):
        return "the classifier, detectors have their own"
    if scope and name.startswith("ssd/"):
        return "SSD's own layers; only the backbone is taken"
    return None
