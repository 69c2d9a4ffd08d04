"""SSD-ResNet34: published size, layout of its outputs, gradients, both paddings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import DETECTORS, Detector, build_detector
from models.postprocess import PostprocessParameters
from models.resnet import BasicBlock, Padding, ResNet
from models.ssd_r34 import ExtraBlock, SSDResNet34
from models.structures import HeadOutputs, Target

IMAGE_HW = (300, 300)
# Cells of a row, anchors of a cell and first anchor of each level.
LEVELS = ((38, 4, 0), (19, 6, 5776), (10, 6, 7942), (5, 6, 8542), (3, 4, 8692), (1, 4, 8728))


@pytest.fixture(scope="module")
def published() -> SSDResNet34:
    return SSDResNet34(80).eval()


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_the_published_number(published: SSDResNet34) -> None:
    assert num_parameters(published.backbone) == 8_170_304
    assert num_parameters(published.extras) == 3_574_400
    assert num_parameters(published.box_heads) == 387_192
    assert num_parameters(published.class_heads) == 7_840_638
    assert num_parameters(published) == 19_972_534
    assert all(parameter.requires_grad for parameter in published.parameters())


def test_anchors_are_no_part_of_the_weights(published: SSDResNet34) -> None:
    assert published.anchors_cxcywh.shape == (8732, 4)
    assert not [name for name in published.state_dict() if "anchors" in name]


def test_new_layers_start_with_xavier_weights_and_zero_biases(published: SSDResNet34) -> None:
    layers = [
        module
        for part in (published.extras, published.class_heads, published.box_heads)
        for module in part.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert len(layers) == 10 + 6 + 6
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any()
        area = layer.kernel_size[0] * layer.kernel_size[1]
        bound = math.sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("padding", ["torch", "same"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_outputs_have_one_row_for_each_anchor(width: float, batch: int, padding: Padding) -> None:
    detector = build_detector("ssd_r34", num_classes=5, width=width, padding=padding).eval()
    images = torch.randn(batch, 3, *IMAGE_HW)
    with torch.inference_mode():
        logits, deltas = detector(images)
    assert logits.shape == (batch, 8732, 6)
    assert deltas.shape == (batch, 8732, 4)
    assert logits.isfinite().all() and deltas.isfinite().all()


class Spot(nn.Module):
    """A backbone that sees one bright cell."""

    def __init__(self, channels: int, row: int, column: int) -> None:
        super().__init__()
        self.features = torch.zeros(1, channels, 38, 38)
        self.features[:, :, row, column] = 1

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.features]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 30), (37, 5)])
def test_outputs_of_a_cell_belong_to_the_anchors_around_it(row: int, column: int) -> None:
    detector = SSDResNet34(2, width=0.125).eval()
    detector.backbone = Spot(32, row, column)
    for head in (detector.class_heads[0], detector.box_heads[0]):
        assert isinstance(head, nn.Conv2d)
        head.weight.data.zero_()
        head.weight.data[:, :, 1, 1] = 1  # looks at its own cell only
    with torch.inference_mode():
        outputs = detector(torch.zeros(1, 3, 300, 300))
    expected = [(row * 38 + column) * 4 + shape for shape in range(4)]
    for values in outputs:
        lit = values[0, :5776].amin(dim=1).nonzero().flatten()
        assert lit.tolist() == expected
        assert (values[0, lit] > 0).all()
    centres = detector.anchors_cxcywh[expected, :2]
    assert (centres == torch.tensor([(column + 0.5) * 8, (row + 0.5) * 8])).all()


def test_channels_of_a_head_run_over_anchors_then_logits() -> None:
    detector = SSDResNet34(2, width=0.125).eval()
    for heads in (detector.class_heads, detector.box_heads):
        for head in heads:
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            head.weight.data.zero_()
            head.bias.data = torch.arange(head.out_channels).float()
    with torch.inference_mode():
        logits, deltas = detector(torch.zeros(1, 3, 300, 300))
    for cells, shapes, start in LEVELS:
        rows = slice(start, start + cells * cells * shapes)
        per_cell = torch.arange(shapes * 3.0).view(shapes, 3)
        assert torch.equal(logits[0, rows], per_cell.repeat(cells * cells, 1))
        per_cell = torch.arange(shapes * 4.0).view(shapes, 4)
        assert torch.equal(deltas[0, rows], per_cell.repeat(cells * cells, 1))


def box_of(detector: SSDResNet34, anchor: int) -> list[float]:
    x, y, width, height = detector.anchors_cxcywh[anchor].tolist()
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


@pytest.mark.parametrize("padding", ["torch", "same"])
def test_every_parameter_is_trained(padding: Padding) -> None:
    torch.manual_seed(0)
    detector = SSDResNet34(3, width=0.25, padding=padding).train()
    for module in detector.modules():
        if isinstance(module, BasicBlock):  # a zero there would stop the block's gradients
            nn.init.uniform_(module.bn2.weight, 0.5, 1)
    # A box for each level, so that every head has a positive.
    boxes = [
        box_of(detector, start + cells * cells // 2 * shapes) for cells, shapes, start in LEVELS
    ]
    target = Target(torch.tensor([boxes, boxes]), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2))
    outputs = detector(torch.randn(2, 3, 300, 300))
    losses = detector.loss(outputs, target, image_hw=IMAGE_HW)
    assert set(losses) == {"classification", "box"}
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_fresh_detector_learns() -> None:
    torch.manual_seed(1)
    detector = SSDResNet34(2, width=0.125).train()
    images = torch.randn(2, 3, 300, 300)
    target = Target(
        torch.tensor([[[40.0, 60, 140, 200]], [[150, 20, 290, 120]]]), torch.tensor([[0], [1]])
    )
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)
    history = []
    for _ in range(8):
        losses = detector.loss(detector(images), target, image_hw=IMAGE_HW)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]


def convolve_slowly(
    features: NDArray[np.float64], layer: nn.Conv2d, *, before: int, stride: int
) -> NDArray[np.float64]:
    """ReLU of a convolution whose first window starts `before` pixels outside; zeros beyond."""
    assert layer.bias is not None
    weight = layer.weight.detach().double().numpy()
    bias = layer.bias.detach().double().numpy()
    kernel, size = weight.shape[-1], features.shape[-1]
    length = -(-size // stride)
    result = np.zeros((len(bias), length, length))
    for row in range(length):
        for column in range(length):
            for dy in range(kernel):
                for dx in range(kernel):
                    y, x = row * stride + dy - before, column * stride + dx - before
                    if 0 <= y < size and 0 <= x < size:
                        result[:, row, column] += weight[:, :, dy, dx] @ features[:, y, x]
    return np.asarray(np.maximum(result + bias[:, None, None], 0))


@pytest.mark.parametrize(
    ("size", "padding", "before"),
    [(38, "torch", 1), (38, "same", 0), (19, "torch", 1), (19, "same", 1), (10, "same", 0)],
)
def test_strided_levels_start_where_their_framework_starts(
    size: int, padding: Padding, before: int
) -> None:
    torch.manual_seed(2)
    block = ExtraBlock(2, (2, 3, 2, 1), padding=padding)
    nn.init.uniform_(block.squeeze.bias)  # type: ignore[arg-type]  # these layers have biases
    features = torch.randn(1, 2, size, size)
    expected = convolve_slowly(features[0].double().numpy(), block.squeeze, before=0, stride=1)
    expected = convolve_slowly(expected, block.expand, before=before, stride=2)
    np.testing.assert_allclose(block(features)[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["torch", "same"])
def test_the_backbone_has_the_padding_asked_for(padding: Padding) -> None:
    detector = SSDResNet34(2, width=0.25, padding=padding).eval()
    expected = ResNet(34, (1, 2, 1), width=0.25, padding=padding).eval()
    expected.load_state_dict(detector.backbone.state_dict())
    images = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = detector.backbone(images)[-1]
        assert torch.equal(found, expected(images)[-1])
        expected.same_padding = not expected.same_padding
        assert not torch.equal(found, expected(images)[-1])


def parameters(*, score: float) -> PostprocessParameters:
    return PostprocessParameters(
        score_threshold=score, iou_threshold=0.5, max_detections=10, pre_topk=100
    )


def test_a_confident_anchor_becomes_a_detection() -> None:
    detector = SSDResNet34(4, width=0.125)
    logits = torch.zeros(2, 8732, 5)
    logits[:, :, 0] = 20
    logits[1, 7000, 3] = 25  # class 3 is label 2
    boxes_xyxy, scores, labels, num_dets = detector.detect(
        HeadOutputs(logits, torch.zeros(2, 8732, 4)), parameters(score=0.05), image_hw=IMAGE_HW
    )
    assert num_dets.tolist() == [0, 1]
    assert labels[1].tolist() == [2] + [-1] * 9
    assert scores[1, 0].item() == pytest.approx(1 / (1 + math.exp(-5)), abs=1e-6)
    wanted = np.clip(box_of(detector, 7000), 0, 300)
    assert boxes_xyxy[1, 0].tolist() == pytest.approx(wanted, abs=1e-3)


def test_an_image_of_nan_gives_no_detections() -> None:
    torch.manual_seed(3)
    detector = SSDResNet34(2, width=0.125).eval()
    images = torch.randn(2, 3, 300, 300)
    images[1] = math.nan
    with torch.inference_mode():
        boxes_xyxy, scores, labels, num_dets = detector.detect(
            detector(images), parameters(score=0.0), image_hw=IMAGE_HW
        )
    assert num_dets.tolist() == [10, 0]
    assert not boxes_xyxy[1].any() and not scores[1].any() and (labels[1] == -1).all()
    assert boxes_xyxy[0].isfinite().all()


def test_detectors_are_built_by_name() -> None:
    for name in DETECTORS:
        detector = build_detector(name, num_classes=2, width=0.125)
        assert isinstance(detector, Detector)
        background = int(name == "ssd_r34")
        assert (detector.num_classes, detector.num_logits) == (2, 2 + background)
    with pytest.raises(KeyError):
        build_detector("ssd_r35", num_classes=2)


def test_the_anchors_are_those_of_one_size(published: SSDResNet34) -> None:
    assert published.num_anchors(IMAGE_HW) == 8732
    with pytest.raises(AssertionError, match="300x300"):
        published.num_anchors((300, 332))
