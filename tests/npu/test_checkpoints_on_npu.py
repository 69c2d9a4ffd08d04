"""Checkpoints that change devices, and runs on the simulated NPU that are killed and go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.checkpoint import list_checkpoints
from suite.recipe import load_recipe
from suite.records import load_record
from suite.training import train
from tests.npu.runs import (
    NUM_STEPS,
    Runs,
    assert_close,
    assert_same_losses,
    cut,
    losses_of,
    read_lines,
    state_of,
)

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)

NPU = ("--device", "npu")
TWO_NPUS = ("--device", "npu", "--devices", "2", "--no-eval")


# Going on with training


def test_a_run_of_an_npu_goes_on_on_the_cpu(runs: Runs, tmp_path: Path) -> None:
    run = cut(runs.train("ssd", *NPU), tmp_path / "run", step=4)
    train(load_recipe(str(runs.recipe("ssd"))), output=tmp_path, resume=run)
    assert_ends_as_on_the_cpu(run, runs, resumed={"device": "device npu, now cpu"})


def test_a_run_of_the_cpu_goes_on_on_an_npu(runs: Runs, tmp_path: Path) -> None:
    run = cut(runs.train_on_cpu("ssd"), tmp_path / "run", step=4)
    done = runs.suite("train", run / "recipe.yaml", *NPU, "--resume", run)
    assert done.returncode == 0, done.stderr
    assert_ends_as_on_the_cpu(run, runs, resumed={"device": "device cpu, now npu"})
    assert load_record(run / "record.json")["conditions"]["simulated"] is True


@pytest.mark.slow
def test_a_run_of_two_npus_goes_on_on_one_cpu_as_one_of_two_cpus_does(
    runs: Runs, tmp_path: Path
) -> None:
    # Batch norm sees the images of one device, so a run on one device throughout is another one.
    cpu = runs.train("retinanet", "--devices", "2", "--no-eval")
    ends = []
    for name, calm in (("npu", runs.train("retinanet", *TWO_NPUS)), ("cpu", cpu)):
        run = cut(calm, tmp_path / name, step=2)
        recipe = load_recipe(str(run / "recipe.yaml"), {"device": "cpu", "devices": "1"})
        assert recipe.global_batch == 4
        train(recipe, output=tmp_path, resume=run)
        ends.append(run)
    assert sorted(losses_of(ends[0])) == [1, 2, 3, 4]
    assert_same_losses(*ends)
    assert_close(*(state_of(run)["weights"] for run in ends), within=1e-5)


def assert_ends_as_on_the_cpu(run: Path, runs: Runs, *, resumed: dict[str, str]) -> None:
    cpu = runs.train_on_cpu("ssd")
    (line,) = [line for line in read_lines(run) if line.get("event") == "resumed"]
    assert line == {"event": "resumed", "step": 4, **resumed}
    assert_same_losses(run, cpu)
    assert_close(state_of(run)["weights"], state_of(cpu)["weights"], within=1e-4)
    assert state_of(run)["step"] == NUM_STEPS


def test_a_checkpoint_of_an_npu_opens_where_there_is_none(runs: Runs) -> None:
    newest = list_checkpoints(runs.train("ssd", *NPU) / "checkpoints")[-1]
    state = torch.load(newest, weights_only=True)  # as anybody would, with no word about devices
    for part in ("weights", "optimizer"):
        assert {tensor.device.type for tensor in tensors_of(state[part])} == {"cpu"}


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


@pytest.mark.slow
def test_resume_check_finds_no_difference(runs: Runs, tmp_path: Path) -> None:
    done = runs.suite(
        *("resume-check", runs.recipe("ssd"), *NPU, "--steps", "6", "--json"),
        *("--output", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["exact"], answer["num_steps"]) == (True, 6)


@pytest.mark.slow
def test_ranks_that_are_started_again_go_on_to_the_same_end(runs: Runs) -> None:
    calm = runs.train("retinanet", *TWO_NPUS)
    hurt = runs.train("retinanet", *TWO_NPUS, "--restarts", "1", SUITE_FAULT="kill9@rank1:step4")
    (resumed,) = [line for line in read_lines(hurt) if line.get("event") == "resumed"]
    assert resumed["step"] in (2, 3)  # the third step may not have been saved yet
    assert losses_of(hurt) == losses_of(calm)
    assert_close(state_of(hurt)["weights"], state_of(calm)["weights"])


# Using the checkpoint


@pytest.fixture(scope="module")
def checkpoint(runs: Runs) -> Path:
    """A checkpoint that an NPU trained."""
    return list_checkpoints(runs.train("ssd", *NPU) / "checkpoints")[-1]


@pytest.mark.parametrize(
    "devices",
    ["1", pytest.param("2", marks=pytest.mark.slow)],
)
def test_an_evaluation_finds_what_it_finds_on_the_cpu(
    checkpoint: Path, runs: Runs, run_suite: Callable[..., Any], tmp_path: Path, devices: str
) -> None:
    words = ("eval", checkpoint, "--output")
    on_npu = runs.suite(*words, tmp_path / "npu", *NPU, "--devices", devices)
    assert on_npu.returncode == 0, on_npu.stderr
    on_cpu = run_suite(*words, tmp_path / "cpu", "--device", "cpu")
    assert on_cpu.code == 0, on_cpu.stderr
    folders = [tmp_path / kind / f"eval-{checkpoint.stem}-1" for kind in ("npu", "cpu")]
    npu, cpu = (load_record(folder / "record.json") for folder in folders)
    assert npu["metrics"] == pytest.approx(cpu["metrics"], abs=1e-6)
    assert_same_detections(*folders)
    conditions = npu["conditions"]
    assert (conditions["simulated"], conditions["devices"]) == (True, int(devices))
    assert "unverified on Ascend hardware" in conditions["verification"]


def assert_same_detections(ours: Path, theirs: Path) -> None:
    """The detections of two evaluations are the same to 3 digits, image by image."""
    found = []
    for folder in (ours, theirs):
        results = json.loads((folder / "eval" / "coco_instances_results.json").read_text())
        found.append(sorted(results, key=lambda result: result["image_id"]))
    assert len(found[0]) == len(found[1]) > 100
    for first, second in zip(*found, strict=True):
        for key in ("image_id", "category_id"):
            assert first[key] == second[key]
        assert first["score"] == pytest.approx(second["score"], rel=1e-3)
        assert first["bbox"] == pytest.approx(second["bbox"], abs=0.01)


def test_prediction_uses_it_on_the_cpu(
    checkpoint: Path, runs: Runs, run_suite: Callable[..., Any], tmp_path: Path
) -> None:
    photos = runs.recipe("ssd").parent / "data" / "val"
    done = run_suite("predict", checkpoint, photos, "--device", "cpu", "--output", tmp_path)
    assert done.code == 0, done.stderr
    assert "detections on 4 images" in done.stdout


@pytest.mark.slow
def test_export_proves_that_the_graph_computes_the_same(
    checkpoint: Path, run_suite: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_suite(
        *("export", checkpoint, "--output", tmp_path / "x.onnx", "--records", tmp_path / "records")
    )
    assert done.code == 0, done.stderr
    assert "no stage differs" in done.stdout
