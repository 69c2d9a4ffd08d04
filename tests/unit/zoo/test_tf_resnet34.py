"""ResNet-34 from TensorFlow: what its own layers computed, our network computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build_detector
from models.resnet import ResNet
from suite.errors import InputError
from suite.weights import load_backbone_weights
from suite.zoo import Options, import_weights
from suite.zoo.plan import BackbonePlan
from suite.zoo.tensor_bundle import open_bundle
from suite.zoo.tf_resnet34 import plan_tf_resnet34, translation_in
from suite.zoo.translate import Mismatch, translate

WANTED = ResNet(34, width=0.125).state_dict()
THREE_STAGES = {key: value for key, value in WANTED.items() if not key.startswith("layer4.")}


@pytest.mark.parametrize(
    ("name", "num_stages", "wanted"),
    [("imagenet", 4, WANTED), ("detector", 3, THREE_STAGES)],
)
def test_features_are_tensorflows(
    tensorflow_files: Path, tmp_path: Path, name: str, num_stages: int, wanted: dict[str, Tensor]
) -> None:
    prefix = tensorflow_files / name
    plan = plan_tf_resnet34(open_bundle(prefix))
    assert plan.target == BackbonePlan(34, num_stages=num_stages)
    assert any("has three stages" in note for note in plan.notes) == (num_stages == 3)
    weights, _ = translate(plan.theirs, plan.translation, wanted=wanted, source=prefix)
    torch.save(weights, tmp_path / "ours.pth")
    backbone = ResNet(34, (1, 2, 1), width=0.125, padding="same").eval()
    load_backbone_weights(backbone, str(tmp_path / "ours.pth"))
    stored = np.load(tensorflow_files / "features.npz")
    images = torch.from_numpy(stored["pixels"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        third = backbone(images)[2].permute(0, 2, 3, 1)
    assert stored["third_stage"].std() > 0.3
    assert np.abs(third.numpy() - stored["third_stage"]).max() < 1e-5
    # The padding matters: with torch's, the same weights answer something else.
    backbone.same_padding = False
    with torch.no_grad():
        other = backbone(images)[2].permute(0, 2, 3, 1)
    assert np.abs(other.numpy() - stored["third_stage"]).max() > 0.1


def test_every_variable_is_accounted_for(tensorflow_files: Path) -> None:
    bundle = open_bundle(tensorflow_files / "imagenet")
    plan = plan_tf_resnet34(bundle)
    _, account = translate(plan.theirs, plan.translation, wanted=WANTED, source=Path("x"))
    assert len(account.taken) == 36 * 5
    assert {row.theirs for row in account.taken} | {row.theirs for row in account.ignored} == set(
        bundle
    )
    reasons = {row.theirs: row.why for row in account.ignored}
    assert reasons["global_step"] == "the state of training"
    assert reasons["conv2d/kernel/Momentum"] == "a slot of the optimizer"
    assert "classifier" in reasons["dense/kernel"]
    how = {row.ours: (row.theirs, row.how) for row in account.taken}
    assert how["conv1.weight"] == ("conv2d/kernel", "HWIO -> OIHW")
    # In the first block of a stage the projection is made before the two convolutions.
    assert how["layer2.0.downsample.0.weight"][0] == "conv2d_7/kernel"
    assert how["layer2.0.conv1.weight"][0] == "conv2d_8/kernel"
    assert how["layer4.2.bn2.running_var"][0] == "batch_normalization_35/moving_variance"


def named_as_theirs(state: dict[str, Tensor], scope: str = "") -> dict[str, Tensor]:
    rename = translation_in(scope).rename
    ours = {name: rename(name) for name in numbered_names(scope)}
    return {
        name: state[key].permute(2, 3, 1, 0) if name.endswith("kernel") else state[key]
        for name, key in ours.items()
        if key in state
    }


def numbered_names(scope: str) -> list[str]:
    names = []
    for number in range(36):
        suffix = f"_{number}" if number else ""
        names.append(f"{scope}conv2d{suffix}/kernel")
        for kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            names.append(f"{scope}batch_normalization{suffix}/{kind}")
    return names


def test_a_detectors_backbone_starts_ssd_and_no_retinanet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    detector = build_detector("ssd_r34", num_classes=2, padding="same")
    theirs = named_as_theirs(detector.backbone.state_dict(), "resnet34/")
    monkeypatch.setattr("suite.zoo.open_bundle", lambda path: theirs)
    imported = import_weights(
        tmp_path, source="tf-resnet34", output=tmp_path / "ours.pth", options=Options()
    )
    assert len(imported.account.taken) == 29 * 5
    fresh = build_detector("ssd_r34", num_classes=2, padding="same").backbone
    load_backbone_weights(fresh, str(imported.path))
    for key, value in detector.backbone.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    with pytest.raises(InputError, match=r"no weights for 'layer4\.0\.conv1\.weight'"):
        load_backbone_weights(ResNet(34), str(imported.path))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("resnet34/conv2d_28/kernel", r"no weights for 'layer3\.5\.conv2\.weight'; nothing"),
        ("resnet34/conv2d_35/kernel", r"no weights for 'layer4\.2\.conv2\.weight'; nothing"),
    ],
)
def test_a_stage_that_is_not_whole_is_refused(lost: str, words: str) -> None:
    variables = named_as_theirs(WANTED, "resnet34/")
    del variables[lost]
    plan = plan_tf_resnet34(variables)
    assert plan.target == BackbonePlan(34, num_stages=4)
    with pytest.raises(Mismatch, match=words):
        translate(variables, plan.translation, wanted=WANTED, source=Path("model.ckpt"))


def test_a_detectors_own_layers_and_averages_are_left_out() -> None:
    variables = named_as_theirs(THREE_STAGES, "resnet34/") | {
        "ssd/block7-conv1x1/kernel": torch.zeros(1),
        "ssd/class_net/class-3/bias/Momentum": torch.zeros(1),
        "resnet34/conv2d/kernel/ExponentialMovingAverage": torch.zeros(1),
    }
    _, account = translate(
        variables, translation_in("resnet34/"), wanted=THREE_STAGES, source=Path("model.ckpt")
    )
    assert len(account.ignored) == 3


@pytest.mark.parametrize(
    "name",
    [
        "conv2d_36/kernel",
        "conv2d_0/kernel",
        "conv2d/bias",
        "conv2d/gamma",
        "batch_normalization/kernel",
        "ssd/box_net/box-3/kernel",
        "conv2d_1/kernel/extra",
    ],
)
def test_unknown_variables_are_refused(name: str) -> None:
    variables = named_as_theirs(WANTED) | {name: torch.zeros(1)}
    with pytest.raises(Mismatch, match=f"unknown key '{name}'; nothing was written; give the"):
        translate(variables, translation_in(""), wanted=WANTED, source=Path("model.ckpt"))


def test_other_networks_are_refused(tensorflow_files: Path) -> None:
    for name in ("types", "objects"):
        plan = plan_tf_resnet34(open_bundle(tensorflow_files / name))
        with pytest.raises(InputError, match=r"unknown key .*; no weights for 'conv1\.weight' and"):
            translate(plan.theirs, plan.translation, wanted=WANTED, source=Path(name))
