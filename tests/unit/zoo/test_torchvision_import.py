"""torchvision's RetinaNet and ResNets; that values agree is in models/test_torchvision_equality.py.

The key names are torchvision's own, written by tests/witnesses/torchvision_golden.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.resnet import ResNet
from models.retinanet import RetinaNet
from suite.checkpoint import TrainedDetector, load_detector
from suite.errors import InputError, UsageError
from suite.recipe import load_recipe, parse_overrides
from suite.weights import load_backbone_weights
from suite.zoo import Imported, Mismatch, Options, import_weights
from suite.zoo.coco_classes import COCO_CLASSES

CLASS_OUT = "head.classification_head.cls_logits"
P6 = "backbone.fpn.extra_blocks.p6.weight"
State = dict[str, Tensor]


def make_state(repository: Path, name: str = "r18", *, num_slots: int = 91) -> State:
    """Random values under torchvision's names and shapes."""
    text = (repository / "tests/golden/torchvision/shapes.json").read_text(encoding="utf-8")
    shapes = json.loads(text)[name]
    shapes[f"{CLASS_OUT}.weight"][0] = shapes[f"{CLASS_OUT}.bias"][0] = 9 * num_slots
    random = torch.Generator().manual_seed(0)
    state = {key: 0.02 * torch.randn(shape, generator=random) for key, shape in shapes.items()}
    for key, value in state.items():
        if key.endswith("running_var"):
            value.abs_().add_(0.01)
    return state


@pytest.fixture(scope="module")
def state(repository: Path) -> State:
    return make_state(repository)


def run(content: Any, folder: Path, **options: Any) -> Imported:
    torch.save(content, folder / "theirs.pth")
    return import_weights(
        folder / "theirs.pth",
        source="torchvision",
        output=folder / "ours.pth",
        options=Options(**{"batch_norm_eps": 1e-5} | options),
    )


def load(imported: Imported) -> tuple[TrainedDetector, dict[str, Tensor]]:
    trained = load_detector(imported.path)
    assert isinstance(trained.detector, RetinaNet)
    return trained, dict(trained.detector.state_dict())


def test_a_coco_detector(state: State, tmp_path: Path) -> None:
    imported = run(state, tmp_path)
    trained, ours = load(imported)
    section = trained.recipe.detector
    assert (imported.kind, section.name, section.num_classes) == (
        "detector",
        "retinanet_r18_fpn",
        80,
    )
    assert trained.category_ids == tuple(COCO_CLASSES)
    variant = section.variant
    assert (variant.p6_from, variant.relu_before_p7) == ("p5", True)
    assert (variant.anchors, variant.normaliser) == ("torchvision", "image")
    assert (variant.low_quality, variant.caffe_stride) == ("own_best", False)
    assert trained.recipe.postprocess.max_detections == 300
    assert trained.recipe.resize.mode == "pad"
    # Anchor by anchor the outputs of the 80 ids that COCO uses, of 91.
    theirs = state[f"{CLASS_OUT}.weight"].reshape(9, 91, 256, 3, 3)[:, list(COCO_CLASSES)]
    assert torch.equal(ours["head.class_out.weight"].reshape(9, 80, 256, 3, 3), theirs)
    theirs = state[f"{CLASS_OUT}.bias"].reshape(9, 91)[:, list(COCO_CLASSES)]
    assert torch.equal(ours["head.class_out.bias"].reshape(9, 80), theirs)
    for mine, key in {
        "backbone.layer3.0.downsample.0.weight": "backbone.body.layer3.0.downsample.0.weight",
        "neck.lateral.2.bias": "backbone.fpn.inner_blocks.2.0.bias",
        "neck.output.0.weight": "backbone.fpn.layer_blocks.0.0.weight",
        "neck.p6.weight": P6,
        "neck.p7.bias": "backbone.fpn.extra_blocks.p7.bias",
        "head.class_tower.3.weight": "head.classification_head.conv.3.0.weight",
        "head.box_tower.1.bias": "head.regression_head.conv.1.0.bias",
        "head.box_out.weight": "head.regression_head.bbox_reg.weight",
    }.items():
        assert torch.equal(ours[mine], state[key]), mine
    account = imported.account
    assert {row.theirs for row in account.taken} == set(state)
    (note,) = account.notes
    flags = note.removeprefix("to train on from it: --set ").split(" --set ")
    overrides = parse_overrides([*flags, "detector.name=retinanet_r18_fpn"])
    assert load_recipe("retinanet_r50_fpn_8p", overrides).detector.variant == variant


def test_names_of_the_older_files(state: State, tmp_path: Path) -> None:
    def older(key: str) -> str:
        for head in ("classification", "regression"):
            for layer in range(4):
                new = f"head.{head}_head.conv.{layer}.0."
                key = key.replace(new, f"head.{head}_head.conv.{2 * layer}.")
        for blocks in ("inner_blocks", "layer_blocks"):
            for level in range(3):
                key = key.replace(f"fpn.{blocks}.{level}.0.", f"fpn.{blocks}.{level}.")
        return key

    (tmp_path / "old").mkdir()
    _, new = load(run(state, tmp_path))
    _, old = load(run({older(key): value for key, value in state.items()}, tmp_path / "old"))
    assert all(torch.equal(old[key], value) for key, value in new.items())


def test_p6_from_c5_and_another_backbone(repository: Path, tmp_path: Path) -> None:
    state = make_state(repository, "r50")
    state[P6] = torch.zeros(256, 2048, 3, 3)
    trained, _ = load(run(state, tmp_path))
    assert trained.recipe.detector.name == "retinanet_r50_fpn"
    assert trained.recipe.detector.variant.p6_from == "c5"


def test_batch_norm_epsilon_is_folded_exactly(state: State, tmp_path: Path) -> None:
    imported = run(state, tmp_path, batch_norm_eps=0.0)
    _, ours = load(imported)
    features = torch.randn(64, dtype=torch.float64)
    prefix = "backbone.body.layer1.1.bn2."
    weight, bias, mean, variance = (
        state[prefix + kind].double() for kind in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (features - mean) / variance.sqrt() * weight + bias
    weight, bias, mean, variance = (
        ours[prefix.replace("body.", "") + kind].double()
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    answer = (features - mean) / (variance + 1e-5).sqrt() * weight + bias
    assert torch.allclose(answer, expected, rtol=1e-6, atol=1e-9)
    how = {row.ours: row.how for row in imported.account.taken}
    assert how["backbone.bn1.weight"] == "batch norm epsilon 0 -> 1e-05"
    assert how["backbone.bn1.bias"] == ""
    assert not any("epsilon" in note for note in imported.account.notes)


def test_what_may_be_torchvisions_coco_weights_needs_an_epsilon(
    repository: Path, state: State, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"-eps 0 for torchvision's COCO .*-eps 1e-5 for a") as it:
        run(state, tmp_path, batch_norm_eps=None)
    assert "\n" not in str(it.value)
    assert not (tmp_path / "ours.pth").exists()
    # Of others it is taken to be 1e-5, and that is said.
    own = make_state(repository, num_slots=4)
    imported = run(
        own, tmp_path, batch_norm_eps=None, annotations=annotate(tmp_path, ids=(1, 2, 3))
    )
    assert any("--batch-norm-eps 0" in note for note in imported.account.notes)
    _, ours = load(imported)
    assert torch.equal(ours["backbone.bn1.weight"], own["backbone.body.bn1.weight"])


def test_a_variance_of_zero_without_an_epsilon_is_refused(state: State, tmp_path: Path) -> None:
    broken = state | {"backbone.body.bn1.running_var": torch.zeros(64)}
    words = r"bn1\.weight' holds values that are not finite after batch norm epsilon 0 -> 1e-05 \("
    with pytest.raises(Mismatch, match=words):
        run(broken, tmp_path, batch_norm_eps=0.0)


def annotate(folder: Path, ids: tuple[int, ...]) -> Path:
    path = folder / "classes.json"
    categories = [{"id": number, "name": f"class {number}"} for number in ids]
    image = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 5}
    content = {"images": [image], "annotations": [], "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("ids", "slots"),
    [((1, 2, 3), (1, 2, 3)), ((5, 17, 40), (1, 2, 3)), ((1, 3), (1, 3))],
    ids=["numbered", "numbered in the order of the ids", "called by id, with a gap"],
)
def test_other_classes(
    repository: Path, tmp_path: Path, ids: tuple[int, ...], slots: tuple[int, ...]
) -> None:
    state = make_state(repository, num_slots=4)
    trained, ours = load(run(state, tmp_path, annotations=annotate(tmp_path, ids)))
    assert trained.category_ids == ids
    theirs = state[f"{CLASS_OUT}.bias"].reshape(9, 4)[:, list(slots)]
    assert torch.equal(ours["head.class_out.bias"].reshape(9, len(ids)), theirs)


def test_classes_that_nobody_knows(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 3 classes, COCO has 80; give the annotations it"):
        run(make_state(repository, num_slots=4), tmp_path)


def change_and_run(state: State, folder: Path, change: Callable[[State], Any]) -> None:
    changed = dict(state)
    change(changed)
    run(changed, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update({"rpn.head.conv.weight": torch.zeros(1)}), "unknown key 'rpn.head"),
        (
            lambda s: s.update({"head.classification_head.conv.0.weight": torch.zeros(1)}),
            r"unknown key 'head\.classification_head\.conv\.0\.weight'",  # the same by another name
        ),
        (lambda s: s.pop("backbone.fpn.inner_blocks.1.0.bias"), r"no weights for 'neck\.lateral"),
        (lambda s: s.pop(P6), r"no weights for 'neck\.p6\.weight'"),
        (
            lambda s: s.update({"backbone.body.conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"'backbone\.body\.conv1\.weight' has shape \(64, 1, 7, 7\), 'backbone\.conv1\.weight'",
        ),
        (
            lambda s: s.update({"head.classification_head.conv.0.1.weight": torch.zeros(256)}),
            "the second version of torchvision's RetinaNet, whose head has group norm",
        ),
        (lambda s: s.pop(f"{CLASS_OUT}.weight"), r"no 'head\.classification_head\.cls_logits"),
        (
            lambda s: s.update({"backbone.body.layer3.2.conv1.weight": torch.zeros(1)}),
            "no ResNet-18, 34, 50 or 101, its layer3 has 3 blocks",
        ),
        (
            lambda s: s.update({"backbone.body.bn1.running_var": torch.full((64,), -1e-7)}),
            r"'backbone\.body\.bn1\.running_var' holds negative values, variances have none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    state: State, tmp_path: Path, change: Callable[[State], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        change_and_run(state, tmp_path, change)
    assert not (tmp_path / "ours.pth").exists()


# Backbones


def classifier(depth: int) -> State:
    torch.manual_seed(depth)
    return dict(ResNet(depth).state_dict()) | {
        "fc.weight": torch.zeros(10, 512),
        "fc.bias": torch.zeros(10),
    }


@pytest.mark.parametrize("depth", [18, 34])
def test_a_backbone(tmp_path: Path, depth: int) -> None:
    state = classifier(depth)
    stored = {key: v.half() if v.ndim == 4 else v for key, v in state.items()}
    imported = run({"state_dict": stored, "epoch": 90}, tmp_path)
    assert imported.kind == "backbone"
    assert imported.account.what == f"torchvision's ResNet-{depth}"
    how = {row.ours: row.how for row in imported.account.taken}
    assert how["conv1.weight"] == "float16 -> float32"
    assert {row.theirs for row in imported.account.ignored} >= {"fc.weight", "fc.bias"}
    backbone = ResNet(depth, (1, 2))
    load_backbone_weights(backbone, str(imported.path))
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"].half().float())


def test_other_networks_are_refused(tmp_path: Path) -> None:
    wide = classifier(18) | {"layer1.0.conv1.weight": torch.zeros(128, 64, 3, 3)}
    with pytest.raises(Mismatch, match=r"not torchvision's ResNet-18: 'layer1\.0\.conv1"):
        run(wide, tmp_path)
    with pytest.raises(InputError, match="neither a RetinaNet nor a ResNet; give the state dict"):
        run({"features.0.weight": torch.zeros(1)}, tmp_path)
