"""Training runs: what they leave, how they end, and that they go on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.checkpoint import (
    build_recipe_detector,
    list_checkpoints,
    load_checkpoint,
    load_detector,
)
from suite.data import load_recipe_splits
from suite.data.synthetic import write_synthetic
from suite.data.workers import Workers
from suite.device import build_device
from suite.errors import Stopped
from suite.evaluation import evaluate
from suite.recipe import Recipe, load_recipe
from suite.records import load_record
from suite.runtime import postprocess_parameters, torch_detect
from suite.sizing import build_sizing
from suite.training import train
from tests import small_runs

RunSuite = Callable[..., Any]
TrainCalmly = Callable[..., Path]

# 8 images: 8 steps. The checkpoint after step 4 lies in the midst of a log interval.
SMALL = {**small_runs.SMALL, "log_every_steps": "3"}
NUM_STEPS = 8
RETINANET = {
    **small_runs.RETINANET,
    "detector.frozen_stages": "1",
    "schedule.milestones": "[1, 1.5]",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "data"
    write_synthetic(folder, num_train=8, num_val=4, seed=3)
    return folder


def build_recipe(data: Path, **changes: str) -> Recipe:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return load_recipe("demo", {**SMALL, "data.root": str(data), **dotted})


@pytest.fixture(scope="module")
def train_calmly(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainCalmly:
    """Train without interruption, once for equal changes; nobody may write into the folder."""
    output = tmp_path_factory.mktemp("calm")

    @cache
    def run(**changes: str) -> Path:
        return train(build_recipe(data, **changes), output=output)

    return run


def flags(data: Path, **changes: str) -> list[str]:
    dotted = {**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}
    assignments = [word for key, value in dotted.items() for word in ("--set", f"{key}={value}")]
    return ["demo", "--data", str(data), *assignments]


def cut(run: Path, target: Path, *, step: int) -> Path:
    """Copy a run as it would stand had it been killed before its next checkpoint after `step`."""
    shutil.copytree(run, target)
    (target / "record.json").unlink()
    for path in list_checkpoints(target / "checkpoints"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
            Path(f"{path}.sha256").unlink()
    return target


def read_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_losses(run: Path) -> dict[int, tuple[float, ...]]:
    """The losses by step; of a step written twice the later one."""
    lines = [line for line in read_lines(run) if "loss" in line]
    keys = ("loss", "classification", "box", "lr")
    return {line["step"]: tuple(line[key] for key in keys) for line in lines}


def assert_same_end(first: Path, second: Path) -> None:
    """The last checkpoints are equal to the bit, and so are all losses."""
    ends = [load_checkpoint(list_checkpoints(run / "checkpoints")[-1]) for run in (first, second)]
    for key in ("step", "weights", "ema", "optimizer", "scaler"):
        assert_same(ends[0][key], ends[1][key], key)
    assert read_losses(first) == read_losses(second)
    results = "eval/coco_instances_results.json"
    assert (first / results).read_text() == (second / results).read_text()


def assert_same(first: Any, second: Any, where: str) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(first, Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


# What a run leaves


def test_a_run_leaves_all_that_is_needed_to_repeat_and_judge_it(
    data: Path, train_calmly: TrainCalmly
) -> None:
    run = train_calmly()
    assert run.name == "demo-1"
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    files = {re.sub(r"tfevents.*", "tfevents", name) for name in files}
    checkpoints = [f"checkpoints/step-{step:08d}.pth" for step in (4, 6, 8)]
    assert files - {"tensorboard/events.out.tfevents"} == {
        "recipe.yaml",
        "manifest.json",
        "metrics.jsonl",
        "log.txt",
        "eval/coco_instances_results.json",
        "record.json",
        *checkpoints,
        *(f"{name}.sha256" for name in checkpoints),
    }
    assert load_recipe(str(run / "recipe.yaml")) == build_recipe(data)
    assert [line.get("step") for line in read_lines(run)] == [3, 6, 8, 8]
    assert read_lines(run)[-1]["event"] == "evaluated"
    assert "Eval results: {'COCO/AP'" in (run / "log.txt").read_text()


def test_the_record_says_what_was_trained_on_what(data: Path, train_calmly: TrainCalmly) -> None:
    run = train_calmly()
    record, manifest = load_record(run / "record.json"), load_record(run / "manifest.json")
    newest = (run / "checkpoints" / "step-00000008.pth").read_bytes()
    assert record["subject"]["checkpoint_sha256"] == hashlib.sha256(newest).hexdigest()
    assert record["subject"]["dataset"] == "generated"
    assert manifest["kind"] == "manifest"
    assert manifest["metrics"] == {}
    assert manifest["subject"].items() <= record["subject"].items()
    conditions = record["conditions"]
    assert (conditions["steps"], conditions["global_batch"], conditions["epochs"]) == (8, 2, 2)
    assert (conditions["image_hw"], conditions["precision"]) == ([300, 300], "fp32")
    metrics = record["metrics"]
    assert metrics["loss"] == read_lines(run)[2]["loss"]
    assert 0 <= metrics["ap"] <= metrics["ap50"] <= 1
    # Steps 4 to 8 in the time that they took.
    assert metrics["images_per_second"] == pytest.approx(10 / metrics["train_seconds"])


def test_a_second_run_gets_its_own_folder_and_the_same_numbers(
    data: Path, train_calmly: TrainCalmly
) -> None:
    again = train(build_recipe(data), output=train_calmly().parent)
    assert again.name == "demo-2"
    assert_same_end(train_calmly(), again)


def test_evaluations_on_the_way_change_no_weight(data: Path, train_calmly: TrainCalmly) -> None:
    run = train_calmly(eval_every_epochs="0.75")
    evaluated = [line["step"] for line in read_lines(run) if line.get("event") == "evaluated"]
    assert evaluated == [3, 6, 8]
    assert_same_end(train_calmly(), run)


def test_averaged_weights_are_the_ones_evaluated(data: Path, train_calmly: TrainCalmly) -> None:
    run = train_calmly(optimizer__ema_decay="0.5")
    newest = run / "checkpoints" / "step-00000008.pth"
    states = [load_checkpoint(path) for path in list_checkpoints(run / "checkpoints")[-2:]]
    weights, averaged = states[-1]["weights"], states[-1]["ema"]
    assert any(not torch.equal(weights[key], averaged[key]) for key in weights)
    recipe = build_recipe(data, optimizer__ema_decay="0.5")
    trained, device = load_detector(newest), build_device("cpu", "fp32")
    assert torch.equal(trained.detector.state_dict()["class_heads.0.bias"],
                       averaged["class_heads.0.bias"])  # fmt: skip
    results = []
    for state in (averaged, weights):
        trained.detector.load_state_dict(state)
        detect = torch_detect(trained.detector, postprocess_parameters(recipe), device)
        _, found = evaluate(
            detect,
            load_recipe_splits(recipe)[1],
            sizing=build_sizing(recipe.resize),
            batch_size=16,
            workers=Workers(num=0),
        )
        results.append(found)
    written = json.loads((run / "eval" / "coco_instances_results.json").read_text())
    assert written == results[0]
    assert written != results[1]


def test_backbone_weights_are_where_training_begins(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "backbone.pth"
    torch.manual_seed(9)
    stored = build_recipe_detector(load_recipe("demo", SMALL)).backbone.state_dict()
    torch.save(stored, source)
    frozen = {"schedule__epochs": "0.25", "schedule__base_lr": "1e-30"}
    recipe = build_recipe(data, detector__backbone_weights=str(source), **frozen)
    run = train(recipe, output=tmp_path, evaluate_at_end=False)
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    weights = load_checkpoint(checkpoint)["weights"]
    assert torch.equal(weights["backbone.conv1.weight"], stored["conv1.weight"])
    assert "ap" not in load_record(run / "record.json")["metrics"]


# Going on after an interruption


@pytest.mark.parametrize(
    ("step", "workers", "changes"),
    [
        (4, "0", {}),  # in the midst of a log interval
        (6, "2", {}),
        (4, "1", {"precision": "bf16", "optimizer__ema_decay": "0.9"}),
        (6, "1", RETINANET),
    ],
)
def test_a_resumed_run_ends_as_a_calm_one_to_the_bit(
    data: Path,
    train_calmly: TrainCalmly,
    tmp_path: Path,
    step: int,
    workers: str,
    changes: dict[str, str],
) -> None:
    run = cut(train_calmly(**changes), tmp_path / "run", step=step)
    recipe = build_recipe(data, data__workers=workers, **changes)
    assert train(recipe, output=tmp_path, resume=run) == run
    assert_same_end(train_calmly(**changes), run)
    (resumed,) = [line for line in read_lines(run) if line.get("event") == "resumed"]
    expected = {} if workers == "0" else {"data.workers": f"data.workers 0, now {workers}"}
    assert resumed == {"event": "resumed", "step": step, **expected}
    assert load_record(run / "record.json")["metrics"]["ap"] is not None


def test_what_changes_no_number_may_change(
    data: Path, train_calmly: TrainCalmly, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    run = cut(train_calmly(), tmp_path / "run", step=4)
    recipe = build_recipe(
        moved, log_every_steps="1", checkpoint_every_epochs="2", device="auto", reference="[]"
    )
    train(recipe, output=tmp_path, resume=run)
    ends = [load_checkpoint(r / "checkpoints" / "step-00000008.pth") for r in (train_calmly(), run)]
    assert_same(ends[0]["weights"], ends[1]["weights"], "weights")
    assert sorted(read_losses(run)) == [3, 5, 6, 7, 8]


def test_a_damaged_checkpoint_is_skipped(
    data: Path, train_calmly: TrainCalmly, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cut(train_calmly(), tmp_path / "run", step=6)
    newest = run / "checkpoints" / "step-00000006.pth"
    content = bytearray(newest.read_bytes())
    content[len(content) // 3] ^= 16
    newest.write_bytes(content)
    train(build_recipe(data), output=tmp_path, resume=run)
    assert f"skipped: {newest}: damaged" in capsys.readouterr().err
    assert_same_end(train_calmly(), run)


@pytest.mark.parametrize(("step", "changes"), [(8, {}), (3, {"eval_every_epochs": "0.75"})])
def test_an_evaluation_can_be_interrupted(
    data: Path,
    train_calmly: TrainCalmly,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    changes: dict[str, str],
) -> None:
    def evaluate_and_signal(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("suite.training.outcome.evaluate", evaluate_and_signal)
        with pytest.raises(Stopped, match=rf"SIGTERM after step {step}; saved\. Go on with --resu"):
            train(build_recipe(data, **changes), output=tmp_path)
    run = tmp_path / "demo-1"
    assert not (run / "record.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(build_recipe(data, **changes), output=tmp_path, resume=run)
    assert_same_end(train_calmly(), run)
    metrics = load_record(run / "record.json")["metrics"]
    assert metrics["images_per_second"] > 0


REFUSED: dict[str, tuple[int, str, dict[str, str]]] = {
    "another recipe": (
        2,
        r"was trained by another recipe \(schedule\.base_lr 0\.002, now 0\.1; seed 0, now 1\); "
        r"pass the run's own: .*recipe\.yaml",
        {"seed": "1", "schedule__base_lr": "0.1", "data__workers": "1"},
    ),
    "longer": (2, r"schedule\.epochs 2\.0, now 3\.0", {"schedule__epochs": "3"}),
    "complete": (2, r"this run is complete, it has its record\.json", {}),
    "no run": (1, r"not a run folder", {}),
    "no checkpoint": (1, r"no sound checkpoint to resume from", {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_same_run_is_refused(
    name: str, data: Path, train_calmly: TrainCalmly, tmp_path: Path, run_suite: RunSuite
) -> None:
    code, message, changes = REFUSED[name]
    run = tmp_path / "run"
    if name == "complete":
        shutil.copytree(train_calmly(), run)
    elif name != "no run":
        cut(train_calmly(), run, step=0 if name == "no checkpoint" else 6)
    before = sorted(tmp_path.rglob("*"))
    done = run_suite("train", *flags(data, **changes), "--resume", str(run))
    assert done.code == code
    assert re.search(message, done.stderr)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_annotations_are_refused(
    data: Path, train_calmly: TrainCalmly, tmp_path: Path, run_suite: RunSuite
) -> None:
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    annotations = changed / "annotations" / "instances_train.json"
    document = json.loads(annotations.read_text())
    document["annotations"][0]["bbox"][2] -= 1
    annotations.write_text(json.dumps(document))
    run = cut(train_calmly(), tmp_path / "run", step=6)
    done = run_suite("train", *flags(changed), "--resume", str(run))
    assert done.code == 2
    assert f"the training annotations under {changed} have changed" in done.stderr


# Signals


def start(data: Path, output: Path, **changes: str) -> subprocess.Popen[str]:
    """Start a long run in a process group of its own and wait for its first line of metrics."""
    long = {"schedule__epochs": "8", "schedule__decay_epochs": "8", "log_every_steps": "1"}
    command = [sys.executable, "-m", "suite", "train", *flags(data, **long, **changes)]
    process = subprocess.Popen(
        [*command, "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    metrics = output / "demo-1" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(
    ("number", "to_group", "workers"),
    [
        (signal.SIGTERM, False, "0"),
        (signal.SIGTERM, True, "2"),
        (signal.SIGINT, True, "1"),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_from_there(
    data: Path,
    train_calmly: TrainCalmly,
    tmp_path: Path,
    number: signal.Signals,
    to_group: bool,
    workers: str,
) -> None:
    process = start(data, tmp_path, data__workers=workers)
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    run = tmp_path / "demo-1"
    last = said.splitlines()[-1]
    words = rf"suite: stopped by {number.name} after step (\d+); saved\. Go on with --resume {run}"
    stopped = re.fullmatch(words, last)
    assert stopped, last
    assert "Traceback" not in said
    assert (run / "log.txt").read_text().splitlines()[-1] == last.removeprefix("suite: ")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left of the group
    newest = list_checkpoints(run / "checkpoints")[-1]
    assert load_checkpoint(newest)["step"] == int(stopped[1]) < 32
    long = {"schedule__epochs": "8", "schedule__decay_epochs": "8", "log_every_steps": "1"}
    train(build_recipe(data, **long), output=tmp_path, resume=run)
    assert_same_end(train_calmly(**long), run)


def test_a_second_signal_acts_at_once(data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path, data__workers="2")
    workers = list_children(process)
    try:
        for worker in workers:  # the step in flight never ends
            os.kill(worker, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(1)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        process.communicate()


def list_children(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()]


def test_a_lost_loader_process_ends_in_one_sentence(data: Path, tmp_path: Path) -> None:
    process = start(data, tmp_path, data__workers="2")
    os.kill(list_children(process)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"^suite: a loader process failed .*data\.workers=0$", said, re.MULTILINE)
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# Runs that cannot go well


@pytest.mark.parametrize("log_every", ["1", "100"])
def test_a_diverging_run_keeps_its_last_good_checkpoint(
    data: Path, tmp_path: Path, run_suite: RunSuite, log_every: str
) -> None:
    # The warm-up's first step has rate 0.
    changes = {
        "schedule__base_lr": "1e30",
        "checkpoint_every_epochs": "0.25",
        "log_every_steps": log_every,
    }
    done = run_suite("train", *flags(data, **changes), "--output", str(tmp_path))
    assert done.code == 5
    last = done.stderr.splitlines()[-1]
    told = r"suite: (the loss (is|has jumped)|\d+ steps in a row|'\S+' is no longer finite)"
    assert re.match(told, last)
    assert last.endswith("or set optimizer.clip_norm")
    run = tmp_path / "demo-1"
    assert list_checkpoints(run / "checkpoints")[0].name == "step-00000001.pth"
    for path in list_checkpoints(run / "checkpoints"):
        load_checkpoint(path)  # refuses what is not finite
    assert not (run / "record.json").exists()


def test_a_wrong_number_of_classes_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    done = run_suite(
        "train", *flags(data, detector__num_classes="80"), "--output", str(tmp_path / "runs")
    )
    assert done.code == 2
    assert "num_classes 80, the annotations have 6 (ball, brick, " in done.stderr
    assert "set detector.num_classes to 6" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_named(tmp_path: Path, run_suite: RunSuite) -> None:
    done = run_suite("train", *flags(tmp_path / "absent"), "--output", str(tmp_path / "runs"))
    assert done.code == 1
    assert str(tmp_path / "absent" / "annotations" / "instances_train.json") in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_broken_image_is_named(
    data: Path, tmp_path: Path, run_suite: RunSuite, workers: str
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    for path in sorted((broken / "train").iterdir()):
        path.write_bytes(path.read_bytes()[:500])
    done = run_suite(
        "train", *flags(broken, data__workers=workers), "--output", str(tmp_path / "runs")
    )
    assert done.code == 1
    assert re.search(rf"^suite: {broken}/train/\d+\.jpg: cannot be decoded", done.stderr, re.M)
    assert "Traceback" not in done.stderr


def test_an_output_that_is_a_file_is_refused(
    data: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    (tmp_path / "runs").write_text("")
    done = run_suite("train", *flags(data), "--output", str(tmp_path / "runs"))
    assert done.code == 2
    assert f"--output {tmp_path / 'runs'}: no folder can be made there" in done.stderr
