"""Signals that ask a run on several ranks to stop: it saves, and says how to go on."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from suite.checkpoint import list_checkpoints, load_checkpoint
from tests.faults.runs import LONG, Ended, Run, loader_processes

Start = Callable[..., Run]


def assert_saved(run: Run, ended: Ended, number: signal.Signals) -> None:
    """All ranks stopped after the same step, which is saved, and nobody is left."""
    assert ended.code == 128 + number, ended.stderr
    words = rf"suite: stopped by {number.name} after step (\d+); saved\. Go on with --resume (.+)"
    stopped = re.fullmatch(words, ended.told[0])
    assert stopped, ended.stderr
    assert stopped[2] == str(run.folder)
    assert len(ended.told) == 1
    assert "Traceback" not in ended.stderr and "torch" not in ended.stderr
    newest = list_checkpoints(run.folder / "checkpoints")[-1]
    assert load_checkpoint(newest)["step"] == int(stopped[1])
    said = [path.read_text() for path in run.output.glob("launches/**/error.json")]
    assert len(said) == 2 and all(f"after step {stopped[1]}" in text for text in said)
    assert run.family() == {}


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """Let the runs heed SIGHUP although whoever runs the tests may not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "to_all", "ends_as"),
    [
        (signal.SIGTERM, False, signal.SIGTERM),
        pytest.param(signal.SIGUSR1, False, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, False, signal.SIGTERM, marks=pytest.mark.slow),
        (signal.SIGINT, True, signal.SIGINT),  # Ctrl-C reaches all that share the terminal
    ],
)
def test_all_ranks_stop_after_the_same_step(
    start: Start, number: signal.Signals, to_all: bool, ends_as: signal.Signals
) -> None:
    run = start(changes=LONG | {"data.workers": 1})
    run.wait_for_step(3)
    for pid in run.family() if to_all else [run.process.pid]:
        os.kill(pid, number)
    assert_saved(run, run.end(), ends_as)


@pytest.mark.slow
def test_one_rank_that_is_asked_stops_all(start: Start) -> None:
    run = start(changes=LONG, fault="term@rank1:step4")
    assert_saved(run, run.end(), signal.SIGTERM)


@pytest.mark.slow
def test_a_second_signal_acts_at_once(start: Start) -> None:
    run = start(changes=LONG | {"data.workers": 1})
    run.wait_for_step(1)
    for loader in loader_processes(run):  # the step in flight never ends
        os.kill(loader, signal.SIGSTOP)
    run.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    ended = run.end(since=time.monotonic())
    assert ended.code == 143
    assert ended.seconds < 10
    assert ended.told == ["suite: stopped by SIGTERM before the ranks could save"]
    assert "Traceback" not in ended.stderr and "torch" not in ended.stderr
    run.wait_until_gone(within_s=5)
