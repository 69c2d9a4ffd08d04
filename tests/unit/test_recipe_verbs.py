"""The answers of `suite recipes`: rows and texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from suite.errors import UsageError
from suite.recipe import RULES, Recipe, list_shipped_recipes, load_recipe
from suite.recipe_verbs import (
    DiffRow,
    copy_recipe,
    derive_facts,
    diff_recipes,
    learning_rate_at,
    list_recipes,
    show_recipe,
    validate_recipes,
)
from suite.strict_yaml import read_yaml


def test_the_list_has_a_row_for_each_recipe() -> None:
    rows = {row.name: row for row in list_recipes()}
    assert list(rows) == sorted(list_shipped_recipes())
    row = rows["ssd_r34_8p"]
    assert row[1:5] == ("ssd_r34", "npu x 8", 256, 115.2)
    assert row.summary.startswith("SSD-ResNet34 300x300 on COCO 2017 with 8 Ascend 910")


def test_what_is_shown_is_the_recipe_itself_with_its_consequences() -> None:
    recipe = load_recipe("ssd_r34_8p", {"seed": "5"})
    text = show_recipe(recipe)
    assert read_yaml(text, Recipe, source="shown", rules=RULES) == recipe
    derived = [line[2:].split(":") for line in text.splitlines() if line.startswith("# ")]
    facts = {name: value[0].strip() for name, *value in derived if value}
    assert facts["steps in total"] == "54,000"
    assert facts["steps per epoch"] == "468"
    assert facts["peak learning rate"] == "0.024"


def test_steps_need_the_size_of_the_training_set() -> None:
    recipe = load_recipe("ssd_r34_bccd")
    assert derive_facts(recipe)["steps"] == "depend on the number of training images"
    assert (
        derive_facts(recipe, dataset_size=205)["steps per epoch"] == f"{205 // recipe.global_batch}"
    )


def test_the_learning_rate_of_a_step() -> None:
    recipe = load_recipe("ssd_r34_8p")
    assert f"{learning_rate_at(recipe, 3099, 118_287):.8f}" == "0.02377195"


def test_a_copy_keeps_the_comments_and_replaces_nothing(tmp_path: Path) -> None:
    path = copy_recipe("demo", tmp_path)
    assert path == tmp_path / "demo.yaml"
    assert path.read_bytes() == list_shipped_recipes()["demo"].read_bytes()
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"demo\.yaml: exists; .* --force"):
        copy_recipe("demo", path)
    assert path.read_text() == "mine"
    copy_recipe("demo", path, force=True)
    assert load_recipe(str(path)) == load_recipe("demo")
    with pytest.raises(UsageError, match="'nothing': no such file"):
        copy_recipe("nothing", tmp_path)


@pytest.mark.parametrize("name", ["mine", "007", "null"])
def test_a_copy_is_named_as_its_file_and_keeps_all_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"
    assert copy_recipe("ssd_r34_1p", path) == path
    assert load_recipe(str(path)) == replace(load_recipe("ssd_r34_1p"), name=name)
    original = list_shipped_recipes()["ssd_r34_1p"].read_text(encoding="utf-8")
    changed = set(original.splitlines()) ^ set(path.read_text(encoding="utf-8").splitlines())
    spelled = name if name == "mine" else f"'{name}'"
    assert changed == {"name: ssd_r34_1p", f"name: {spelled}"}


def test_a_copy_finds_the_name_wherever_it_stands(tmp_path: Path) -> None:
    source = tmp_path / "source.yaml"
    text = list_shipped_recipes()["demo"].read_text(encoding="utf-8")
    text = text.replace("name: demo\n", "") + '"name": "demo"  # é, mine\n'
    source.write_text(text, encoding="utf-8")
    path = copy_recipe(str(source), tmp_path / "target.yaml")
    assert path.read_text(encoding="utf-8").endswith('"name": target  # é, mine\n')
    assert load_recipe(str(path)) == replace(load_recipe("demo"), name="target")


@pytest.mark.parametrize("name", ["my recipe.yaml", ".yaml", "a.b.yaml", "ü.yaml", "x" * 65])
def test_a_copy_whose_file_cannot_name_a_recipe_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot name a recipe; expected at most 64 ASCII"):
        copy_recipe("demo", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_validation_reports_every_mistake_of_every_recipe(tmp_path: Path) -> None:
    assert [recipe.name for recipe in validate_recipes()] == sorted(list_shipped_recipes())
    assert [recipe.name for recipe in validate_recipes(["ssd_r34_8p"])] == ["ssd_r34_8p"]
    path = copy_recipe("demo", tmp_path / "bad.yaml")
    path.write_text(path.read_text().replace("seed: 0", "sead: 0").replace("flip: 0.5", "flip: 5"))
    with pytest.raises(UsageError) as caught:
        validate_recipes([str(path), "ssd_r34_8p", "nothing"])
    missing, flip, unknown, nothing = str(caught.value).splitlines()
    assert missing == f"{path}:1: seed: missing"
    assert flip.endswith("augment.flip: expected a number from 0 to 1, got '5'")
    assert unknown.endswith("sead: unknown key (did you mean 'seed'?)")
    assert nothing.startswith("'nothing': no such file")


def test_a_diff_has_the_changed_fields_alone() -> None:
    a = load_recipe("ssd_r34_8p")
    assert diff_recipes(a, a) == []
    changed = {"data.train.images": "t", "reference": "[]", "optimizer.clip_norm": "3"}
    assert diff_recipes(a, load_recipe("ssd_r34_8p", changed)) == [
        DiffRow("data.train.images", "train2017", "t"),
        DiffRow("optimizer.clip_norm", None, 3.0),
        DiffRow("reference", ["seed-003"], []),
    ]
