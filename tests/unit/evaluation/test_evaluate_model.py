"""The verb `eval`: what it writes, and what it says about a model and about the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.structures import Detections, Images
from suite.checkpoint import build_recipe_detector, write_checkpoint
from suite.data import load_split
from suite.data.synthetic import write_synthetic
from suite.data.workers import Workers
from suite.errors import InputError
from suite.evaluation import detect_dataset
from suite.evaluation.coco import evaluate_coco
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.evaluation.judging import Judging
from suite.evaluation.model import EvaluationRequest, evaluate_model, find_recipe_of
from suite.recipe import Recipe, load_recipe, recipe_to_dict
from suite.recipe_sections import Resize
from suite.records import Record, load_record
from suite.sizing import build_sizing


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Trains 100 nominal epochs of 20 images in pairs: 1000 steps."""
    write_synthetic(tmp_path / "data", num_train=1, num_val=2, seed=0)
    overrides = {
        "data.root": str(tmp_path / "data"),
        "data.workers": "0",
        "detector.width": "0.125",
        "global_batch": "2",
        "reference": "[seed-003]",
        "schedule.epochs": "100",
        "schedule.nominal_epoch_images": "20",
    }
    return load_recipe("demo", overrides)


def write_trained(recipe: Recipe, path: Path, *, changes: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint of step 250, a quarter of the run."""
    val_set = load_split(recipe.data, "val")
    torch.manual_seed(0)
    state: dict[str, Any] = {
        "step": 250,
        "weights": build_recipe_detector(recipe).state_dict(),
        "ema": None,
        "optimizer": {},
        "scaler": {},
        "events": {},
        "recipe": recipe_to_dict(recipe),
        "class_names": list(val_set.class_names),
        "category_ids": list(val_set.category_ids),
        "data_digest": val_set.digest,
    }
    write_checkpoint(state | (changes or {}), path)
    return path


def evaluate(model: Path, recipe: Recipe | None = None) -> tuple[Path, Record]:
    output = model.parent / "runs"
    _, folder = evaluate_model(model, EvaluationRequest(recipe=recipe, device="cpu", output=output))
    return folder, load_record(folder / "record.json")


def test_every_call_is_of_one_canvas_and_every_answer_goes_to_its_image(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "data", num_train=1, num_val=12, seed=0)
    val_set = load_split(load_recipe("demo", {"data.root": str(tmp_path / "data")}).data, "val")
    sizing = build_sizing(Resize(mode="pad", short_side=64, long_side=128))
    canvases, done = [], []

    def find_whole_image(images: Images) -> list[Detections]:
        sizes = images.original_hw.tolist()
        canvas = tuple(images.pixels.shape[2:])
        assert {sizing.canvas_hw((height, width)) for height, width in sizes} == {canvas}
        canvases.append(canvas)
        boxes = [torch.tensor([[0.0, 0, width, height]]) for height, width in sizes]
        return [Detections(box, torch.ones(1), torch.zeros(1).long()) for box in boxes]

    results = detect_dataset(
        find_whole_image,
        val_set,
        sizing=sizing,
        batch_size=3,
        workers=Workers(num=0),
        progress=done.append,
    )
    found = {result["image_id"]: result["bbox"] for result in results}
    assert len(results) == done[-1] == 12
    assert len(set(canvases)) > 1
    for sample in val_set.samples:
        height, width = sample.image_hw
        assert found[sample.image_id] == [0, 0, width, height]


def test_results_and_record_are_written(recipe: Recipe, tmp_path: Path) -> None:
    folder, record = evaluate(write_trained(recipe, tmp_path / "model.pth"))
    assert folder.name == "eval-model-1"
    results = load_results(folder / "eval" / "coco_instances_results.json")
    truth = load_ground_truth(tmp_path / "data" / "annotations" / "instances_val.json")
    assert record["metrics"] == evaluate_coco(truth, results).numbers()
    assert (record["kind"], record["conditions"]["val_images"]) == ("eval", 2)
    assert record["subject"]["val_digest"] == load_split(recipe.data, "val").digest


def test_a_model_is_judged_as_asked(recipe: Recipe, tmp_path: Path) -> None:
    model = write_trained(recipe, tmp_path / "model.pth")
    judging = Judging(referee="pycocotools", analyse=True, resamples=100, seed=1)
    request = EvaluationRequest(device="cpu", output=tmp_path / "runs", judging=judging)
    _, folder = evaluate_model(model, request)
    assert folder is not None
    record = load_record(folder / "record.json")
    conditions, metrics = record["conditions"], record["metrics"]
    assert conditions["referee"].startswith("pycocotools ")
    assert json.loads((folder / conditions["analysis"]).read_text())["num_images"] == 2
    # Of two images an interval would say nothing.
    assert metrics["ap"] is not None
    assert (metrics["ap_low"], metrics["ap_high"]) == (None, None)


def test_epochs_are_those_behind_the_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    _, record = evaluate(write_trained(recipe, tmp_path / "model.pth"))
    assert record["conditions"]["epochs"] == 25
    assert record["subject"]["reference"] == ["seed-003"]


def test_epochs_of_unknown_size_are_not_stated(recipe: Recipe, tmp_path: Path) -> None:
    plain = load_recipe("demo", {"data.root": recipe.data.root, "detector.width": "0.125"})
    _, record = evaluate(write_trained(plain, tmp_path / "model.pth"))
    assert "epochs" not in record["conditions"]


def test_another_recipe_tells_only_about_the_data(recipe: Recipe, tmp_path: Path) -> None:
    model = write_trained(recipe, tmp_path / "model.pth")
    other = load_recipe(
        "demo",
        {
            "data.root": recipe.data.root,
            "data.name": "other",
            "reference": "[seed-001]",
            "schedule.nominal_epoch_images": "40",
        },
    )
    _, record = evaluate(model, other)
    assert record["subject"]["dataset"] == "other"
    assert record["subject"]["recipe"] == "demo"
    assert "reference" not in record["subject"]
    assert "epochs" not in record["conditions"]


def test_a_recipe_that_a_checkpoint_cannot_have_is_the_files_fault(
    recipe: Recipe, tmp_path: Path
) -> None:
    changes = {"recipe": {"name": "nothing else"}}
    model = write_trained(recipe, tmp_path / "model.pth", changes=changes)
    with pytest.raises(InputError, match=r"model\.pth, its recipe") as caught:
        find_recipe_of(model)
    assert caught.value.exit_code == 1
