"""A rank that dies, freezes, hangs, leaves or fails, and a launcher that is killed.

The limits are promised for a calm machine. Where the tests share two cores with others, what takes
a process a second takes it several, so the times here are counted from the fault, not from the
start, and stand at what is promised.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints, load_checkpoint
from tests.faults.runs import LONG, Run, end_of, loader_processes

Start = Callable[..., Run]
HOST = socket.gethostname()


def test_a_killed_rank_is_named_at_once_and_the_run_goes_on_to_the_same_end(
    start: Start, chance: random.Random, calm_end: dict[str, Any]
) -> None:
    victim, step = chance.randrange(2), chance.randrange(3, 9)
    run = start(fault=f"kill9@rank{victim}:step{step}")
    pid = run.wait_for_step(1)[victim].pid
    ended = run.end(since=run.wait_until_dead(pid))
    assert ended.code == 6
    assert ended.seconds < 10
    assert ended.told[0] == (
        f"suite: rank {victim} on {HOST} was killed by SIGKILL after step {step - 1} "
        f"(process {pid}); out of memory? `dmesg` tells"
    )
    assert "Traceback" not in ended.stderr and "torch" not in ended.stderr
    assert run.family() == {}
    resumed = start("--resume", run.folder)
    assert resumed.end().code == 0
    assert end_of(run.folder) == calm_end


def test_nothing_outlives_a_killed_launcher(start: Start) -> None:
    run = start(changes=LONG | {"data.workers": 1})
    run.wait_for_step(3)
    assert len(loader_processes(run)) == 2
    assert len(run.family()) == 5
    run.process.kill()
    run.wait_until_gone(within_s=5)
    assert load_checkpoint(list_checkpoints(run.folder / "checkpoints")[-1])


def test_a_stopped_rank_is_found_and_killed(start: Start) -> None:
    run = start(changes=LONG | {"launch.step_timeout_s": 30})
    pulses = run.wait_for_step(2)
    os.kill(pulses[1].pid, signal.SIGSTOP)
    ended = run.end(since=time.monotonic())
    assert ended.code == 6
    assert ended.seconds < 30
    said = re.match(
        rf"suite: rank 1 on {HOST} gave no sign of life since step (\d+)", ended.told[0]
    )
    assert said and int(said[1]) >= 2, ended.stderr
    assert run.family() == {}
    (stacks,) = run.output.glob("launches/**/0/stacks.txt")
    assert "suite/training/loop.py" in stacks.read_text()


@pytest.mark.slow
def test_a_rank_that_waits_for_ever_is_named(start: Start) -> None:
    run = start(changes={"launch.step_timeout_s": 15}, fault="hang@rank1:step4")
    ended = run.end()
    assert ended.code == 6
    words = f"suite: rank 1 on {HOST} has not gone on for 13.5 s at step 3"
    assert ended.told[0].startswith(words), ended.stderr
    assert run.family() == {}
    (stacks,) = run.output.glob("launches/**/1/stacks.txt")
    assert "faults.py" in stacks.read_text()


def test_the_first_error_is_told_and_decides_the_exit_code(start: Start) -> None:
    ended = start(fault="raise@rank1:step3").end()
    assert ended.code == 1
    assert ended.told[0] == (
        f"suite: rank 1 on {HOST}, after step 2: a fault was asked for: shard-3.tfrecord, "
        "record 17: bad sample"
    )
    assert len(ended.told) == 2, ended.told  # and where the logs are
    assert "Traceback" not in ended.stderr and "torch" not in ended.stderr


def test_a_rank_that_leaves_early_is_no_success_and_no_hang(start: Start) -> None:
    run = start(fault="exit0@rank1:step3")
    ended = run.end()
    assert ended.code == 6
    assert ended.told[0] == (
        f"suite: rank 1 on {HOST} ended with exit code 0 after step 2, without a reason"
    )
    assert run.family() == {}
