"""Going on elsewhere: with other ranks, other workers, another recipe, or beside a live run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import LONG, TORCHRUN, Run, newest_step, read_lines

Start = Callable[..., Run]
TrainAlone = Callable[..., Any]
RECORDING = str(Path(__file__).with_name("recording.py"))


@pytest.mark.slow
def test_every_image_comes_once_an_epoch_on_two_ranks_one_and_two(start: Start) -> None:
    """4 steps are an epoch; the run changes hands in the midst of the first and of the second."""
    two = start(command=[*TORCHRUN, RECORDING], fault="term@rank0:step2")
    assert two.end().code != 0  # torchrun has a code of its own
    run = two.folder
    assert newest_step(run) == 3
    alone = {"devices": 1, "data.workers": 1}
    how = {"command": [TORCHRUN[0], RECORDING], "fault": "term@rank0:step6"}
    assert start("--resume", run, changes=alone, **how).end().code == 143
    assert newest_step(run) == 6
    again = start("--resume", run, command=[*TORCHRUN, RECORDING])
    assert again.end().code == 0
    seen = [json.loads(line) for line in (run.parent / "images.jsonl").read_text().splitlines()]
    assert Counter((entry["step"], entry["rank"]) for entry in seen) == Counter(
        [*((step, rank) for step in (1, 2, 3, 7, 8) for rank in (0, 1)), (4, 0), (5, 0), (6, 0)]
    )
    for epoch in (range(1, 5), range(5, 9)):
        images = [i for entry in seen if entry["step"] in epoch for i in entry["images"]]
        assert sorted(images) == list(range(1, 9))


def test_another_recipe_is_refused_with_what_differs_and_can_be_meant(
    train_alone: TrainAlone, tmp_path: Path
) -> None:
    assert train_alone(fault="term@rank0:step4").code == 143
    run = tmp_path / "runs" / "small-1"
    rate = {"schedule.base_lr": 0.004}
    refused = train_alone("--resume", run, changes=rate | {"global_batch": 4})
    assert refused.code == 2
    told = refused.stderr.splitlines()[-1]
    assert "(schedule.base_lr 0.002, now 0.004; global_batch 2, now 4)" in told
    assert told.endswith("--allow-changed schedule.base_lr --allow-changed global_batch")
    allowed = train_alone("--resume", run, "--allow-changed", "schedule.base_lr", changes=rate)
    assert allowed.code == 0, allowed.stderr
    (resumed,) = [line for line in read_lines(run) if line.get("event") == "resumed"]
    assert resumed["schedule.base_lr"] == "schedule.base_lr 0.002, now 0.004"


def test_a_run_folder_is_nobody_elses_while_its_run_lives(
    start: Start, train_alone: TrainAlone
) -> None:
    run = start(changes=LONG | {"devices": 1})
    folder = run.wait_for_checkpoint()
    refused = train_alone("--resume", folder, changes=LONG)
    assert refused.code == 2
    assert f"{folder}: another run is in it" in refused.stderr
    assert f"process {run.process.pid}" in refused.stderr
    assert run.process.poll() is None
    run.process.kill()
    run.process.wait()
    # However it ended, its folder is free.
    step = newest_step(folder)
    resumed = train_alone("--resume", folder, changes=LONG, fault=f"term@rank0:step{step + 1}")
    assert resumed.code == 143, resumed.stderr
