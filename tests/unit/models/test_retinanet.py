"""RetinaNet: published size, what is frozen, layout of its outputs, the variants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import build_detector
from models.anchors import retinanet_cells
from models.postprocess import PostprocessParameters
from models.resnet import Bottleneck, ResNet
from models.retinanet import RetinaNet
from models.structures import HeadOutputs, Target

IMAGE_HW = (64, 96)
NAMES = ("retinanet_r18_fpn", "retinanet_r34_fpn", "retinanet_r50_fpn", "retinanet_r101_fpn")


def build(name: str = "retinanet_r18_fpn", **options: Any) -> RetinaNet:
    torch.manual_seed(0)
    detector = build_detector(name, num_classes=3, **{"width": 0.125, **options})
    assert isinstance(detector, RetinaNet)
    return detector.eval()


def num_parameters(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def build_published(**options: Any) -> RetinaNet:
    with torch.device("meta"):
        detector = build_detector("retinanet_r50_fpn", num_classes=80, **options)
    assert isinstance(detector, RetinaNet)
    return detector


def test_parameters_are_the_published_number() -> None:
    published = build_published()
    assert num_parameters(published.backbone) == 23_508_032
    assert num_parameters(published.neck) == 7_997_440
    assert num_parameters(published.head) == 6_463_220
    assert num_parameters(published) == 37_968_692


def test_stem_and_first_stage_are_not_trained() -> None:
    published = build_published()
    assert num_parameters(published, trained=True) == 37_968_692 - 225_344 == 37_743_348
    frozen = {name for name, p in published.named_parameters() if not p.requires_grad}
    prefixes = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    assert all(name.startswith(prefixes) for name in frozen)
    assert num_parameters(build_published(frozen_stages=0), trained=True) == 37_968_692


@pytest.mark.parametrize("name", NAMES)
def test_every_member_of_the_family_answers_for_each_anchor(name: str) -> None:
    detector = build(name)
    with torch.inference_mode():
        logits, deltas = detector(torch.randn(2, 3, *IMAGE_HW))
    num_anchors = 9 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1)
    assert detector.num_anchors(IMAGE_HW) == num_anchors
    assert (detector.num_classes, detector.num_logits) == (3, 3)
    assert logits.shape == (2, num_anchors, 3) and deltas.shape == (2, num_anchors, 4)
    assert logits.isfinite().all() and deltas.isfinite().all()


@pytest.mark.parametrize("image_hw", [(1, 1), (33, 65), (100, 70), (95, 257)])
def test_sides_need_not_be_multiples_of_32(image_hw: tuple[int, int]) -> None:
    detector = build()
    parameters = PostprocessParameters(
        score_threshold=0.0, iou_threshold=0.5, max_detections=10, pre_topk=20
    )
    with torch.inference_mode():
        outputs = detector(torch.randn(1, 3, *image_hw))
        found = detector.detect(outputs, parameters, image_hw=image_hw)
    assert outputs.logits.shape[1] == detector.num_anchors(image_hw)
    boxes_xyxy, _, _, num_dets = found
    assert int(num_dets) > 0
    assert boxes_xyxy.min() >= 0
    assert boxes_xyxy[..., 0::2].max() <= image_hw[1] and boxes_xyxy[..., 1::2].max() <= image_hw[0]


# Start and training


def test_every_class_starts_at_a_probability_of_a_hundredth() -> None:
    detector = build(width=1.0)
    head = detector.head
    assert head.class_out.bias is not None and head.box_out.bias is not None
    assert head.class_out.bias.tolist() == pytest.approx([-4.59512] * 27, abs=5e-6)
    assert not head.box_out.bias.any()
    layers = [*head.class_tower, *head.box_tower, head.class_out, head.box_out]
    for layer in layers:
        assert isinstance(layer, nn.Conv2d)
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    with torch.inference_mode():
        logits, _ = detector(torch.randn(1, 3, *IMAGE_HW))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_the_pyramid_starts_with_xavier_weights_and_zero_biases() -> None:
    neck = build(width=1.0).neck
    for layer in [*neck.lateral, *neck.output, neck.p6, neck.p7]:
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        assert not layer.bias.any()
        area = layer.kernel_size[0] * layer.kernel_size[1]
        bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
        assert 0.99 * bound < layer.weight.abs().max() <= bound


def enliven(detector: RetinaNet) -> RetinaNet:
    """Give each layer weights through which gradients pass; the fresh ones hardly let any."""
    for module in detector.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
    return detector


def a_box_of_each_level(detector: RetinaNet) -> Target:
    rows = []
    for level in detector.anchors(IMAGE_HW):
        x, y, width, height = level[len(level) // 2].tolist()
        rows.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return Target(torch.tensor([rows, rows]), torch.tensor([[0, 1, 2, 0, 1]] * 2))


@pytest.mark.parametrize("name", ["retinanet_r18_fpn", "retinanet_r50_fpn"])
@pytest.mark.parametrize("frozen_stages", [0, 1, 2])
def test_what_is_not_frozen_is_trained_and_statistics_stay(name: str, frozen_stages: int) -> None:
    detector = enliven(build(name, frozen_stages=frozen_stages)).train()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    outputs = detector(torch.randn(2, 3, *IMAGE_HW))
    losses = detector.loss(outputs, a_box_of_each_level(detector), image_hw=IMAGE_HW)
    assert set(losses) == {"classification", "box"}
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    parts = ["conv1", "bn1", *(f"layer{n}" for n in range(1, frozen_stages + 1))]
    frozen = tuple(f"backbone.{part}." for part in parts) if frozen_stages else ("nothing",)
    for key, parameter in detector.named_parameters():
        if key.startswith(frozen):
            assert parameter.grad is None, key
        else:
            assert parameter.grad is not None and parameter.grad.any(), key
            assert parameter.grad.isfinite().all(), key
    for key, value in detector.state_dict().items():
        assert torch.equal(value, before[key]), key
    layers = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers and not any(layer.training for layer in layers)
    # Their scales are trained all the same.
    assert any(layer.weight.grad is not None for layer in layers)


def test_a_fresh_detector_learns() -> None:
    torch.manual_seed(1)
    detector = build(width=0.25).train()
    for layer in [*detector.head.class_tower, *detector.head.box_tower]:
        assert isinstance(layer, nn.Conv2d)
        nn.init.kaiming_normal_(layer.weight)  # its own 0.01 is for 256 channels
    images = torch.randn(2, 3, *IMAGE_HW)
    target = a_box_of_each_level(detector)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(12):
        losses = detector.loss(detector(images), target, image_hw=IMAGE_HW)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


# Layout of the outputs


class Spots(nn.Module):
    """A neck in which each level sees one bright cell of its own."""

    def __init__(self, channels: int, cells: list[tuple[int, int]], spots: list[tuple[int, int]]):
        super().__init__()
        self.levels = []
        for size, (row, column) in zip(cells, spots, strict=True):
            level = torch.zeros(1, channels, *size)
            level[:, :, row, column] = 1
            self.levels.append(level)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return self.levels


def test_outputs_run_over_levels_rows_columns_and_anchors() -> None:
    image_hw = (160, 224)
    detector = build()
    cells = retinanet_cells(image_hw)
    spots = [(3, 20), (9, 1), (4, 6), (0, 2), (1, 0)]
    detector.neck = Spots(32, cells, spots)  # type: ignore[assignment]  # a stand-in
    for layer in [*detector.head.class_tower, *detector.head.box_tower]:
        assert isinstance(layer, nn.Conv2d)
        nn.init.dirac_(layer.weight)
    for layer in (detector.head.class_out, detector.head.box_out):
        layer.weight.data.zero_()
        layer.weight.data[:, :, 1, 1] = 1  # looks at its own cell only
        assert layer.bias is not None
        layer.bias.data.zero_()
    with torch.inference_mode():
        outputs = detector(torch.zeros(1, 3, *image_hw))
    anchors = torch.cat(detector.anchors(image_hw))
    assert len(anchors) == outputs.logits.shape[1]
    expected, first = [], 0
    for (rows, columns), (row, column) in zip(cells, spots, strict=True):
        expected += [first + (row * columns + column) * 9 + shape for shape in range(9)]
        first += rows * columns * 9
    for values in outputs:
        assert values[0].amin(dim=1).nonzero().flatten().tolist() == expected
    strides = torch.tensor([8, 16, 32, 64, 128]).repeat_interleave(9)
    wanted = torch.tensor([[column, row] for row, column in spots]).repeat_interleave(9, dim=0)
    assert torch.equal(anchors[expected, :2], (wanted * strides[:, None]).float())


def test_channels_of_a_head_run_over_anchors_then_classes() -> None:
    detector = build()
    for layer in (detector.head.class_out, detector.head.box_out):
        assert layer.bias is not None
        layer.weight.data.zero_()
        layer.bias.data = torch.arange(layer.out_channels).float()
    with torch.inference_mode():
        logits, deltas = detector(torch.zeros(1, 3, *IMAGE_HW))
    cells = sum(rows * columns for rows, columns in retinanet_cells(IMAGE_HW))
    assert torch.equal(logits[0], torch.arange(27.0).view(9, 3).repeat(cells, 1))
    assert torch.equal(deltas[0], torch.arange(36.0).view(9, 4).repeat(cells, 1))


def test_a_confident_anchor_becomes_a_detection() -> None:
    detector = build()
    num_anchors = detector.num_anchors(IMAGE_HW)
    place = num_anchors - 9 + 1  # P7, ratio 0.5, second scale
    logits = torch.full((2, num_anchors, 3), -9.0)
    logits[1, place, 2] = 4
    logits[1, 100, 0] = 3
    parameters = PostprocessParameters(
        score_threshold=0.05, iou_threshold=0.5, max_detections=10, pre_topk=100
    )
    outputs = HeadOutputs(logits, torch.zeros(2, num_anchors, 4))
    boxes_xyxy, scores, labels, num_dets = detector.detect(outputs, parameters, image_hw=IMAGE_HW)
    assert num_dets.tolist() == [0, 2]
    assert labels[1].tolist() == [2, 0] + [-1] * 8
    assert scores[1, :2].tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (4, 3)])
    anchors = torch.cat(detector.anchors(IMAGE_HW))
    for row, anchor in enumerate((place, 100)):
        x, y, width, height = anchors[anchor].tolist()
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        wanted = np.clip(corners, 0, [96, 64, 96, 64])
        assert boxes_xyxy[1, row].tolist() == pytest.approx(wanted, abs=1e-3)


def test_each_level_gives_candidates_of_its_own_anchors() -> None:
    image_hw = (96, 160)
    detector = build()
    levels = detector.anchors(image_hw)
    num_anchors = detector.num_anchors(image_hw)
    logits, deltas = torch.full((1, num_anchors, 3), -9.0), torch.zeros(1, num_anchors, 4)
    expected, first = [], 0
    for number, level in enumerate(levels):
        place = len(level) * (number + 1) // 6
        logits[0, first + place, number % 3] = 5.0 - number
        deltas[0, first + place, 0] = 0.5  # half a width to the right
        x, y, width, height = level[place].tolist()
        x += width / 2
        expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        first += len(level)
    outputs = HeadOutputs(logits, deltas)
    boxes_xyxy, scores, labels = detector.candidates(outputs, image_hw=image_hw, pre_topk=1)
    assert labels.tolist() == [[0, 1, 2, 0, 1]]
    assert scores[0].tolist() == pytest.approx([1 / (1 + math.exp(n - 5)) for n in range(5)])
    np.testing.assert_allclose(boxes_xyxy[0], expected, atol=1e-3)


# Variants


def test_p6_is_made_from_c5_and_p7_from_p6_as_it_is() -> None:
    neck = build().neck
    assert neck.p6.in_channels == 64  # C5 of ResNet-18 at this width
    features = [torch.randn(1, channels, 64 // step, 64 // step) for channels, step in
                ((16, 8), (32, 16), (64, 32))]  # fmt: skip
    *_, p6, p7 = neck(features)
    assert torch.equal(p6, neck.p6(features[-1]))
    assert (p6 < 0).any()
    assert torch.equal(p7, neck.p7(p6))


def test_p6_from_p5_and_a_rectified_p6_as_torchvision_has_them() -> None:
    neck = build(p6_from="p5", relu_before_p7=True).neck
    assert neck.p6.in_channels == 32
    features = [torch.randn(1, channels, 64 // step, 64 // step) for channels, step in
                ((16, 8), (32, 16), (64, 32))]  # fmt: skip
    *_, p5, p6, p7 = neck(features)
    assert torch.equal(p6, neck.p6(p5))
    assert torch.equal(p7, neck.p7(p6.clamp(min=0)))
    assert not torch.equal(p7, neck.p7(p6))


def test_maps_are_summed_from_the_top_down_to_the_size_of_the_finer_one() -> None:
    neck = build().neck
    sizes = [(13, 9), (7, 5), (4, 3)]
    features = [torch.randn(1, channels, *size) for channels, size in
                zip((16, 32, 64), sizes, strict=True)]  # fmt: skip
    c3, c4, c5 = (conv(level) for conv, level in zip(neck.lateral, features, strict=True))

    def enlarge(level: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = (torch.arange(n) * m // n for n, m in zip(size, level.shape[2:],
                                                                  strict=True))  # fmt: skip
        return level[:, :, rows][:, :, :, columns]

    m4 = c4 + enlarge(c5, sizes[1])
    m3 = c3 + enlarge(m4, sizes[0])
    for level, conv, found in zip((m3, m4, c5), neck.output, neck(features), strict=False):
        torch.testing.assert_close(conv(level), found)


@pytest.mark.parametrize("caffe_stride", [False, True])
def test_a_bottleneck_has_its_stride_in_one_of_two_places(caffe_stride: bool) -> None:
    backbone = ResNet(50, width=0.125, caffe_stride=caffe_stride)
    for number, stride in enumerate((1, 2, 2, 2), start=1):
        blocks = [m for m in backbone.get_submodule(f"layer{number}") if isinstance(m, Bottleneck)]  # type: ignore[attr-defined]
        first, second = blocks[0].conv1.stride[0], blocks[0].conv2.stride[0]
        assert (first, second) == ((stride, 1) if caffe_stride else (1, stride))
        assert all(m.conv1.stride == m.conv2.stride == (1, 1) for m in blocks[1:])
    stages = backbone(torch.randn(1, 3, 64, 96))
    assert [stage.shape[2:] for stage in stages] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("option", "value", "changes"),
    [
        ("caffe_stride", True, {"outputs"}),
        ("relu_before_p7", True, {"outputs"}),
        ("anchors", "torchvision", {"anchors", "loss"}),
        ("normaliser", "image", {"loss"}),
        ("low_quality", "own_best", {"loss"}),
    ],
)
def test_a_variant_changes_what_it_names(option: str, value: object, changes: set[str]) -> None:
    plain = build("retinanet_r50_fpn")
    other = build("retinanet_r50_fpn", **{option: value})
    enliven(plain)
    other.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, *IMAGE_HW, generator=torch.Generator().manual_seed(0))
    # The small box wants anchors that overlap the other one more; the images' positives differ.
    boxes = [[[8.0, 8, 40, 40], [22, 22, 26, 26]], [[0, 0, 9, 9], [0, 0, 0, 0]]]
    target = Target(torch.tensor(boxes), torch.tensor([[0, 1], [2, -1]]))
    with torch.inference_mode():
        outputs = plain(images)
        found = set()
        if not torch.equal(outputs.logits, other(images).logits):
            found.add("outputs")
        pairs = zip(plain.anchors(IMAGE_HW), other.anchors(IMAGE_HW), strict=True)
        if not all(torch.equal(one, another) for one, another in pairs):
            found.add("anchors")
        losses = [d.loss(outputs, target, image_hw=IMAGE_HW) for d in (plain, other)]
        if losses[0] != losses[1]:
            found.add("loss")
    assert found == changes


def test_published_backbone_names_are_kept() -> None:
    names = set(build_published().backbone.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.weight"} <= names
    assert "layer4.2.conv3.weight" in names
    assert not [name for name in names if name.startswith("fc.")]
