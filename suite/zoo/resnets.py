"""ResNet backbones under torchvision's key names, which most projects share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from models.resnet import ResNet
from suite.errors import InputError
from suite.zoo.plan import BackbonePlan, Plan
from suite.zoo.state_file import StateFile
from suite.zoo.translate import COUNTER, Translation

# By the blocks of the third stage and whether they are bottlenecks.
_DEPTHS: Final = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101}
_STRIDES: Final = (1, 2, 2, 2)


def find_depth(keys: Iterable[str], *, prefix: str, source: Path) -> int:
    """Return which ResNet some keys belong to.

    Args:
        keys: of the file.
        prefix: of the backbone's keys, "" or ending with a dot.
        source: how messages name the file.

    Raises:
        InputError: none that we have.
    """
    names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    blocks = {name.split(".")[1] for name in names if name.startswith("layer3.")}
    depth = _DEPTHS.get((len(blocks), "layer1.0.conv3.weight" in names))
    if depth is None:
        raise InputError(
            f"{source}: no ResNet-18, 34, 50 or 101, its layer3 has {len(blocks)} blocks; "
            "other backbones are not built here"
        )
    return depth


def has_bottlenecks(depth: int) -> bool:
    """Tell whether a ResNet's blocks have a 1x1 convolution that could hold the stride."""
    return any(found == depth for (_, bottleneck), found in _DEPTHS.items() if bottleneck)


def backbone_state(target: BackbonePlan) -> dict[str, Tensor]:
    """Return the state dict of a backbone, shapes without values."""
    with torch.device("meta"):
        return ResNet(target.depth, _STRIDES[: target.num_stages]).state_dict()


def ignore_classifier(key: str) -> str | None:
    """Return why a key of a classification network is left out; None for one that is needed."""
    if key in ("fc.weight", "fc.bias"):
        return "the classifier, detectors have their own"
    return ignore_counter(key)


def ignore_counter(key: str) -> str | None:
    """Return why a counter of batch norm is left out; None for other keys."""
    return "a counter that nothing reads" if key.endswith(COUNTER) else None


def plan_backbone(file: StateFile, *, what: str, hint: str) -> Plan:
    """Return how a ResNet under torchvision's key names is imported.

    Args:
        file: of the backbone.
        what: as the account says it, the depth follows.
        hint: what to give instead of a file that does not fit.

    Raises:
        InputError: it is another network.
    """
    if "conv1.weight" not in file.tensors:
        raise InputError(f"{file.path}: neither a RetinaNet nor a ResNet; {hint}")
    depth = find_depth(file.tensors, prefix="", source=file.path)
    translation = Translation(
        what=f"{what}-{depth}",
        rename=lambda key: key,
        ignore=ignore_classifier,
        rewrites=(),
        hint=hint,
    )
    return Plan(file.tensors, translation, BackbonePlan(depth))
