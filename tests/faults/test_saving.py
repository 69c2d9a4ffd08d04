"""Saving that is cut short: by a kill, a full disk, a file system that will not rename."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints, load_checkpoint, load_newest_checkpoint
from tests.faults.runs import LONG, Run, newest_step, read_lines

Start = Callable[..., Run]
TrainAlone = Callable[..., Any]
Mounting = Callable[[str], list[str]]
EVERY_STEP = {"checkpoint_every_epochs": 0.25}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_while_it_saves_goes_on_from_what_it_saved(
    start: Start, chance: random.Random, tmp_path: Path
) -> None:
    """30 times, each from where the last one was killed."""
    # Larger than small, so that saving takes its time.
    changes = LONG | EVERY_STEP | {"devices": 1, "detector.width": 0.5}
    folder, hits, step = tmp_path / "runs" / "small-1", 0, 0
    checkpoints = folder / "checkpoints"
    for _ in range(30):
        run = start(*(["--resume", folder] if step else []), changes=changes)
        run.wait_for(lambda at=step: newest_step(folder) > at, "a checkpoint")
        before = newest_step(folder)
        run.wait_for(lambda: hidden(checkpoints), "a save", poll_s=0)
        time.sleep(chance.uniform(0, 0.06))
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        hits += bool(hidden(checkpoints))
        step = load_newest_checkpoint(checkpoints)["step"]
        assert step >= before
    print(f"{hits} of 30 were killed with a temporary file there")
    assert hits >= 10
    last = start("--resume", folder, changes=changes, fault=f"term@rank0:step{step + 2}")
    assert last.end().code == 143
    assert newest_step(folder) == step + 2
    assert hidden(checkpoints) == []


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.mark.slow
def test_a_save_beyond_a_limit_ends_all_ranks_and_keeps_what_was_saved(start: Start) -> None:
    run = start(changes=LONG | EVERY_STEP)
    pulses = run.wait_for_step(3)
    before = newest_step(run.folder)
    resource.prlimit(pulses[0].pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
    ended = run.end()
    assert ended.code == 1
    assert re.match(
        rf"suite: rank 0 on \S+, after step \d+: {run.folder}/checkpoints/step-\d+\.pth: the "
        r"checkpoint cannot be written \(.+\); make room; a run goes on with --resume",
        ended.told[0],
    ), ended.stderr
    assert "Traceback" not in ended.stderr
    assert run.family() == {}
    assert newest_step(run.folder) >= before
    checkpoints = run.folder / "checkpoints"
    assert [load_checkpoint(path)["step"] for path in list_checkpoints(checkpoints)]
    assert hidden(checkpoints) == []


def test_a_line_that_does_not_fit_ends_the_run_and_spoils_no_other(
    start: Start, train_alone: TrainAlone
) -> None:
    changes = LONG | {"devices": 1, "checkpoint_every_epochs": 2}
    run = start(changes=changes)
    folder = run.wait_for_checkpoint()
    metrics = folder / "metrics.jsonl"
    limit = metrics.stat().st_size + 300  # in the midst of a line
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    ended = run.end()
    assert ended.code == 1
    assert re.match(rf"suite: {folder}/.+ cannot be written \(.+\); make room", ended.told[0])
    # Not: no traceback. TensorBoard's writer, which meets the limit too, shows its own.
    step = newest_step(folder)
    fault = f"term@rank0:step{step + 3}"
    assert train_alone("--resume", folder, changes=changes, fault=fault).code == 143
    assert {line["step"] for line in read_lines(folder)} >= set(range(1, step + 4))


def test_a_disk_without_room_for_files_is_told_in_one_sentence(
    start: Start, mounting: Mounting, tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    mounted = mounting(f"mount -t tmpfs -o nr_inodes=8 none {place}")
    ended = start(changes={"devices": 1}, output=place, command=mounted).end()
    assert ended.code == 1
    assert "cannot be written: No space left on device" in ended.told[0], ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_place_that_is_read_only_is_told_before_any_rank_is_started(
    start: Start, mounting: Mounting, tmp_path: Path
) -> None:
    place = tmp_path / "runs"
    mounted = mounting(f"mount -t tmpfs -o ro none {place}")
    ended = start(output=place, command=mounted).end()
    assert ended.code == 2, ended.stderr
    assert "(Read-only file system); name another" in ended.told[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ESTALE])
def test_a_file_system_that_will_not_rename_loses_nothing(
    number: int, train_alone: TrainAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def replace_but_the_third(source: Any, target: Any) -> None:
        if Path(target).name == "step-00000003.pth":
            raise OSError(number, os.strerror(number))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_but_the_third)
        done = train_alone(changes=EVERY_STEP)
    assert done.code == 1
    told = done.stderr.splitlines()[-1]
    assert f"step-00000003.pth: the checkpoint cannot be written ({os.strerror(number)})" in told
    folder = tmp_path / "runs" / "small-1"
    assert load_newest_checkpoint(folder / "checkpoints")["step"] == 2
    assert hidden(folder / "checkpoints") == []
    resumed = train_alone("--resume", folder, changes=EVERY_STEP)
    assert resumed.code == 0, resumed.stderr
    assert newest_step(folder) == 8
