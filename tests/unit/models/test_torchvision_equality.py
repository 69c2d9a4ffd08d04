"""RetinaNet against what torchvision's own code computed from the same weights and images.

The stored values, and the rules that make weights, images and boxes, are those of
tests/witnesses/torchvision_golden.py; nothing here needs torchvision.
"""

from __future__ import annotations

import json
import runpy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.anchors import build_retinanet_shapes
from models.boxes import cxcywh_to_xyxy
from models.postprocess import PostprocessParameters
from models.retinanet import RetinaNet
from models.structures import HeadOutputs, Target
from suite.checkpoint import load_detector
from suite.zoo import Options, import_weights

WITNESS = Path(__file__).resolve().parents[2] / "witnesses" / "torchvision_golden.py"


@dataclass(frozen=True)
class Compared:
    """One backbone and image size.

    Attributes:
        witness: the names of its module.
        case: its description of the model.
        stored: torchvision's values.
        outputs: ours.
    """

    witness: dict[str, Any]
    case: Any
    image_hw: tuple[int, int]
    stored: dict[str, Tensor]
    detector: RetinaNet
    outputs: HeadOutputs


@pytest.fixture(
    scope="module",
    params=[("r18", (128, 128)), ("r18", (96, 160)), ("r50", (64, 96))],
    ids=["r18-128x128", "r18-96x160", "r50-64x96"],
)
def compared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    name, image_hw = request.param
    witness = runpy.run_path(str(WITNESS))
    case = witness["CASES"][name]
    with tempfile.TemporaryDirectory() as folder:  # pytest's would keep 300 MB for days
        detector = import_their_weights(name, witness, Path(folder))
    with torch.no_grad():
        outputs = detector(witness["make_images"](case.image_sizes[image_hw], image_hw))
    stored = load_stored(witness["FOLDER"] / f"{name}.npz", image_hw)
    return Compared(witness, case, image_hw, stored, detector, outputs)


def import_their_weights(name: str, witness: dict[str, Any], folder: Path) -> RetinaNet:
    """Return our detector from a file of torchvision's, by the way a person takes."""
    num_classes = witness["NUM_CLASSES"]
    shapes = json.loads((witness["FOLDER"] / "shapes.json").read_text(encoding="utf-8"))[name]
    torch.save(witness["make_weights"](shapes, num_classes=num_classes), folder / "theirs.pth")
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, num_classes + 1)]
    image = {"id": 1, "file_name": "unread.jpg", "height": 9, "width": 9}
    annotations = {"images": [image], "annotations": [], "categories": categories}
    (folder / "classes.json").write_text(json.dumps(annotations), encoding="utf-8")
    imported = import_weights(
        folder / "theirs.pth",
        source="torchvision",
        output=folder / "ours.pth",
        options=Options(annotations=folder / "classes.json"),
    )
    detector = load_detector(imported.path).detector
    assert isinstance(detector, RetinaNet)
    return detector.train()


def load_stored(path: Path, image_hw: tuple[int, int]) -> dict[str, Tensor]:
    prefix = f"{image_hw[0]}x{image_hw[1]}."
    with np.load(path) as content:
        names = [name for name in content if name.startswith(prefix)]
        return {name.removeprefix(prefix): torch.from_numpy(content[name]) for name in names}


def test_logits_and_deltas_equal_torchvisions(compared: Compared) -> None:
    for name, values in compared.outputs._asdict().items():
        torch.testing.assert_close(values, compared.stored[name], rtol=0, atol=1e-4)


def test_anchors_equal_torchvisions(compared: Compared) -> None:
    assert torch.equal(anchors_xyxy(compared), compared.stored["anchors_xyxy"])


def anchors_xyxy(compared: Compared) -> Tensor:
    levels = compared.detector.anchors(compared.image_hw)
    return cxcywh_to_xyxy(torch.cat(levels))


@pytest.mark.parametrize("name", ["mixed", "crowded"])
def test_losses_and_their_gradients_equal_torchvisions(compared: Compared, name: str) -> None:
    for key, value in losses_and_gradients(compared, name).items():
        torch.testing.assert_close(value, compared.stored[f"{name}.{key}"], rtol=1e-5, atol=1e-4)


def losses_and_gradients(compared: Compared, name: str) -> dict[str, Tensor]:
    leaves = HeadOutputs(*(values.clone().requires_grad_() for values in compared.outputs))
    num_images = len(leaves.logits)
    pairs = [
        compared.witness["make_target"](boxes)
        for boxes in compared.witness["TARGETS"][name][:num_images]
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    target = Target(
        pad([boxes for boxes, _ in pairs], batch_first=True),
        pad([labels for _, labels in pairs], batch_first=True, padding_value=-1),
    )
    losses = compared.detector.loss(leaves, target, image_hw=compared.image_hw)
    torch.autograd.backward(sum(losses.values(), torch.zeros(())))
    assert leaves.logits.grad is not None and leaves.deltas.grad is not None
    return {
        **{key: value.detach() for key, value in losses.items()},
        "classification_gradient": leaves.logits.grad.norm(),
        "box_gradient": leaves.deltas.grad.norm(),
    }


def test_detections_equal_torchvisions(compared: Compared) -> None:
    parameters = PostprocessParameters(
        score_threshold=compared.case.score_threshold,
        iou_threshold=compared.case.iou_threshold,
        max_detections=compared.case.max_detections,
        pre_topk=compared.case.topk_per_level,
    )
    boxes_xyxy, scores, labels, counts = compared.detector.detect(
        compared.outputs, parameters, image_hw=compared.image_hw
    )
    used = labels >= 0
    stored = compared.stored
    assert counts.tolist() == stored["counts"].tolist()
    assert labels[used].tolist() == stored["labels"].tolist()
    torch.testing.assert_close(scores[used], stored["scores"], rtol=0, atol=1e-4)
    # Pixels: a thousandth of one is 1e-5 of the image.
    torch.testing.assert_close(boxes_xyxy[used], stored["boxes_xyxy"], rtol=0, atol=1e-3)


def test_every_choice_of_torchvisions_is_seen(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, stored = compared.detector, compared.stored

    def largest_change(key: str, name: str) -> float:
        return abs(float(losses_and_gradients(compared, name)[key] - stored[f"{name}.{key}"]))

    with monkeypatch.context() as changed:
        changed.setattr(detector, "low_quality", "forced")
        assert largest_change("box", "crowded") > 1e-2
    if len(compared.outputs.logits) > 1:
        with monkeypatch.context() as changed:
            changed.setattr(detector, "normaliser", "batch")
            assert largest_change("classification", "mixed") > 1e-2
    with monkeypatch.context() as changed:
        changed.setattr(detector, "rounding", "exact")
        changed.setattr(detector, "anchor_shapes", build_retinanet_shapes())
        assert (anchors_xyxy(compared) - stored["anchors_xyxy"]).abs().max() > 0.1
    with monkeypatch.context() as changed, torch.no_grad():
        changed.setattr(detector.neck, "relu_before_p7", False)
        num_images = len(compared.outputs.logits)
        outputs = detector(compared.witness["make_images"](num_images, compared.image_hw))
        assert (outputs.logits - stored["logits"]).abs().max() > 1e-2
