"""Every recipe that comes with the suite: it loads, says what it needs, and keeps its facts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import suite.shipped
from models import DETECTORS
from suite.recipe import Detector, Recipe, differing_keys, list_shipped_recipes, load_recipe
from suite.schedule import total_steps
from suite.shipped import shipped_folder

NAMES = list(list_shipped_recipes())


def test_these_recipes_are_shipped() -> None:
    assert NAMES == ["demo", "ssd_r34_1p", "ssd_r34_8p", "ssd_r34_bccd", "ssd_r34_finetune"]


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


@pytest.mark.parametrize("name", ["ssd_r34_8p", "ssd_r34_1p"])
def test_a_run_of_others_is_called_unverified(name: str) -> None:
    text = list_shipped_recipes()[name].read_text(encoding="utf-8")
    assert "unverified" in text
    assert load_recipe(name).reference == ("seed-003",)


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
