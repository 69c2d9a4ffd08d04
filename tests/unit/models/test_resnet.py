"""The backbone: torchvision's names and sizes, both paddings, how it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.resnet import (
    BasicBlock,
    Padding,
    ResNet,
    max_pool_3x3,
    pad_same,
    scale_channels,
)


def test_whole_network_has_the_published_size_and_stride() -> None:
    # 21,797,672 of the published network less its classifier, 512 * 1000 + 1000.
    backbone = ResNet(34)
    assert sum(p.numel() for p in backbone.parameters()) == 21_797_672 - 513_000
    assert backbone.channels == [64, 128, 256, 512]
    with torch.inference_mode():
        assert backbone.eval()(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 512, 2, 2)


def test_three_stages_with_the_last_stride_removed() -> None:
    backbone = ResNet(34, (1, 2, 1), width=0.25)
    with torch.inference_mode():
        stages = backbone.eval()(torch.zeros(2, 3, 300, 300))
    assert [stage.shape for stage in stages] == [(2, 16, 75, 75), (2, 32, 38, 38), (2, 64, 38, 38)]


def test_published_weights_fit_by_name_and_shape(shared: Path) -> None:
    path = shared / "weights" / "resnet34_imagenet.pth"
    published = torch.load(path, weights_only=True, mmap=True)
    ours = {
        name: value.shape
        for name, value in ResNet(34).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    theirs = {
        name: value.shape
        for name, value in published.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    assert ours == theirs


def test_batch_norm_has_the_published_constants() -> None:
    layers = [m for m in ResNet(34, (1, 2, 1)).modules() if isinstance(m, nn.BatchNorm2d)]
    # One in the stem, two in each of 3 + 4 + 6 blocks, and two projections.
    assert len(layers) == 1 + 2 * 13 + 2
    assert {(layer.eps, layer.momentum) for layer in layers} == {(1e-5, 0.1)}


def test_a_fresh_block_passes_its_input_on() -> None:
    stage = ResNet(34, width=0.25).eval().get_submodule("layer1")
    features = torch.rand(1, 16, 9, 9)
    assert torch.equal(stage(features), features)


def test_a_trained_block_adds_to_its_shortcut() -> None:
    block = BasicBlock(2, 2, stride=1).eval()
    features = torch.randn(1, 2, 6, 6)
    change = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(features)))))
    assert torch.equal(block(features), torch.relu(features + change))


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (512, 0.25, 128), (64, 0.125, 8), (128, 0.3, 40), (64, 0.01, 8)],
)
def test_widths_are_multiples_of_eight(channels: int, width: float, expected: int) -> None:
    assert scale_channels(channels, width) == expected


def pool_slowly(plane: NDArray[np.float32], *, before: int) -> NDArray[np.float32]:
    """3x3 stride 2 maximum whose first window starts `before` pixels outside."""
    size = -(-len(plane) // 2)
    pooled = np.empty((size, size), dtype=np.float32)
    for row in range(size):
        for column in range(size):
            top, left = 2 * row - before, 2 * column - before
            window = plane[max(top, 0) : top + 3, max(left, 0) : left + 3]
            pooled[row, column] = window.max()
    return pooled


@pytest.mark.parametrize(
    ("size", "same", "before"),
    [
        (150, False, 1),
        (150, True, 0),  # TensorFlow: nothing before, one after
        (9, True, 1),  # an odd side needs two, one on each end
    ],
)
def test_max_pool_starts_where_its_framework_starts(size: int, same: bool, before: int) -> None:
    # Negative values: a padding of zeros would win.
    features = -torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    found = max_pool_3x3(features, same=same)
    assert np.array_equal(found[0, 0].numpy(), pool_slowly(features[0, 0].numpy(), before=before))


@pytest.mark.parametrize("padding", ["torch", "same"])
def test_the_stem_pools_with_the_padding_asked_for(padding: Padding) -> None:
    backbone = ResNet(34, (1,), width=0.25, padding=padding).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stem = torch.relu(backbone.bn1(backbone.conv1(images)))
    (features,) = backbone(images)
    # A fresh stage is the identity.
    assert torch.equal(features, max_pool_3x3(stem, same=padding == "same"))
    assert not torch.equal(features, max_pool_3x3(stem, same=padding != "same"))


@pytest.mark.parametrize(("size", "before", "after"), [(38, 0, 1), (19, 1, 1), (10, 0, 1)])
def test_same_padding_of_the_strided_levels(size: int, before: int, after: int) -> None:
    padded = pad_same(torch.ones(1, 1, size, size), kernel=3, stride=2)[0, 0]
    expected = np.pad(np.ones((size, size)), (before, after))
    assert np.array_equal(padded.numpy(), expected)


@pytest.mark.parametrize("frozen_stages", [0, 1, 3])
def test_frozen_stages_keep_their_weights_and_statistics(frozen_stages: int) -> None:
    backbone = ResNet(18, width=0.125, frozen_stages=frozen_stages).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    torch.autograd.backward(backbone(torch.randn(2, 3, 64, 64))[-1].square().mean())
    parts = ["conv1", "bn1", *(f"layer{n}" for n in range(1, frozen_stages + 1))]
    frozen = tuple(f"{part}." for part in parts) if frozen_stages else ("nothing",)
    for key, value in backbone.state_dict().items():
        if key.startswith(frozen) or not key.endswith(("running_mean", "running_var")):
            assert torch.equal(value, before[key]) or key.endswith("tracked"), key
        else:
            assert not torch.equal(value, before[key]), key
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == key.startswith(frozen), key
    assert backbone.eval().training is False
    assert not any(module.training for module in backbone.modules())
