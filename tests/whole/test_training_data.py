"""What becomes of a run whose images are bad, cached, or come from a process that hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints, load_checkpoint
from suite.data import load_split
from suite.data.synthetic import write_synthetic
from suite.errors import InputError
from suite.recipe import Recipe, load_recipe
from suite.records import load_record
from suite.training import train
from tests.small_runs import SMALL

RunSuite = Callable[..., Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "data"
    write_synthetic(folder, num_train=8, num_val=2, seed=3)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def build_recipe(data: Path, **changes: str) -> Recipe:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe("demo", {**SMALL, "data.root": str(data), **dotted})


def damaged(data: Path, folder: Path, count: int) -> tuple[Path, set[int]]:
    """Copy a data set and cut its first training images short; also return their ids."""
    shutil.copytree(data, folder)
    images = json.loads((folder / "annotations" / "instances_train.json").read_text())["images"]
    for image in images[:count]:
        path = folder / "train" / image["file_name"]
        path.write_bytes(path.read_bytes()[:500])
    return folder, {image["id"] for image in images[:count]}


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_bad_samples_are_skipped_counted_and_listed(data: Path, tmp_path: Path) -> None:
    broken, bad_ids = damaged(data, tmp_path / "data", 2)
    recipe = build_recipe(broken, data__on_bad_sample="skip", data__bad_sample_limit="0.25")
    run = train(recipe, output=tmp_path / "runs", evaluate_at_end=False)
    listed = load_record(run / "record.json")["conditions"]["bad_samples"]
    assert {entry["image_id"] for entry in listed} == bad_ids
    assert all("cannot be decoded" in entry["reason"] for entry in listed)
    said = (run / "log.txt").read_text()
    assert len(re.findall(r"^image \d+ is replaced: .*cannot be decoded", said, re.M)) == 2
    assert len(losses(run)) == 8


def test_more_bad_samples_than_the_limit_end_the_run(data: Path, tmp_path: Path) -> None:
    broken, _ = damaged(data, tmp_path / "data", 2)
    recipe = build_recipe(broken, data__on_bad_sample="skip", data__bad_sample_limit="0.24")
    with pytest.raises(InputError, match=r"^2 of 8 training images cannot be read, more than"):
        train(recipe, output=tmp_path / "runs", evaluate_at_end=False)


def test_a_resumed_run_remembers_what_was_bad(data: Path, tmp_path: Path) -> None:
    broken, bad_ids = damaged(data, tmp_path / "data", 2)
    changes = {"data__on_bad_sample": "skip", "data__bad_sample_limit": "0.5"}
    run = train(build_recipe(broken, **changes), output=tmp_path / "runs", evaluate_at_end=False)
    expected = load_record(run / "record.json")["conditions"]["bad_samples"]
    (run / "record.json").unlink()
    for path in list_checkpoints(run / "checkpoints")[-1:]:
        assert load_checkpoint(path)["bad_samples"] == expected
        path.unlink()
    # The images are whole again: only the checkpoint knows.
    for image in data.glob("train/*"):
        shutil.copy(image, broken / "train" / image.name)
    train(build_recipe(broken, **changes), output=tmp_path, resume=run, evaluate_at_end=False)
    assert load_record(run / "record.json")["conditions"]["bad_samples"] == expected
    assert {entry["image_id"] for entry in expected} == bad_ids


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_cache_changes_no_loss(
    data: Path, tmp_path: Path, run_suite: RunSuite, place: str
) -> None:
    plain = train(build_recipe(data), output=tmp_path / "plain", evaluate_at_end=False)
    assignments = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    done = run_suite(
        "train", "demo", "--data", str(data), *assignments, "--cache", place, "--no-eval",
        "--output", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert re.search(r"decoding into a cache: 8 images, 0\.00 GiB decoded, in /", done.stderr)
    run = Path(done.stdout.strip())
    assert losses(run) == losses(plain)
    assert load_record(run / "record.json")["conditions"]["image_cache"] == place


def test_an_image_that_hangs_ends_the_run_with_its_name(
    data: Path, tmp_path: Path, run_suite: RunSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suite.data import sample

    read = sample.ImageFile.read

    def read_but_hang(file: sample.ImageFile) -> bytes:
        if file.path.stem.endswith("3"):
            os.read(os.pipe()[0], 1)  # nobody ever writes: a disk that does not answer
        return read(file)

    monkeypatch.setattr(sample.ImageFile, "read", read_but_hang)
    changes = SMALL | {"data.workers": "2", "data.timeout_s": "1"}
    assignments = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    done = run_suite(
        "train", "demo", "--data", str(data), *assignments, "--output", str(tmp_path / "runs")
    )
    assert done.code == 1
    name = rf"{data}/train/\d*3\.jpg"
    assert re.search(rf"^suite: the loader processes have not moved.*hang at.*{name}", done.stderr)


PLACES = {
    "voc": {"data.train.annotations": "train", "data.val.annotations": "val"},
    "yolo": {
        "data.train.annotations": "labels/train",
        "data.train.images": "images/train",
        "data.val.annotations": "labels/val",
        "data.val.images": "images/val",
    },
    "tfrecord": {"data.train.annotations": "train*", "data.val.annotations": "val*"},
}


@pytest.mark.parametrize("form", PLACES)
def test_every_format_trains_the_same_detector(
    data: Path, tmp_path: Path, form: str, run_suite: RunSuite
) -> None:
    done = run_suite(
        "data", "convert", "demo", "--data", str(data), "--to", form,
        "--output", str(tmp_path / form), "--shards", "1",  # more would change the order
    )  # fmt: skip
    assert done.code == 0, done.stderr
    elsewhere = {
        "data.format": form,
        "data.train.images": "null",
        "data.val.images": "null",
        **PLACES[form],
    }
    expected = train(build_recipe(data), output=tmp_path / "coco")
    found = train(build_recipe(tmp_path / form, **elsewhere), output=tmp_path / "other")
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4)
    results = [
        json.loads((run / "eval" / "coco_instances_results.json").read_text())
        for run in (expected, found)
    ]
    assert [(one["image_id"], one["category_id"]) for one in results[0]] == [
        (one["image_id"], one["category_id"]) for one in results[1]
    ]


def test_records_are_judged_by_a_coco_file(data: Path, tmp_path: Path, run_suite: RunSuite) -> None:
    done = run_suite(
        "data", "convert", "demo", "--data", str(data), "--to", "tfrecord",
        "--output", str(tmp_path / "records"), "--shards", "1",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    document = json.loads((data / "annotations" / "instances_val.json").read_text())
    document["annotations"] = document["annotations"][:1]
    truth = tmp_path / "records" / "instances_val.json"
    truth.write_text(json.dumps(document))
    elsewhere = {
        "data.format": "tfrecord",
        "data.train.images": "null",
        "data.val.images": "null",
        **PLACES["tfrecord"],
        "data.val.ground_truth": "instances_val.json",
    }
    recipe = build_recipe(tmp_path / "records", **elsewhere)
    val = load_split(recipe.data, "val")
    assert [len(sample.labels) for sample in val.samples] != [1, 0]
    assert val.coco["annotations"] == [document["annotations"][0] | {"iscrowd": 0}]

    document["images"][0]["id"] = 999
    document["annotations"] = []
    truth.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"instances_val\.json: image \d+ is not in both"):
        load_split(recipe.data, "val")
    document["categories"][0]["name"] = "another"
    truth.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"its categories another, .* are not those of the data"):
        load_split(recipe.data, "val")
