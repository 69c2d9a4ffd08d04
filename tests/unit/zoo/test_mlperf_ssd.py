"""MLPerf's SSD-ResNet34: the reference's network, rebuilt here, and ours answer the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.resnet import BasicBlock
from models.ssd_r34 import SSDResNet34
from suite.checkpoint import load_detector
from suite.errors import InputError
from suite.zoo import Mismatch, Options, import_weights
from suite.zoo.coco_classes import COCO_CLASSES

ANCHORS = (4, 6, 6, 6, 4, 4)
CHANNELS = (256, 512, 512, 256, 256, 256)
CELLS = (38, 19, 10, 5, 3, 1)


class Reference(nn.Module):
    """The published layout: submodules, their order and the view of the outputs."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.model = nn.Module()
        self.model.layer1 = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            stage(64, 64, blocks=3, stride=1),
            stage(64, 128, blocks=4, stride=2),
        )
        self.model.layer2 = nn.Sequential(stage(128, 256, blocks=6, stride=1))
        widths = ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256))
        self.additional_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS[level], inside, 1),
                nn.ReLU(),
                nn.Conv2d(inside, out, 3, *((2, 1) if level < 3 else (1, 0))),
                nn.ReLU(),
            )
            for level, (inside, out) in enumerate(widths)
        )
        pairs = list(zip(CHANNELS, ANCHORS, strict=True))
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * k, 3, padding=1) for c, k in pairs)
        self.conf = nn.ModuleList(nn.Conv2d(c, num_labels * k, 3, padding=1) for c, k in pairs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return coordinates [N,4,8732] and labels [N,81,8732]."""
        levels = [self.model.layer2(self.model.layer1(images))]
        for block in self.additional_blocks:
            levels.append(block(levels[-1]))
        size = len(images)
        pairs = zip(self.loc, self.conf, levels, strict=True)
        views = [
            (loc(level).view(size, 4, -1), conf(level).view(size, self.num_labels, -1))
            for loc, conf, level in pairs
        ]
        return torch.cat([v[0] for v in views], 2), torch.cat([v[1] for v in views], 2)


def stage(channels: int, out: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels, out, stride=stride)
    return nn.Sequential(first, *(BasicBlock(out, out, stride=1) for _ in range(blocks - 1)))


def build_reference(num_labels: int = 81) -> Reference:
    torch.manual_seed(0)
    reference = Reference(num_labels)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return reference.eval()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build_reference()


def anchors_first(flat: Tensor) -> Tensor:
    """Bring [N,C,8732], per level anchor by anchor, into [N,8732,C], per level cell by cell."""
    levels, start = [], 0
    for cells, anchors in zip(CELLS, ANCHORS, strict=True):
        size = cells * cells * anchors
        level = flat[:, :, start : start + size].unflatten(2, (anchors, cells * cells))
        levels.append(level.permute(0, 3, 2, 1).flatten(1, 2))
        start += size
    return torch.cat(levels, 1)


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def run(path: Path, output: Path, **options: Any) -> Any:
    return import_weights(path, source="mlperf-ssd", output=output, options=Options(**options))


def test_outputs_are_the_references(reference: Reference, tmp_path: Path) -> None:
    names = {0: "background"} | dict(enumerate(COCO_CLASSES.values(), start=1))
    content = {"model": reference.state_dict(), "label_map": names}
    imported = run(save(content, tmp_path / "iter.pt"), tmp_path / "ours.pth")
    assert imported.kind == "detector"
    trained = load_detector(tmp_path / "ours.pth")
    assert (trained.step, trained.recipe.name, trained.recipe.reference) == (0, "ours", ())
    assert trained.recipe.detector.backbone_weights is None
    assert trained.category_ids == tuple(COCO_CLASSES)
    assert trained.class_names == tuple(COCO_CLASSES.values())
    images = torch.randn(2, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    assert isinstance(trained.detector, SSDResNet34)
    with torch.no_grad():
        ours = trained.detector(images)
        boxes, labels = reference(images)
    assert labels.std() > 0.1
    assert torch.allclose(ours.logits, anchors_first(labels), atol=1e-4)
    assert torch.allclose(ours.deltas, anchors_first(boxes), atol=1e-4)


def test_the_account_names_every_key(reference: Reference, tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in reference.state_dict().items()}
    account = run(save({"model": state}, tmp_path / "a.pt"), tmp_path / "ours.pth").account
    rows = {row.ours: (row.theirs, row.how) for row in account.taken}
    turned = "anchor innermost -> anchor outermost"
    assert rows["class_heads.3.bias"] == ("conf.3.bias", turned)
    assert rows["box_heads.0.weight"] == ("loc.0.weight", turned)
    assert rows["extras.2.expand.weight"] == ("additional_blocks.2.2.weight", "")
    assert rows["backbone.layer2.3.bn1.bias"] == ("model.layer1.5.3.bn1.bias", "")
    theirs = {theirs for theirs, _ in rows.values()} | {row.theirs for row in account.ignored}
    assert theirs == set(reference.state_dict())
    assert {row.why for row in account.ignored} == {"a counter that nothing reads"}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "classes.json"
    categories = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
    image = {"id": 1, "file_name": "a.jpg", "width": 5, "height": 5}
    content = {"images": [image], "annotations": [], "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_other_classes_are_put_in_the_order_of_their_ids(tmp_path: Path, annotations: Path) -> None:
    state = build_reference(3).state_dict()
    bias = state["conf.1.bias"].reshape(3, 6)  # background, cat, dog
    named = {"model": state, "label_map": {0: "background", 1: "cat", 2: "dog"}}
    run(save(named, tmp_path / "named.pt"), tmp_path / "named.pth", annotations=annotations)
    trained = load_detector(tmp_path / "named.pth")
    assert (trained.class_names, trained.category_ids) == (("dog", "cat"), (2, 7))
    ours = trained.detector.get_parameter("class_heads.1.bias").reshape(6, 3)
    assert torch.equal(ours, bias[[0, 2, 1]].T)
    # Without names in the file, its order is taken to be that of the ids.
    run(save(state, tmp_path / "bare.pt"), tmp_path / "bare.pth", annotations=annotations)
    trained = load_detector(tmp_path / "bare.pth")
    ours = trained.detector.get_parameter("class_heads.1.bias").reshape(6, 3)
    assert torch.equal(ours, bias.T)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("loc.2.bias"), r"no weights for 'box_heads\.2\.bias'; nothing was writ"),
        (
            lambda s: [s.pop(f"conf.{n}.weight") for n in (3, 4)],
            r"no weights for 'class_heads\.3\.weight' and 1 more; nothing was written; give a",
        ),
        (lambda s: s.update(fc=torch.zeros(1)), "unknown key 'fc'; nothing was written"),
        (
            lambda s: s.update({"loc.0.weight": torch.zeros(12, 256, 3, 3)}),
            r"'loc\.0\.weight' has shape \(12, 256, 3, 3\) after .*'box_heads\.0\.weight' wants",
        ),
        (
            lambda s: s.update({"loc.0.bias": torch.full((16,), torch.nan)}),
            r"'loc\.0\.bias' holds values that are not finite",
        ),
        (
            lambda s: s.update({"loc.0.bias": torch.zeros(16, dtype=torch.int32)}),
            r"'loc\.0\.bias' is of type torch\.int32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    reference: Reference, tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    state = dict(reference.state_dict())
    change(state)
    path = save(state, tmp_path / "iter.pt")
    with pytest.raises(Mismatch, match=rf"iter\.pt: not MLPerf's SSD-ResNet34: {words}"):
        run(path, tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()


def test_unknown_classes_ask_for_annotations(tmp_path: Path, annotations: Path) -> None:
    state = build_reference(4).state_dict()
    bare = save(state, tmp_path / "bare.pt")
    with pytest.raises(InputError, match=r"has 3 classes, COCO has 80; give the annotations"):
        run(bare, tmp_path / "ours.pth")
    with pytest.raises(InputError, match=r"has 3 classes, .*classes\.json has 2; give the annot"):
        run(bare, tmp_path / "ours.pth", annotations=annotations)
    content = {"model": state, "label_map": {0: "background", 1: "cat", 2: "dog", 3: "cow"}}
    named = save(content, tmp_path / "named.pt")
    with pytest.raises(InputError, match=r"its 3 classes \(cat, dog, cow, \.\.\.\) are not those"):
        run(named, tmp_path / "ours.pth", annotations=annotations)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"no 'conf\.0\.weight', so no detector of this kind"):
        run(path, tmp_path / "ours.pth")
    path = save({"conf.0.weight": torch.zeros(7, 1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"shape \(7, 1\), expected a multiple of 4 outputs"):
        run(path, tmp_path / "ours.pth")
