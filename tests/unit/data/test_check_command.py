"""`suite data check` from the outside: a recipe's corrected set, and what ends a check early."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from suite.data import load_recipe_splits
from suite.recipe import load_recipe, parse_overrides

Run = Callable[..., Any]


@pytest.fixture
def damaged(tmp_path: Path) -> list[str | Path]:
    """Flags of a set of one image, which cannot be decoded."""
    (tmp_path / "a.jpg").write_bytes(b"no image")
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    return ["--format", "coco", "--annotations", path, "--images", tmp_path]


@pytest.fixture
def synthetic(tmp_path: Path, run_suite: Run) -> Path:
    """The set of the recipe demo, its splits called train2017 and val2017; two boxes are alike."""
    root = tmp_path / "set"
    run_suite("data", "synth", root, "--train", "4", "--val", "2")
    for name in ("train", "val"):
        path = root / "annotations" / f"instances_{name}.json"
        path.rename(path.with_stem(f"instances_{name}2017"))
    path = root / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    document["annotations"].append(document["annotations"][0] | {"id": 99_999})
    path.write_text(json.dumps(document))
    return root


PLACES = {
    "coco": {"annotations": "annotations/instances_{}.json"},
    "voc": {"annotations": "{}", "images": "null"},
    "yolo": {"annotations": "labels/{}", "images": "images/{}"},
    "tfrecord": {"annotations": "{}*", "images": "null"},
}


def name_settings(data_format: str, root: Path) -> list[str]:
    """Return what makes the recipe demo one on a set that the suite has written."""
    settings = [f"data.format={data_format}", f"data.root={root}"]
    for split in ("train", "val"):
        for key, value in PLACES[data_format].items():
            settings.append(f"data.{split}.{key}={value.format(f'{split}2017')}")
    return [part for setting in settings for part in ("--set", setting)]


@pytest.mark.parametrize("data_format", list(PLACES))
def test_a_recipe_goes_on_with_its_corrected_set(
    tmp_path: Path, run_suite: Run, synthetic: Path, data_format: str
) -> None:
    settings = name_settings("coco", synthetic)
    if data_format != "coco":
        new = tmp_path / "new"
        done = run_suite("data", "convert", "demo", *settings, "--to", data_format,
                         "--output", new)  # fmt: skip
        assert done.code == 0, done.stderr
        settings = name_settings(data_format, new)
        if data_format == "tfrecord":
            (new / "label_map.pbtxt").rename(new / "names.pbtxt")
            settings += ["--set", "data.label_map=names.pbtxt"]
    finished = run_suite("data", "check", "demo", *settings, "--fix", tmp_path / "a b")
    assert finished.code == 0, finished.stderr
    changes, use = finished.stdout.splitlines()[-2:]
    assert "duplicate_box 1" in changes
    assert use.startswith("use it with --set ")
    told = shlex.split(use.removeprefix("use it with "))
    assert any("train2017" in setting for setting in told)
    again = run_suite("data", "check", "demo", *_override(settings, told), "--json")
    assert again.code == 0, again.stderr
    found = {finding["rule"] for finding in json.loads(again.stdout)["findings"]}
    assert "duplicate_box" not in found
    recipe = load_recipe("demo", parse_overrides(_override(settings, told)[1::2]))
    train, val = load_recipe_splits(recipe)
    assert (len(train.samples), len(val.samples)) == (4, 2)
    (name,) = {Path(sample.image.path).parent.name for sample in train.samples}
    assert name in ("train", "train2017", "JPEGImages", "a b")


def _override(settings: list[str], others: list[str]) -> list[str]:
    """Return `--set` flags, the later ones of each key."""
    by_key = dict(setting.split("=", 1) for setting in [*settings[1::2], *others[1::2]])
    return [part for key, value in by_key.items() for part in ("--set", f"{key}={value}")]


def test_json_says_how_a_corrected_set_is_used(
    tmp_path: Path, run_suite: Run, synthetic: Path
) -> None:
    fixed = tmp_path / "fixed"
    finished = run_suite("data", "check", "demo", *name_settings("coco", synthetic),
                         "--set", "data.val.ground_truth=annotations/instances_val2017.json",
                         "--fix", fixed, "--json")  # fmt: skip
    assert finished.code == 0, finished.stderr
    assert json.loads(finished.stdout)["fixed"] == {
        "output": str(fixed),
        "changes": {
            "train": {"duplicate_box": 1, "info of the data set": 1},
            "val": {"info of the data set": 1},
        },
        "settings": {
            "data.train.annotations": str(fixed / "train2017.json"),
            "data.val.annotations": str(fixed / "val2017.json"),
            # That file may have images which the corrected set has no more.
            "data.val.ground_truth": "null",
        },
    }


def test_findings_are_shown_where_the_corrected_set_cannot_be_written(
    damaged: list[str | Path], tmp_path: Path, run_suite: Run
) -> None:
    flags = [*damaged, "--fix", tmp_path / "b.json"]
    text = run_suite("data", "check", *flags)
    assert text.code == 1
    assert "error: undecodable_image in a" in text.stdout
    assert "no image is left" in text.stderr
    plain = run_suite("data", "check", *flags, "--json")
    assert plain.code == 1
    document = json.loads(plain.stdout)
    assert [finding["rule"] for finding in document["findings"]] == ["undecodable_image"]
    assert document["fixed"] is None


def test_a_place_that_cannot_be_written_is_told_before_the_check(
    damaged: list[str | Path], tmp_path: Path, run_suite: Run
) -> None:
    refused = run_suite("data", "check", *damaged, "--fix", tmp_path / "a.json" / "b.json")
    assert (refused.code, refused.stdout) == (1, "")
    assert "b.json: cannot be written (Not a directory)" in refused.stderr


def test_findings_so_far_are_shown_where_a_reader_cannot_go_on(
    damaged: list[str | Path], tmp_path: Path, run_suite: Run
) -> None:
    path = tmp_path / "a.json"
    document = json.loads(path.read_text())
    document["images"].append({"id": 1, "file_name": "b.jpg", "width": 64, "height": 48})
    path.write_text(json.dumps(document))
    flags = [*damaged[:-1], tmp_path / "gone", "--fix", tmp_path / "b.json"]
    text = run_suite("data", "check", *flags)
    assert text.code == 1
    assert text.stdout.startswith("error: duplicate_id in a\n")
    assert "gone: no such folder" in text.stderr
    assert not (tmp_path / "b.json").exists()
    plain = run_suite("data", "check", *flags, "--json")
    assert plain.code == 1
    whole = json.loads(plain.stdout)
    assert [finding["rule"] for finding in whole["findings"]] == ["duplicate_id"]
    assert "no such folder" in whole["stopped_by"]
    nothing = run_suite("data", "check", *damaged[:3], tmp_path / "none.json", *damaged[4:])
    assert (nothing.code, nothing.stdout) == (1, "")


@pytest.fixture
def judge(synthetic: Path, run_suite: Run) -> Callable[[str], list[tuple[str, str, str]]]:
    """Check the demo, val judged by a file; return the findings about it."""

    def run(name: str) -> list[tuple[str, str, str]]:
        finished = run_suite("data", "check", "demo", *name_settings("coco", synthetic), "--set",
                             f"data.val.ground_truth={name}", "--no-decode", "--json")  # fmt: skip
        found = [
            finding for finding in json.loads(finished.stdout)["findings"]
            if finding["file"] == str(synthetic / name)
        ]  # fmt: skip
        assert {(finding["severity"], finding["split"]) for finding in found} <= {("error", "val")}
        assert all("training and evaluation stop" in item["consequence"] for item in found)
        assert finished.code == (3 if found else 0)
        return [(finding["rule"], finding["item"], finding["value"]) for finding in found]

    return run


def test_the_file_that_val_is_judged_by_is_held_against_it(
    synthetic: Path, judge: Callable[[str], list[tuple[str, str, str]]]
) -> None:
    name = "annotations/instances_val2017.json"
    assert judge(name) == []
    document = json.loads((synthetic / name).read_text())
    other = synthetic / "other.json"

    document["annotations"][0]["category_id"] = 77
    other.write_text(json.dumps(document))
    ((rule, item, _),) = judge("other.json")
    assert (rule, item) == ("unknown_category", f"annotation {document['annotations'][0]['id']}")

    first = document["images"][0]["id"]
    document["images"][0]["id"] = first + 1000
    document["categories"][0]["name"] = "else"
    document["annotations"] = []
    other.write_text(json.dumps(document))
    classes, images = judge("other.json")
    assert classes[0] == "ground_truth_classes"
    assert classes[2].startswith("its categories else, ")
    value = f"image {first} is not in both, the file and the data (2 such images)"
    assert images == ("ground_truth_images", "", value)


def test_a_file_to_judge_by_that_cannot_be_read_is_a_finding(
    synthetic: Path, judge: Callable[[str], list[tuple[str, str, str]]]
) -> None:
    assert judge("gone.json") == [("ground_truth", "", "no such file")]
    Image.new("RGB", (8, 8)).save(synthetic / "image.png")
    ((rule, _, value),) = judge("image.png")
    assert rule == "ground_truth"
    assert value.startswith("not JSON (")


def test_the_nearest_data_yaml_names_the_classes(
    synthetic: Path, tmp_path: Path, run_suite: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    run_suite("data", "convert", "demo", *name_settings("coco", synthetic), "--to", "yolo",
              "--output", new)  # fmt: skip
    labels = new / "labels" / "train2017"
    monkeypatch.chdir(labels)
    flags = ["--format", "yolo", "--images", new / "images" / "train2017", "--no-decode", "--json"]
    for place in (labels, "."):
        found = run_suite("data", "check", *flags, "--annotations", place)
        assert found.code == 0, found.stderr
    named = (new / "data.yaml").read_text()
    first = named.split("0: ")[1].split("\n")[0]
    (labels / "data.yaml").write_text(named.replace(f"0: {first}", "0: else"))
    plain = run_suite("data", "stats", *flags[:4], "--annotations", labels, "--json")
    (split,) = json.loads(plain.stdout)["splits"].values()
    assert split["classes"][0]["name"] == "else"
