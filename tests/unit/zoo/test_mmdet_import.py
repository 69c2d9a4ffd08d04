"""mmdetection's RetinaNet in both styles, and its backbones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.resnet import ResNet
from models.retinanet import RetinaNet
from suite.checkpoint import load_detector
from suite.errors import InputError
from suite.zoo import Imported, Mismatch, Options, import_weights
from suite.zoo.coco_classes import COCO_CLASSES

State = dict[str, Tensor]


def make_state(depth: int = 18, num_classes: int = 80) -> State:
    """Random values under mmdetection's names."""
    torch.manual_seed(depth)
    c3, c4, c5 = (128, 256, 512) if depth < 50 else (512, 1024, 2048)
    shapes: dict[str, tuple[int, ...]] = {}
    for level, channels in enumerate((c3, c4, c5)):
        shapes[f"neck.lateral_convs.{level}.conv"] = (256, channels, 1, 1)
    for level, channels in enumerate((256, 256, 256, c5, 256)):
        shapes[f"neck.fpn_convs.{level}.conv"] = (256, channels, 3, 3)
    for layer in range(4):
        shapes[f"bbox_head.cls_convs.{layer}.conv"] = (256, 256, 3, 3)
        shapes[f"bbox_head.reg_convs.{layer}.conv"] = (256, 256, 3, 3)
    shapes["bbox_head.retina_cls"] = (9 * num_classes, 256, 3, 3)
    shapes["bbox_head.retina_reg"] = (36, 256, 3, 3)
    state = {f"backbone.{key}": value for key, value in ResNet(depth).state_dict().items()}
    for key, shape in shapes.items():
        state |= {f"{key}.weight": 0.02 * torch.randn(shape), f"{key}.bias": torch.randn(shape[0])}
    return state


@pytest.fixture(scope="module")
def state() -> State:
    return make_state()


def run(content: Any, folder: Path, **options: Any) -> Imported:
    torch.save(content, folder / "theirs.pth")
    output = folder / "ours.pth"
    return import_weights(
        folder / "theirs.pth", source="mmdet", output=output, options=Options(**options)
    )


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": tuple(COCO_CLASSES.values()), "mmdet_version": "2.9.0", "epoch": 12},
        {"dataset_meta": {"classes": list(COCO_CLASSES.values())}},
        {},
    ],
    ids=["2.x", "3.x", "without names"],
)
def test_a_coco_detector(state: State, tmp_path: Path, meta: dict[str, Any]) -> None:
    state = state | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    imported = run({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path)
    trained = load_detector(imported.path)
    assert isinstance(trained.detector, RetinaNet)
    section = trained.recipe.detector
    assert (section.name, section.num_classes) == ("retinanet_r18_fpn", 80)
    assert (section.variant.p6_from, section.variant.caffe_stride) == ("c5", False)
    assert (section.variant.anchors, section.variant.relu_before_p7) == ("exact", False)
    assert trained.category_ids == tuple(COCO_CLASSES)
    assert trained.recipe.postprocess.max_detections == 100
    assert trained.recipe.resize.mode == "pad"
    ours = trained.detector.state_dict()
    for mine, theirs in {
        "backbone.layer4.1.bn2.running_var": "backbone.layer4.1.bn2.running_var",
        "neck.lateral.1.weight": "neck.lateral_convs.1.conv.weight",
        "neck.output.2.bias": "neck.fpn_convs.2.conv.bias",
        "neck.p6.weight": "neck.fpn_convs.3.conv.weight",
        "neck.p7.weight": "neck.fpn_convs.4.conv.weight",
        "head.class_tower.2.weight": "bbox_head.cls_convs.2.conv.weight",
        "head.box_tower.0.bias": "bbox_head.reg_convs.0.conv.bias",
        "head.class_out.weight": "bbox_head.retina_cls.weight",
        "head.box_out.bias": "bbox_head.retina_reg.bias",
    }.items():
        assert torch.equal(ours[mine], state[theirs]), mine
    ignored = {row.theirs for row in imported.account.ignored}
    taken = {row.theirs for row in imported.account.taken}
    assert taken | ignored == set(state)
    assert "data_preprocessor.mean" in ignored


def test_caffe_inputs_are_converted_exactly(tmp_path: Path) -> None:
    state = make_state(50)
    imported = run({"state_dict": state, "meta": {}}, tmp_path, style="caffe")
    trained = load_detector(imported.path)
    assert trained.recipe.detector.variant.caffe_stride
    # mmdetection's configuration: BGR, mean [103.530, 116.280, 123.675], std 1.
    pixels = torch.randint(256, (1, 3, 64, 64)).double()
    means = torch.tensor([103.530, 116.280, 123.675], dtype=torch.float64).view(3, 1, 1)
    theirs = pixels.flip(1) - means
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    ours = (pixels / 255 - mean) / std
    expected = F.conv2d(theirs, state["backbone.conv1.weight"].double(), stride=2, padding=3)
    weight = trained.detector.get_parameter("backbone.conv1.weight").double()
    answer = F.conv2d(ours, weight, stride=2, padding=3)
    assert torch.allclose(answer, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_caffe_without_bottlenecks_changes_the_input_alone(state: State, tmp_path: Path) -> None:
    imported = run(state, tmp_path, style="caffe")
    assert not load_detector(imported.path).recipe.detector.variant.caffe_stride
    how = {row.ours: row.how for row in imported.account.taken}
    assert how["backbone.conv1.weight"] == "BGR bytes -> normalised RGB"
    imported.path.unlink()
    backbone = dict(ResNet(18).state_dict())
    imported = run(backbone, tmp_path, style="caffe")
    assert imported.account.notes == []
    assert not torch.equal(torch.load(imported.path)["conv1.weight"], backbone["conv1.weight"])


def test_p6_from_p5(state: State, tmp_path: Path) -> None:
    changed = state | {"neck.fpn_convs.3.conv.weight": torch.zeros(256, 256, 3, 3)}
    trained = load_detector(run(changed, tmp_path).path)
    assert trained.recipe.detector.variant.p6_from == "p5"


def test_classes_in_the_files_order(tmp_path: Path) -> None:
    annotations = tmp_path / "classes.json"
    categories = [{"id": 1, "name": "ant"}, {"id": 4, "name": "bee"}, {"id": 9, "name": "cat"}]
    image = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 5}
    content = {"images": [image], "annotations": [], "categories": categories}
    annotations.write_text(json.dumps(content), encoding="utf-8")
    state = make_state(num_classes=3)
    named = {"meta": {"CLASSES": ("cat", "ant", "bee")}, "state_dict": state}
    trained = load_detector(run(named, tmp_path, annotations=annotations).path)
    assert (trained.class_names, trained.category_ids) == (("ant", "bee", "cat"), (1, 4, 9))
    theirs = state["bbox_head.retina_cls.bias"].reshape(9, 3)[:, [1, 2, 0]]
    ours = trained.detector.get_parameter("head.class_out.bias").reshape(9, 3)
    assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match=r"its 3 classes \(cat, ant, bee, \.\.\.\) are not thos"):
        (tmp_path / "ours.pth").unlink()
        run(named, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update({"bbox_head.cls_convs.0.gn.weight": torch.ones(256)}), "unknown key"),
        (lambda s: s.update({"neck.fpn_convs.5.conv.bias": torch.ones(256)}), "unknown key"),
        (lambda s: s.pop("bbox_head.retina_reg.bias"), r"no weights for 'head\.box_out\.bias'"),
        (lambda s: s.pop("bbox_head.retina_cls.weight"), r"so no detector of this kind; give a"),
    ],
)
def test_what_does_not_fit_is_refused(
    state: State, tmp_path: Path, change: Callable[[State], Any], words: str
) -> None:
    changed = dict(state)
    change(changed)
    with pytest.raises(InputError, match=words):
        run(changed, tmp_path)
    assert not (tmp_path / "ours.pth").exists()


def test_a_backbone_in_caffe_style(tmp_path: Path) -> None:
    backbone = dict(ResNet(50).state_dict())
    imported = run(backbone, tmp_path, style="caffe")
    assert imported.account.notes == ["goes with detector.variant.caffe_stride: true"]
    ours = torch.load(imported.path)["conv1.weight"]
    scale = 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.allclose(ours, backbone["conv1.weight"].flip(1) * scale)
    imported.path.unlink()
    plain = torch.load(run(backbone, tmp_path).path)
    assert torch.equal(plain["conv1.weight"], backbone["conv1.weight"])


def test_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=r"unknown key 'layer5\.weight'"):
        run(dict(ResNet(18).state_dict()) | {"layer5.weight": torch.zeros(1)}, tmp_path)
