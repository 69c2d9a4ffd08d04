"""`suite weights import` from the command line: what is printed, written and refused."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.resnet import ResNet
from suite.checkpoint import load_detector
from suite.zoo.translate import Mismatch, Rewrite, Translation, translate

Run = Callable[..., Any]


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    path = tmp_path / "resnet18.pth"
    torch.save(dict(ResNet(18).state_dict()) | {"fc.bias": torch.zeros(10)}, path)
    return path


def test_the_account_and_the_path_are_printed(
    run_suite: Run, backbone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "ours.pth"
    done = run_suite("weights", "import", backbone, "--from", "torchvision", "--output", output)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "torchvision's ResNet-18:"
    assert lines[1] == "  conv1.weight <- conv1.weight"
    assert "  fc.bias: the classifier, detectors have their own" in lines
    assert "  layer1.0.bn1.num_batches_tracked: a counter that nothing reads" in lines
    assert "100 keys mapped, 21 ignored, 0 unknown, 0 missing" in lines
    assert lines[-1] == str(output)
    assert output.is_file()


def test_json(run_suite: Run, backbone: Path, tmp_path: Path) -> None:
    output = tmp_path / "ours.pth"
    done = run_suite(
        "weights", "import", backbone, "--from", "torchvision", "--output", output, "--json"
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "suite.weights-import/1"
    assert (document["output"], document["kind"]) == (str(output), "backbone")
    assert document["taken"][0] == {"ours": "conv1.weight", "theirs": "conv1.weight", "how": ""}
    assert document["ignored"][-1]["theirs"] == "fc.bias"
    assert document["missing"] == document["unknown"] == []


def test_nothing_is_overwritten_unasked(run_suite: Run, backbone: Path, tmp_path: Path) -> None:
    output = tmp_path / "ours.pth"
    output.write_text("mine")
    flags = ("weights", "import", backbone, "--from", "torchvision", "--output", output)
    done = run_suite(*flags)
    assert (done.code, done.stdout) == (2, "")
    assert "exists; choose another name or pass --force" in done.stderr
    assert output.read_text() == "mine"
    assert run_suite(*flags, "--force").code == 0
    assert "conv1.weight" in torch.load(output)


def test_a_refusal_shows_the_account_too(run_suite: Run, tmp_path: Path) -> None:
    state = dict(ResNet(18).state_dict()) | {"odd": torch.zeros(1)}
    del state["bn1.bias"], state["conv1.weight"]
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(state, tmp_path / "theirs.pth")
    output = tmp_path / "ours.pth"
    done = run_suite(
        "weights", "import", tmp_path / "theirs.pth", "--from", "mmdet", "--output", output
    )
    assert done.code == 1
    assert done.stdout.splitlines()[-5:] == [
        "unknown:",
        "  odd",
        "missing:",
        "  bn1.bias",
        "99 keys mapped, 20 ignored, 1 unknown, 1 missing",
    ]
    (sentence,) = done.stderr.splitlines()
    assert "unknown key 'odd'; no weights for 'bn1.bias'; nothing was written; give a" in sentence
    assert not output.exists()


def test_keys_of_others_do_nothing_to_a_terminal(run_suite: Run, tmp_path: Path) -> None:
    state = dict(ResNet(18).state_dict()) | {"a\x1b[2J\n": torch.zeros(1)}
    torch.save(state, tmp_path / "theirs.pth")
    flags = ("--from", "torchvision", "--output", tmp_path / "ours.pth")
    done = run_suite("weights", "import", tmp_path / "theirs.pth", *flags)
    assert done.code == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert r"unknown key 'a\x1b[2J\n'" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--from", "detectron2"], "'detectron2' is not one of"),
        (["--from", "torchvision", "--style", "caffe"], "only --from mmdet has models of that"),
        (["--from", "torchvision", "--batch-norm-eps", "nan"], "a number from 0 to below 1"),
        (["--from", "torchvision", "--batch-norm-eps", "-1e-5"], "a number from 0 to below 1"),
        (["--from", "torchvision", "--recipe", "nope"], "is a backbone, which has no recipe and"),
        (["--from", "mmdet", "--annotations", "none.json"], "--annotations none.json: "),
    ],
)
def test_wrong_flags(
    run_suite: Run, backbone: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    done = run_suite("weights", "import", backbone, *flags, "--output", tmp_path / "ours.pth")
    assert done.code == 2
    assert words in done.stderr
    assert not (tmp_path / "ours.pth").exists()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_pickled_objects_are_refused_with_a_way_out(run_suite: Run, tmp_path: Path) -> None:
    content = {"state_dict": ResNet(18).state_dict(), "hook": Payload(tmp_path / "ran")}
    torch.save(content, tmp_path / "theirs.pth")
    done = run_suite(
        "weights", "import", tmp_path / "theirs.pth", "--from", "mmdet",
        "--output", tmp_path / "ours.pth",
    )  # fmt: skip
    assert done.code == 1
    assert "holds pickled objects" in done.stderr
    assert "torch.save(torch.load(FILE, weights_only=False)['state_dict']" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no state dict"),
        ({"state_dict": {"w": 1.0}}, "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({}, "no state dict"),
        ({"conv1.weight": torch.zeros(1).expand(10**12)}, "no state dict"),
        ({"conv1.weight": torch.zeros(3).to_sparse()}, "no state dict"),
    ],
)
def test_other_contents_are_refused(
    run_suite: Run, tmp_path: Path, content: Any, words: str
) -> None:
    torch.save(content, tmp_path / "theirs.pth")
    for source in ("torchvision", "mmdet", "mlperf-ssd"):
        done = run_suite(
            "weights", "import", tmp_path / "theirs.pth", "--from", source,
            "--output", tmp_path / "ours.pth",
        )  # fmt: skip
        assert done.code == 1
        assert words in done.stderr


def test_absent_files(run_suite: Run, tmp_path: Path) -> None:
    for source in ("torchvision", "mmdet", "mlperf-ssd", "tf-resnet34"):
        done = run_suite(
            "weights", "import", tmp_path / "absent.pth", "--from", source,
            "--output", tmp_path / "ours.pth",
        )  # fmt: skip
        assert done.code == 1
        assert "no such file" in done.stderr


def test_folders(run_suite: Run, tmp_path: Path) -> None:
    for source in ("torchvision", "mmdet", "mlperf-ssd", "tf-resnet34"):
        done = run_suite(
            "weights", "import", tmp_path, "--from", source, "--output", tmp_path / "ours.pth"
        )
        assert done.code == 1
        assert f"{tmp_path}: a folder; give the " in done.stderr


@pytest.mark.parametrize("wrapping", ["state_dict", "model", "weights", "model_state_dict"])
def test_wrappings_of_other_projects(run_suite: Run, tmp_path: Path, wrapping: str) -> None:
    state = collections.OrderedDict(
        (f"module.{key}", value) for key, value in ResNet(18).state_dict().items()
    )
    torch.save({"epoch": 12, wrapping: state}, tmp_path / "theirs.pth")
    output = tmp_path / "ours.pth"
    done = run_suite(
        "weights", "import", tmp_path / "theirs.pth", "--from", "torchvision", "--output", output
    )
    assert done.code == 0
    assert torch.equal(torch.load(output)["conv1.weight"], state["module.conv1.weight"])


def test_options_of_detectors_are_refused_for_tensorflow(
    run_suite: Run, tensorflow_files: Path, tmp_path: Path
) -> None:
    for flags in (("--recipe", "nope"), ("--annotations", "none.json")):
        done = run_suite(
            "weights", "import", tensorflow_files / "imagenet", "--from", "tf-resnet34",
            "--output", tmp_path / "ours.pth", *flags,
        )  # fmt: skip
        assert done.code == 2
        assert f"{' '.join(flags)}: " in done.stderr


def test_tensorflow_of_another_width_is_refused(
    run_suite: Run, tensorflow_files: Path, tmp_path: Path
) -> None:
    done = run_suite(
        "weights", "import", tensorflow_files / "imagenet.index", "--from", "tf-resnet34",
        "--output", tmp_path / "ours.pth",
    )  # fmt: skip
    assert done.code == 1
    assert (
        "'conv2d/kernel' has shape (8, 3, 7, 7) after HWIO -> OIHW, 'conv1.weight' wants (64"
        in (done.stderr)
    )
    assert "conv1.weight <- conv2d/kernel  [HWIO -> OIHW]" in done.stdout


def test_a_recipe_of_ones_own_goes_into_the_checkpoint(
    run_suite: Run, repository: Path, tmp_path: Path
) -> None:
    text = (repository / "tests/golden/torchvision/shapes.json").read_text(encoding="utf-8")
    shapes = json.loads(text)["r18"]
    num_slots = shapes["head.classification_head.cls_logits.bias"][0] // 9
    torch.save({key: torch.ones(shape) for key, shape in shapes.items()}, tmp_path / "theirs.pth")
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, num_slots)]
    image = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 5}
    content = {"images": [image], "annotations": [], "categories": categories}
    (tmp_path / "classes.json").write_text(json.dumps(content), encoding="utf-8")
    output = tmp_path / "zoo model.pth"
    done = run_suite(
        "weights", "import", tmp_path / "theirs.pth", "--from", "torchvision", "--output", output,
        "--annotations", tmp_path / "classes.json", "--recipe", "retinanet_r18_fpn_finetune",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    recipe = load_detector(output).recipe
    # The output's name cannot name a recipe; the recipe's own postprocess and sizes stay.
    assert recipe.name == "retinanet_r18_fpn_finetune"
    assert recipe.detector.num_classes == num_slots - 1
    assert recipe.resize.short_side == 320
    mistaken = run_suite(
        "weights", "import", tmp_path / "theirs.pth", "--from", "torchvision",
        "--output", tmp_path / "b.pth", "--annotations", tmp_path / "classes.json",
        "--recipe", "ssd_r34_8p",
    )  # fmt: skip
    assert mistaken.code == 2
    assert "detector.name: " in mistaken.stderr


def test_a_rewrite_that_cannot_be_made_is_a_misfit(tmp_path: Path) -> None:
    rules = Translation(
        what="a test",
        rename=lambda key: key,
        ignore=lambda key: None,
        rewrites=(Rewrite("turned", frozenset("a"), lambda key, w: w[key].permute(3, 2, 0, 1)),),
        hint="give another",
    )
    with pytest.raises(
        Mismatch, match=r"f: not a test: 'a' has shape \(2,\), 'a' wants \(1, 1, 1, 2"
    ):
        translate(
            {"a": torch.zeros(2)}, rules, wanted={"a": torch.zeros(1, 1, 1, 2)}, source=Path("f")
        )
