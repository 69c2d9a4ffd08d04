"""Conversions of weights between the layouts of different projects, all of them exact.

Shape letters: O and I output and input channels, H W of a kernel, S anchors of a cell, K outputs
per anchor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from suite.zoo.translate import Rewrite, Tensors

_STD: Final = (0.229, 0.224, 0.225)  # RGB, of pixels from 0 to 1


def select_slots(keys: Iterable[str], *, num_slots: int, slots: Sequence[int]) -> list[Rewrite]:
    """Return the rewrite from `num_slots` outputs per anchor to some of them; none where all stay.

    Args:
        keys: a layer's weight [S*num_slots,...] and bias, anchor by anchor.
        num_slots: outputs per anchor in the file.
        slots: those that are kept, in our order.
    """
    if list(slots) == list(range(num_slots)):
        return []

    def convert(key: str, weights: Tensors) -> Tensor:
        tensor = weights[key]
        grouped = tensor.reshape(-1, num_slots, *tensor.shape[1:])
        return grouped[:, list(slots)].flatten(0, 1)

    what = f"{len(slots)} of {num_slots} outputs per anchor, in the order of the category ids"
    return [Rewrite(what, frozenset(keys), convert)]


def anchor_major(num_anchors: Mapping[str, int], *, what: str) -> Rewrite:
    """Return the rewrite of head channels K*S, anchor innermost, to S*K, anchor outermost.

    Args:
        num_anchors: S of each key.
        what: as the account says it.
    """

    def convert(key: str, weights: Tensors) -> Tensor:
        tensor = weights[key]
        grouped = tensor.reshape(-1, num_anchors[key], *tensor.shape[1:])
        return grouped.transpose(0, 1).flatten(0, 1)

    return Rewrite(what, frozenset(num_anchors), convert)


def hwio_to_oihw(keys: Iterable[str]) -> Rewrite:
    """Return the rewrite of TensorFlow's convolution kernels."""
    return Rewrite(
        "HWIO -> OIHW", frozenset(keys), lambda key, weights: weights[key].permute(3, 2, 0, 1)
    )


def caffe_input(key: str) -> Rewrite:
    """Return the rewrite of a stem that was trained on Caffe's inputs.

    Its input is 255 p - m in the order BGR, with m = 255 (0.406, 0.456, 0.485) exactly as our
    means; ours is (p - m / 255) / s in the order RGB. So theirs is 255 s times ours, and a weight
    for theirs, times 255 s, with the channels turned round, is one for ours. Both pad with zeros
    after normalisation, so the borders agree too.
    """
    return Rewrite("BGR bytes -> normalised RGB", frozenset([key]), _convert_stem)


def _convert_stem(key: str, weights: Tensors) -> Tensor:
    scale = 255 * torch.tensor(_STD, dtype=torch.float64)
    return (weights[key].double().flip(1) * scale[:, None, None]).float()
