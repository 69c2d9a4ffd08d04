"""Write tests/golden/torchvision: what torchvision's own RetinaNet and focal loss compute.

Run by hand, where torchvision 0.28 is installed beside torch 2.13:

    python tests/witnesses/torchvision_golden.py

Weights and images are not stored: `make_weights` and `make_images` make them from names, here for
torchvision's model and in tests/unit/models/test_torchvision_equality.py for ours. A case is kept
only if its detections and matches survive a perturbation far above float32's rounding, so that the
test does not depend on the processor.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "torchvision"
NUM_CLASSES = 6  # torchvision's logits have one more: slot 0 is background


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        p6_channels: of the map that P6 is made from; 256 means P5, more C5.
        image_sizes: (H, W) -> number of images.
        score_threshold, max_detections: the first cuts in r50, the second in r18.
    """

    backbone: str
    p6_channels: int
    image_sizes: dict[tuple[int, int], int]
    score_threshold: float
    max_detections: int
    iou_threshold: float = 0.5
    topk_per_level: int = 150


# 128x128 is whole on every level; 96x160 has 3x5 cells on P5, 2x3 on P6 and 1x2 on P7.
CASES = {
    "r18": Case("resnet18", 256, {(128, 128): 1, (96, 160): 2}, 0.05, 30),
    "r50": Case("resnet50", 2048, {(64, 96): 1}, 0.55, 100),
}
Boxes = list[tuple[float, float, float, float]]
# Boxes of the images of one batch, their classes counted from 0 in the order they come.
# "mixed": one of no anchor's size, one that overlaps several, one image without any.
# "crowded": twice two boxes that want the same anchor, and boxes of a pixel, whose best anchors
# all overlap another box more.
TARGETS: dict[str, list[Boxes]] = {
    "mixed": [[(10, 13, 51, 44), (60, 21, 95, 90), (3, 70, 10, 75)], []],
    "crowded": [
        [(40, 25, 73, 56), (41, 25, 74, 56), (7, 8, 80, 80), (8, 8, 81, 80), (33, 33, 34, 34)],
        [(0, 0, 97, 64), (2, 2, 90, 61), (30, 30, 31, 31)],
    ],
}
_STRIDES = (8, 16, 32, 64, 128)

# Part of a weight's name -> its gain; of the others, which a ReLU follows, the root of 2.
# Towers fade on maps of a few cells, most of whose surroundings is padding: P6 and P7 start higher.
_GAINS = {
    "inner_blocks": 1.0,
    "layer_blocks": 1.0,
    "p6": 3.0,
    "p7": 60.0,
    "cls_logits": 0.4,
    "bbox_reg": 0.15,
}


def make_weights(shapes: Mapping[str, Sequence[int]], *, num_classes: int) -> dict[str, Tensor]:
    """Return a state dict of torchvision's RetinaNet, each tensor made from its name and shape.

    Activations keep their size from layer to layer, some scores pass 0.05, and the background slot
    of the class logits never does, as after training.
    """
    return {name: _make_tensor(name, shape, num_classes) for name, shape in shapes.items()}


def make_images(num_images: int, image_hw: tuple[int, int]) -> Tensor:
    """Return float32 [N,3,H,W], as if normalised."""
    generator = np.random.default_rng(zlib.crc32(f"images {num_images} {image_hw}".encode()))
    return _to_tensor(generator.standard_normal((num_images, 3, *image_hw)))


def make_target(boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Return boxes [M,4] and labels [M], counted from 0."""
    labels = torch.arange(len(boxes)) % NUM_CLASSES
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels


def _make_tensor(name: str, shape: Sequence[int], num_classes: int) -> Tensor:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    values = generator.standard_normal(tuple(shape))
    if name.endswith("running_var"):
        values = 1 + 0.5 * np.tanh(values)
    elif name.endswith(("running_mean", "bias")):
        values = 0.1 * values
    elif len(shape) == 1:  # the scale of a batch norm; a block's last one adds to its shortcut
        values = (0.3 if name.endswith(("bn2.weight", "bn3.weight")) else 1) * (1 + 0.2 * values)
    else:
        gain = next((gain for part, gain in _GAINS.items() if part in name), math.sqrt(2))
        values *= gain / math.sqrt(math.prod(shape[1:]))
    if name.endswith("cls_logits.bias"):
        values -= 4
        values.reshape(-1, num_classes + 1)[:, 0] = -14
    return _to_tensor(values)


def _to_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def write_golden(folder: Path) -> None:
    """Write one file a backbone, one for the focal loss, and the names and shapes of all states."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for name, case in CASES.items():
        stored = {}
        for image_hw, num_images in case.image_sizes.items():
            model = _build_model(case)
            shapes[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
            model.load_state_dict(make_weights(shapes[name], num_classes=NUM_CLASSES))
            values = _run_case(model, make_images(num_images, image_hw))
            stored |= {f"{image_hw[0]}x{image_hw[1]}.{key}": value for key, value in values.items()}
        np.savez_compressed(folder / f"{name}.npz", **stored)
    lines = [f'"{name}": {json.dumps(value)}' for name, value in shapes.items()]
    (folder / "shapes.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    np.savez_compressed(folder / "focal.npz", **_run_focal_loss())
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


def _build_model(case: Case) -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.models.detection.image_list import ImageList
    from torchvision.models.detection.retinanet import _default_anchorgen
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    class Unchanged(nn.Module):
        """In place of resizing and normalisation."""

        def forward(self, images: Tensor, targets: Any = None) -> tuple[Any, Any]:
            return ImageList(images, [tuple(images.shape[-2:])] * len(images)), targets

        def postprocess(self, result: Any, *_sizes: Any) -> Any:
            return result

    model = RetinaNet(
        resnet_fpn_backbone(
            backbone_name=case.backbone,
            weights=None,
            trainable_layers=5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(case.p6_channels, 256),
        ),
        num_classes=NUM_CLASSES + 1,
        anchor_generator=_default_anchorgen(),
        score_thresh=case.score_threshold,
        nms_thresh=case.iou_threshold,
        detections_per_img=case.max_detections,
        topk_candidates=case.topk_per_level,
    )
    model.transform = Unchanged()
    return model


def _run_case(model: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """Return raw outputs, anchors, losses with their gradients' norms, and detections."""
    seen: dict[str, Any] = {}
    for module, name in ((model.head, "outputs"), (model.anchor_generator, "anchors")):
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.setdefault(name, output)
        )
    with torch.no_grad():
        detections = model.eval()(images)
    logits = seen["outputs"]["cls_logits"][..., 1:]
    cells = [math.ceil(images.shape[2] / s) * math.ceil(images.shape[3] / s) for s in _STRIDES]
    counts = [9 * count for count in cells]
    for level in logits.split(counts, dim=1):
        print(f"{tuple(level.shape)}: logits {_spread(level)}")
    _check_detections(model, images, seen, counts, wanted=detections)
    values = {
        "logits": logits,
        "deltas": seen["outputs"]["bbox_regression"],
        "anchors_xyxy": seen["anchors"][0],
        **_flatten(detections),
    }
    for name, boxes in TARGETS.items():
        losses = _run_losses(model, images, seen, boxes[: len(images)])
        print(f"  {name}: " + ", ".join(f"{key} {value:.5f}" for key, value in losses.items()))
        values |= {f"{name}.{key}": value for key, value in losses.items()}
    return {key: value.detach().numpy() for key, value in values.items()}


def _run_losses(
    model: nn.Module, images: Tensor, seen: dict[str, Any], boxes: list[Boxes]
) -> dict[str, Tensor]:
    """Return both losses, and the norms of their gradients by logits and deltas."""
    pairs = [make_target(of_image) for of_image in boxes]
    targets = [{"boxes": of_image, "labels": labels + 1} for of_image, labels in pairs]
    for of_image in targets:
        _check_matches(of_image["boxes"], seen["anchors"][0])
    leaves = {name: values.clone().requires_grad_() for name, values in seen["outputs"].items()}
    losses = model.compute_loss(targets, leaves, seen["anchors"])
    whole = model.train()(images, targets)
    assert all(torch.allclose(losses[key], whole[key], rtol=1e-5) for key in losses)
    torch.autograd.backward(sum(losses.values()))
    return {
        "classification": losses["classification"],
        "box": losses["bbox_regression"],
        "classification_gradient": leaves["cls_logits"].grad[..., 1:].norm(),
        "box_gradient": leaves["bbox_regression"].grad.norm(),
    }


def _flatten(detections: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the detections of all images one after the other, and their counts."""
    return {
        "counts": torch.tensor([len(of_image["scores"]) for of_image in detections]),
        "boxes_xyxy": torch.cat([of_image["boxes"] for of_image in detections]),
        "scores": torch.cat([of_image["scores"] for of_image in detections]),
        "labels": torch.cat([of_image["labels"] for of_image in detections]) - 1,
    }


def _check_detections(
    model: nn.Module,
    images: Tensor,
    seen: dict[str, Any],
    counts: list[int],
    *,
    wanted: list[dict[str, Tensor]],
) -> None:
    """Fail where noise of 1e-5 changes which detections there are, or their order."""
    anchors = [of_image.split(counts) for of_image in seen["anchors"]]
    sizes = [tuple(images.shape[-2:])] * len(images)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: _disturb(values, generator).split(counts, dim=1)
            for name, values in seen["outputs"].items()
        }
        found = model.postprocess_detections(moved, anchors, sizes)
        for one, other in zip(found, wanted, strict=True):
            assert one["labels"].tolist() == other["labels"].tolist()
            assert torch.allclose(one["boxes"], other["boxes"], atol=1e-2)


def _disturb(values: Tensor, generator: torch.Generator) -> Tensor:
    return values + 1e-5 * (2 * torch.rand(values.shape, generator=generator) - 1)


def _check_matches(boxes: Tensor, anchors: Tensor) -> None:
    """Fail where an overlap lies so near a threshold that rounding could decide."""
    from torchvision.ops import box_iou

    overlaps = box_iou(boxes, anchors)
    for threshold in (0.4, 0.5):
        near = (overlaps - threshold).abs() < 1e-6
        assert not near.any(), f"boxes {near.any(dim=1).nonzero().flatten().tolist()}"


def _spread(values: Tensor) -> str:
    return f"{values.mean():.2f} +- {values.std():.2f} [{values.min():.2f}, {values.max():.2f}]"


def _run_focal_loss() -> dict[str, np.ndarray]:
    """Return sums and gradients of two images; labels -1 are background, -2 are left out."""
    from torchvision.ops import sigmoid_focal_loss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 60, 9, generator=generator) * 4 - 1
    labels = torch.randint(-2, 9, (2, 60), generator=generator)
    leaf = logits.clone().requires_grad_()
    sums = []
    for of_image, of_labels in zip(leaf, labels, strict=True):
        targets = torch.zeros_like(of_image)
        positive = of_labels >= 0
        targets[positive, of_labels[positive]] = 1.0
        kept = of_labels != -2
        sums.append(sigmoid_focal_loss(of_image[kept], targets[kept], reduction="sum"))
    torch.autograd.backward(sums)
    assert leaf.grad is not None
    values = {"logits": logits, "labels": labels, "sums": torch.stack(sums), "gradient": leaf.grad}
    return {key: value.detach().numpy() for key, value in values.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    write_golden(FOLDER)
