"""Every recipe that comes with the suite: it loads, says what it needs, and keeps its facts."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import suite.shipped
from models import DETECTORS
from suite.recipe import Recipe, differing_keys, list_shipped_recipes, load_recipe
from suite.recipe_sections import Detector, Resize, RetinaNetVariant
from suite.schedule import peak_learning_rate, total_steps
from suite.shipped import shipped_folder

NAMES = list(list_shipped_recipes())


def test_these_recipes_are_shipped() -> None:
    assert NAMES == [
        "demo",
        "retinanet_r18_fpn_finetune",
        "retinanet_r50_fpn_1p",
        "retinanet_r50_fpn_2x_8p",
        "retinanet_r50_fpn_8p",
        "retinanet_r50_fpn_multinode",
        "ssd_r34_1p",
        "ssd_r34_8p",
        "ssd_r34_bccd",
        "ssd_r34_finetune",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_is_named_as_its_file(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_command_hardware_time_and_whose_ap(name: str) -> None:
    text = list_shipped_recipes()[name].read_text(encoding="utf-8")
    header = re.match(r"(#.*\n)+", text)
    assert header is not None
    for item in ("command:", "hardware:", "expected time:", "expected AP:"):
        assert f"# {item}" in header[0]
    assert f"suite train {name} " in header[0]
    (expected_ap,) = re.findall(r"# expected AP:(.*)", header[0])
    assert re.search(r"\d|unverified", expected_ap)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("ssd_r34_8p", ("seed-003",)),
        ("ssd_r34_1p", ("seed-003",)),
        ("retinanet_r50_fpn_1p", ("seed-001", "mmdet-003")),
        ("retinanet_r50_fpn_8p", ("seed-002", "mmdet-003")),
        ("retinanet_r50_fpn_2x_8p", ("mmdet-005",)),
        ("retinanet_r50_fpn_multinode", ("mmdet-003",)),
    ],
)
def test_a_run_of_others_is_called_unverified(name: str, rows: tuple[str, ...]) -> None:
    text = list_shipped_recipes()[name].read_text(encoding="utf-8")
    assert "# status:        unverified" in text
    assert load_recipe(name).reference == rows


def test_the_published_runs_differ_in_devices_and_batch_alone() -> None:
    eight, one = load_recipe("ssd_r34_8p"), load_recipe("ssd_r34_1p")
    assert (eight.devices, eight.global_batch) == (8, 256)
    assert (one.devices, one.global_batch) == (1, 32)
    assert eight.schedule == one.schedule
    assert (eight.data, eight.augment, eight.optimizer) == (one.data, one.augment, one.optimizer)
    assert seen_images(eight) == seen_images(one) == 13_824_000


def test_the_published_runs_state_how_they_depart_from_them() -> None:
    for name in ("ssd_r34_8p", "ssd_r34_1p"):
        text = list_shipped_recipes()[name].read_text(encoding="utf-8")
        assert "departures:    torchvision's backbone weights with torch padding" in text
        assert load_recipe(name).detector.padding == "torch"


RETINANETS = [name for name in NAMES if name.startswith("retinanet_r50")]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # mmdetection's table, the seed's, and the figure its authors withdrew.
        ("retinanet_r50_fpn_1p", ["0.365", "0.360", "0.366"]),
        ("retinanet_r50_fpn_8p", ["0.360", "0.365"]),
        ("retinanet_r50_fpn_2x_8p", ["0.374"]),
        ("retinanet_r50_fpn_multinode", ["0.365"]),
    ],
)
def test_headers_hold_the_published_ap_of_retinanet(name: str, numbers: list[str]) -> None:
    text = list_shipped_recipes()[name].read_text(encoding="utf-8")
    expected_ap = text.partition("# expected AP:")[2].partition("# status:")[0]
    assert re.findall(r"0\.3\d\d", expected_ap) == numbers
    assert "published by" in expected_ap


def test_numbers_in_headers_are_those_of_the_rows_they_name() -> None:
    published = {}
    for path in shipped_folder("reference").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            published |= {row["row_id"]: row for row in csv.DictReader(file)}
    found = []
    for name in RETINANETS:
        text = list_shipped_recipes()[name].read_text(encoding="utf-8")
        header = " ".join(line[1:].strip() for line in text.splitlines() if line[:1] == "#")
        for ap, row_id in re.findall(r"(0\.3\d\d)[^;(]*\(row ([a-z]+-\d+)\)", header):
            assert float(published[row_id]["ap"]) == float(ap), (name, row_id)
            found.append(row_id)
        assert set(load_recipe(name).reference) <= set(re.findall(r"row ([a-z]+-\d+)", header))
    assert set(found) == {"seed-002", "mmdet-003", "mmdet-005"}


@pytest.mark.parametrize("name", RETINANETS)
def test_retinanets_are_trained_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.detector.name, recipe.detector.num_classes) == ("retinanet_r50_fpn", 80)
    assert (recipe.detector.width, recipe.detector.frozen_stages) == (1.0, 1)
    assert recipe.detector.variant == RetinaNetVariant()
    assert recipe.resize == Resize(mode="fixed", short_side=800, long_side=1333)
    assert (recipe.augment.crop, recipe.augment.flip, recipe.augment.jitter) == ("none", 0.5, False)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)
    assert recipe.optimizer.clip_norm == 10
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_start) == (500, 0.001)
    assert not recipe.data.use_crowd
    postprocess = recipe.postprocess
    assert (postprocess.score_threshold, postprocess.iou_threshold) == (0.05, 0.5)
    assert (postprocess.max_detections, postprocess.pre_topk) == (100, 1000)
    assert (recipe.device, recipe.precision, recipe.eval_every_epochs) == ("npu", "fp16", 1)
    text = list_shipped_recipes()[name].read_text(encoding="utf-8")
    assert "no truncation to 40 boxes" in text and "fp16, which that has" in text


def test_retinanets_differ_in_devices_batch_and_length_alone() -> None:
    base = load_recipe("retinanet_r50_fpn_8p")
    assert {name: differing_keys(base, load_recipe(name)) for name in RETINANETS} == {
        "retinanet_r50_fpn_1p": ["name", "global_batch", "devices", "reference"],
        "retinanet_r50_fpn_2x_8p": ["name", "schedule.epochs", "schedule.milestones", "reference"],
        "retinanet_r50_fpn_8p": [],
        "retinanet_r50_fpn_multinode": ["name", "global_batch", "devices", "reference"],
    }
    sizes = {name: (load_recipe(name).devices, load_recipe(name).global_batch)
             for name in RETINANETS}  # fmt: skip
    assert sizes == {
        "retinanet_r50_fpn_1p": (1, 8),
        "retinanet_r50_fpn_2x_8p": (8, 64),
        "retinanet_r50_fpn_8p": (8, 64),
        "retinanet_r50_fpn_multinode": (16, 128),
    }
    assert [load_recipe(name).schedule.epochs for name in RETINANETS] == [12, 24, 12, 12]


def test_the_single_npu_recipe_says_how_to_get_the_unscaled_rate() -> None:
    text = list_shipped_recipes()["retinanet_r50_fpn_1p"].read_text(encoding="utf-8")
    assert "0.04 here too, unscaled (--set schedule.base_lr=0.08 gives that)" in text
    unscaled = load_recipe("retinanet_r50_fpn_1p", {"schedule.base_lr": "0.08"})
    assert peak_learning_rate(unscaled.schedule, global_batch=8) == 0.04


def test_fine_tuning_has_the_settings_measured_on_blood_cells() -> None:
    measured, offered = load_recipe("ssd_r34_bccd"), load_recipe("ssd_r34_finetune")
    differing = differing_keys(measured, offered)
    assert [key for key in differing if not key.startswith("data.")] == [
        "name",
        "detector.backbone_weights",
        "device",
    ]
    weights = load_recipe("ssd_r34_8p").detector.backbone_weights
    assert (offered.detector.backbone_weights, offered.device) == (weights, "auto")
    assert (offered.data.format, offered.data.root) == ("coco", "data/mine")
    assert offered.data.use_crowd == measured.data.use_crowd


def seen_images(recipe: Recipe) -> int:
    batch = recipe.global_batch
    return batch * total_steps(recipe.schedule, global_batch=batch, dataset_size=118_287)


def test_detectors_of_recipes_are_those_that_can_be_built() -> None:
    assert get_args(get_type_hints(Detector)["name"]) == tuple(DETECTORS)


def test_an_installed_suite_carries_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Path(suite.shipped.__file__).parent.parent
    assert shipped_folder("recipes") == checkout / "recipes"
    assert shipped_folder("reference") == checkout / "reports" / "reference"
    (tmp_path / "_data" / "recipes").mkdir(parents=True)
    monkeypatch.setattr(suite.shipped, "_PACKAGE", tmp_path)
    assert shipped_folder("recipes") == tmp_path / "_data" / "recipes"
