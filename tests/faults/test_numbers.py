"""Losses that are not finite or jump, and a device without memory for a step."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from suite.checkpoint import list_checkpoints, load_checkpoint
from tests.faults.runs import Run, losses_by_step

Start = Callable[..., Run]
TrainAlone = Callable[..., Any]
LONGER = {"schedule.epochs": 8, "schedule.decay_epochs": 8}  # 32 steps


def test_steps_that_are_not_finite_on_one_rank_change_nothing_on_any(start: Start) -> None:
    run = start(fault="nan@rank1:step3,inf@rank1:step4,term@rank0:step3")
    ended = run.end()
    assert ended.code == 143, ended.stderr
    assert "stopped by SIGTERM after step 4" in ended.told[0]
    assert re.findall(r"^step (\d): skipped 1", ended.stderr, re.MULTILINE) == ["3", "4"]
    checkpoints = run.folder / "checkpoints"
    before, after = map(load_checkpoint, list_checkpoints(checkpoints))
    assert (before["step"], after["step"]) == (2, 4)
    assert_equal(trained(before), trained(after))
    assert sorted(losses_by_step(run.folder)) == [1, 2]


def trained(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return weights, statistics and momenta; not how many batches batch norm has seen."""
    momenta = {str(key): m["momentum_buffer"] for key, m in state["optimizer"]["state"].items()}
    return momenta | {k: v for k, v in state["weights"].items() if v.is_floating_point()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_a_few_such_steps_do_not_end_a_run(train_alone: TrainAlone, tmp_path: Path) -> None:
    done = train_alone(fault="nan@rank0:step3-5")
    assert done.code == 0, done.stderr
    run = tmp_path / "runs" / "small-1"
    assert sorted(losses_by_step(run)) == [1, 2, 6, 7, 8]
    load_checkpoint(list_checkpoints(run / "checkpoints")[-1])  # refuses what is not finite


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan@rank0:step6-30", "11 steps in a row had gradients that are not finite at step 16"),
        ("spike@rank0:step9", "the loss has jumped to "),
    ],
)
def test_a_run_that_has_gone_wrong_ends_and_keeps_what_is_good(
    fault: str, words: str, train_alone: TrainAlone, tmp_path: Path
) -> None:
    done = train_alone(changes=LONGER, fault=fault)
    assert done.code == 5
    assert f"suite: {words}" in done.stderr.splitlines()[-1]
    run = tmp_path / "runs" / "small-1"
    for path in list_checkpoints(run / "checkpoints"):
        assert load_checkpoint(path)["step"] <= 8
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_device_out_of_memory_is_told_with_what_needs_less(
    train_alone: TrainAlone, tmp_path: Path
) -> None:
    done = train_alone(fault="oom@rank0:step4")
    assert done.code == 4
    words = r"suite: .+ ran out of memory with 2 images at a time, \d+\.\d GiB at the peak; "
    told = done.stderr.splitlines()[-1]
    assert re.match(words, told), told
    assert "--set global_batch=" in told
    (checkpoint,) = list_checkpoints(tmp_path / "runs" / "small-1" / "checkpoints")
    assert load_checkpoint(checkpoint)["step"] == 2
