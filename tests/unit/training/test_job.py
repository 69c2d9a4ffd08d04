"""From a recipe to a job: steps, and what is refused before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from suite.data.synthetic import write_synthetic
from suite.errors import UsageError
from suite.recipe import load_recipe
from suite.training.job import Plan, describe_conditions, open_batches, opened_job, plan_run


def test_the_published_run_in_steps() -> None:
    plan = plan_run(load_recipe("ssd_r34_8p"), dataset_size=117_266)
    # 120,000 nominal images an epoch, 256 a step.
    assert plan == Plan(num_steps=54_000, checkpoint_every=468, evaluate_every=None)


def test_parts_of_epochs_are_rounded_to_steps_and_never_to_none() -> None:
    changes = {"eval_every_epochs": "2.5", "checkpoint_every_epochs": "0.01", "global_batch": "16"}
    plan = plan_run(load_recipe("demo", changes), dataset_size=100)
    assert (plan.evaluate_every, plan.checkpoint_every) == (15, 1)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job") / "data"
    write_synthetic(folder, num_train=16, num_val=1, seed=3)
    return folder


def test_a_job_has_device_data_and_plan(generated: Path) -> None:
    recipe = load_recipe("demo", {"data.root": str(generated), "schedule.epochs": "3"})
    with opened_job(recipe) as job:
        pass
    assert (job.device.kind, job.device.precision) == ("cpu", "bf16")
    assert len(job.train_set.samples) == 16
    assert all(len(sample.labels) for sample in job.samples)
    assert job.plan.num_steps == 3 * len(job.samples) // recipe.global_batch


@pytest.mark.parametrize("mode", ["pad", "fixed"])
def test_images_keep_their_shape_in_batches_of_one_orientation(generated: Path, mode: str) -> None:
    changes = {
        "augment.crop": "none",
        "data.root": str(generated),
        "data.workers": "0",
        "detector.name": "retinanet_r18_fpn",
        "global_batch": "2",
        "resize.long_side": "128",
        "resize.mode": mode,
        "resize.short_side": "64",
        "schedule.epochs": "1",
    }
    with opened_job(load_recipe("demo", changes)) as job:
        batches = list(open_batches(job, first_step=0))
    assert describe_conditions(job)["image_hw"] == [64, 128]
    assert len(batches) == job.plan.num_steps
    for batch in batches:
        original, resized = batch.images.original_hw, batch.images.resized_hw
        assert len({height < width for height, width in original.tolist()}) == 1
        assert (resized.amin(dim=1) <= 64).all() and (resized.amax(dim=1) <= 128).all()
        canvas = tuple(batch.images.pixels.shape[2:])
        assert canvas in ((64, 128), (128, 64)) if mode == "fixed" else max(canvas) <= 128
        assert (resized <= torch.tensor(canvas)).all()
        assert (batch.target.boxes_xyxy <= resized.flip(1).repeat(1, 2)[:, None]).all()


def test_one_process_does_not_pretend_to_be_several(generated: Path) -> None:
    recipe = replace(load_recipe("demo", {"data.root": str(generated)}), devices=2)
    with pytest.raises(UsageError, match=r"for 2 devices, a process each, and there are 1;"):
        opened_job(recipe).__enter__()


def test_data_without_boxes_cannot_be_learnt(generated: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(generated / split)
        name = f"annotations/instances_{split}.json"
        document = json.loads((generated / name).read_text())
        (tmp_path / name).write_text(json.dumps(document | {"annotations": []}))
    recipe = load_recipe("demo", {"data.root": str(tmp_path)})
    with pytest.raises(UsageError, match=f"{tmp_path}: no training image has a box to learn"):
        opened_job(recipe).__enter__()
