"""Loader processes of one of several ranks that die, hang, or find no shared memory."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import LONG, TORCHRUN, Run, loader_processes

Start = Callable[..., Run]
Mounting = Callable[[str], list[str]]
HOST = socket.gethostname()


@pytest.mark.slow
def test_a_killed_loader_process_ends_the_run_in_one_sentence(start: Start) -> None:
    run = start(changes=LONG | {"data.workers": 1})
    run.wait_for_step(1)
    victim, rank = loader_processes(run).popitem()
    os.kill(victim, signal.SIGKILL)
    ended = run.end()
    assert ended.code == 1
    assert re.match(
        rf"suite: rank {rank} on \S+, after step \d+: a loader process failed \(.*{victim}.* "
        r"exited unexpectedly\); most often memory or /dev/shm is full: .* --set data\.workers=0$",
        ended.told[0],
    ), ended.stderr
    assert "Traceback" not in ended.stderr
    assert run.family() == {}


@pytest.mark.slow
def test_an_image_that_hangs_ends_the_run_with_its_name(start: Start, small: Path) -> None:
    hanging = [*TORCHRUN, str(Path(__file__).with_name("hanging.py"))]
    run = start(changes={"data.workers": 1, "data.timeout_s": 4}, command=hanging)
    ended = run.end()
    assert ended.code == 1
    name = rf"{small.parent}/data/train/\d*3\.jpg"
    words = rf"suite: the loader processes have not moved for 4 s, they hang at {name}"
    assert re.search(words, ended.stderr)
    assert run.family() == {}


@pytest.mark.slow
def test_a_frozen_loader_process_holds_up_its_rank_alone_until_the_launcher_sees_it(
    start: Start,
) -> None:
    """What it had ready cannot be fetched, and torch waits for it without a limit."""
    run = start(changes=LONG | {"data.workers": 1, "launch.step_timeout_s": 20})
    run.wait_for_step(1)
    victim, rank = loader_processes(run).popitem()
    os.kill(victim, signal.SIGSTOP)
    ended = run.end()
    assert ended.code == 6, ended.stderr
    assert ended.told[0].startswith(
        f"suite: rank {rank} on {HOST} has not gone on for 18 s at step"
    )
    assert run.family() == {}


def test_too_little_shared_memory_is_named(start: Start, mounting: Mounting) -> None:
    small = mounting("mount -t tmpfs -o size=64k none /dev/shm")
    run = start(changes={"data.workers": 1}, command=small)
    ended = run.end()
    assert ended.code == 1, ended.stderr
    assert "/dev/shm is full" in ended.told[0], ended.stderr
    assert run.family() == {}
