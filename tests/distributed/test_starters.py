"""However two ranks are started, they train the same, and only one of them speaks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.checkpoint import list_checkpoints, load_checkpoint
from suite.records import load_record
from tests.once import build_once
from tests.ports import find_port

Train = Callable[[str], Path]
_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@pytest.fixture(scope="module")
def train(flags: Any, start: Any, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train on two devices, started in one of several ways, once each.

    In the last one this machine plays two, with an agent each.
    """

    def run(way: str, output: Path) -> None:
        words = ["train", *flags(), "--devices", "2", "--output", str(output)]
        match way:
            case "suite":
                started = [start(*words)]
            case "torchrun":
                started = [start(*words, by=(*_TORCHRUN, "2", "-m", "suite"))]
            case "slurm":
                port = str(find_port())
                started = [start(*words, MASTER_PORT=port, **slurm_task(r)) for r in range(2)]
            case "launch":
                machines = ["--nnodes", "2", "--master", f"127.0.0.1:{find_port()}"]
                machines += ["--run-id", "x", "--node-rank"]
                started = [start("launch", *machines, str(n), *words[1:]) for n in range(2)]
        done = [process.finish() for process in started]
        assert [one.code for one in done] == [0] * len(done), done
        (output / "stdout").write_text("".join(one.stdout for one in done))
        (output / "stderr").write_text("".join(one.stderr for one in done))

    def train(way: str) -> Path:
        output = build_once(tmp_path_factory, f"train-{way}", partial(run, way))
        return output / "demo-1"

    return train


def slurm_task(rank: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "41",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "train",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
    }


def read_losses(run: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    keys = ("step", "loss", "classification", "box", "lr")
    return [tuple(line[key] for key in keys) for line in lines if "loss" in line]


@pytest.mark.parametrize("way", ["torchrun", "slurm", "launch"])
def test_all_ways_to_start_train_the_same(train: Train, way: str) -> None:
    first, second = train("suite"), train(way)
    assert read_losses(first) == read_losses(second)
    states = [load_checkpoint(list_checkpoints(run / "checkpoints")[-1]) for run in (first, second)]
    assert states[0]["step"] == states[1]["step"] == 4
    for name, tensor in states[0]["weights"].items():
        assert torch.equal(tensor, states[1]["weights"][name]), name
    results = "eval/coco_instances_results.json"
    assert json.loads((first / results).read_text()) == json.loads((second / results).read_text())


@pytest.mark.parametrize("way", ["suite", "torchrun", "slurm", "launch"])
def test_only_one_rank_speaks(train: Train, way: str) -> None:
    run = train(way)
    assert (run.parent / "stdout").read_text() == f"{run}\n"
    lines = (run.parent / "stderr").read_text().splitlines()
    notes = [line for line in lines if line.startswith("devices 1 -> 2")]
    assert len(notes) == (2 if way == "launch" else 1)  # a command on each machine has its own
    lines = [line for line in lines if line not in notes]
    assert len(lines) == len(set(lines)), lines
    assert sum(line.startswith("train 4/4") for line in lines) == 1


@pytest.mark.slow
def test_two_ranks_judge_a_checkpoint_as_one_does(
    train: Train, start: Any, run_suite: Any, tmp_path: Path
) -> None:
    checkpoint = list_checkpoints(train("suite") / "checkpoints")[-1]
    words = ["eval", str(checkpoint), "--device", "cpu", "--json", "--output", str(tmp_path)]
    together = start(*words, "--devices", "2").finish()
    assert together.code == 0, together
    found = [json.loads(text) for text in (together.stdout, run_suite(*words).stdout)]
    folders = [Path(figures.pop("folder")) for figures in found]
    assert found[0] == found[1]
    results = [
        json.loads((folder / "eval" / "coco_instances_results.json").read_text())
        for folder in folders
    ]
    assert len(results[0]) > 10
    assert sorted(map(repr, results[0])) == sorted(map(repr, results[1]))
    devices = [load_record(folder / "record.json")["conditions"]["devices"] for folder in folders]
    assert devices == [2, 1]


def test_each_machine_has_logs_of_its_own(train: Train) -> None:
    run = train("launch")
    nodes = sorted((run.parent / "launches").iterdir())
    assert [node.name[: len("x-node0-")] for node in nodes] == ["x-node0-", "x-node1-"]
    for node in nodes:
        (rank,) = node.glob("*/attempt_0/*/")
        assert rank.name == "0"
        assert not (rank / "error.json").exists()


def test_the_record_counts_all_devices(train: Train) -> None:
    run = train("suite")
    record = load_record(run / "record.json")
    assert record["conditions"]["devices"] == 2
    assert record["conditions"]["scope"] == "global"
    assert record["conditions"]["global_batch"] == 4
    metrics = record["metrics"]
    # Three of the four steps are counted.
    assert metrics["images_per_second"] == pytest.approx(3 * 4 / metrics["train_seconds"])
    assert any("devices 1 -> 2" in note for note in record["notes"])
