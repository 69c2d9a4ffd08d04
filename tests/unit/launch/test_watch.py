"""The launcher's eye on its ranks: whom it ends, and whom it lets go on. No process is harmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from suite.launch import watch as watch_module
from suite.launch.heartbeat import LEAVING, STACKS_SIGNAL, Pulse
from suite.launch.watch import Watch, find_attempt

PATIENCE_S = 100.0
TICK_S = 0.5


@dataclass
class Rank:
    """A rank as its launcher sees it; it has begun."""

    pid: int
    beats: int = 0
    marks: int = 1
    step: int = 0
    waits: int = 0
    takes_its_time: int = 0

    def pulse(self) -> Pulse:
        return Pulse(self.pid, self.beats, self.marks, self.step, self.waits, self.takes_its_time)


@dataclass
class Scene:
    """Ranks, and what was done to them."""

    ranks: dict[Path, Rank]
    watch: Watch = field(default_factory=lambda: Watch(PATIENCE_S))
    killed: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    seen: dict[Path, Any] = field(default_factory=dict)

    def pass_time(self, seconds: float, live: Callable[[int, Rank], None]) -> None:
        """Let time pass; `live` says what a rank (number, itself) does in each tick."""
        for _ in range(round(seconds / TICK_S)):
            for number, rank in enumerate(self.ranks.values()):
                live(number, rank)
            self.watch.look(list(self.ranks), self.seen, TICK_S)


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that is no longer there."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, ended: int) -> Scene:
    """Three ranks, with numbers of no process; one that is killed is gone."""
    made = Scene({Path(f"attempt_0/{number}"): Rank(10**9 + number) for number in range(3)})

    def kill(pid: int, _number: signal.Signals) -> None:
        made.killed.append(pid)

    monkeypatch.setattr(watch_module, "read_pulse", lambda folder: made.ranks[folder].pulse())
    monkeypatch.setattr(
        watch_module, "_is_alive", lambda pid: pid >= 10**9 and pid not in made.killed
    )
    monkeypatch.setattr(os, "killpg", kill)
    monkeypatch.setattr(os, "kill", lambda pid, number: made.asked.append(number))
    monkeypatch.setattr(watch_module.time, "sleep", lambda _seconds: None)
    return made


def go_on(_number: int, rank: Rank) -> None:
    rank.beats += 1
    rank.marks += 1
    rank.step += 1


def test_ranks_that_go_on_are_left_alone(scene: Scene) -> None:
    scene.pass_time(5 * PATIENCE_S, go_on)
    assert not scene.killed
    assert not scene.watch.lost


def test_a_rank_that_no_longer_beats_is_ended(scene: Scene) -> None:
    def freeze_one(number: int, rank: Rank) -> None:
        if number != 1 or rank.step < 7:
            go_on(number, rank)

    scene.pass_time(8 * TICK_S + PATIENCE_S / 20, freeze_one)
    assert not scene.killed
    scene.pass_time(PATIENCE_S / 10, freeze_one)
    assert len(scene.killed) == 1
    assert scene.asked == [STACKS_SIGNAL] * 3  # all tell where they are
    assert list(scene.watch.lost) == [Path("attempt_0/1")]
    reason = scene.watch.lost[Path("attempt_0/1")]
    assert reason == "gave no sign of life since step 7: stopped or frozen"
    scene.pass_time(PATIENCE_S / 2, freeze_one)
    assert scene.killed.count(10**9 + 1) == 1  # once is enough


def test_a_rank_that_is_about_to_end_may_take_its_time(scene: Scene) -> None:
    for rank in scene.ranks.values():
        rank.beats = LEAVING
    scene.pass_time(PATIENCE_S * 0.8, lambda _number, _rank: None)
    assert not scene.killed


def test_who_is_behind_has_stopped_the_others(scene: Scene) -> None:
    """All beat and none goes on: the one with fewer steps waits for something else than ranks."""

    def hang_one(number: int, rank: Rank) -> None:
        rank.beats += 1
        if rank.step < (7 if number == 2 else 8):
            go_on(number, rank)

    scene.pass_time(PATIENCE_S * 0.8, hang_one)
    assert not scene.killed
    scene.pass_time(PATIENCE_S * 0.3, hang_one)
    # The others go after it, and not because they would not have gone on.
    assert list(scene.watch.lost) == [Path("attempt_0/2")]
    assert scene.watch.lost[Path("attempt_0/2")].endswith("at step 7")
    assert scene.killed[:3] == [10**9 + 2, 10**9, 10**9 + 1]


def test_of_ranks_at_one_step_those_that_do_not_wait_for_others_are_to_blame(
    scene: Scene,
) -> None:
    for number, rank in enumerate(scene.ranks.values()):
        rank.waits = int(number != 0)

    def only_beat(_number: int, rank: Rank) -> None:
        rank.beats += 1

    scene.pass_time(PATIENCE_S * 1.1, only_beat)
    assert list(scene.watch.lost) == [Path("attempt_0/0")]


def test_one_that_still_goes_on_lets_the_others_wait(scene: Scene) -> None:
    """Such as the main rank of a machine that fills a cache."""

    def one_works(number: int, rank: Rank) -> None:
        rank.beats += 1
        if number == 0:
            rank.marks += 1

    scene.pass_time(3 * PATIENCE_S, one_works)
    assert not scene.killed


def test_who_waits_for_one_that_has_gone_is_ended(scene: Scene, ended: int) -> None:
    def one_is_gone(number: int, rank: Rank) -> None:
        rank.beats += 1
        if number == 1:
            rank.pid = ended

    scene.pass_time(4, one_is_gone)
    assert not scene.killed  # they may find out by themselves
    scene.pass_time(2, one_is_gone)
    assert set(scene.killed) == {10**9, 10**9 + 2}
    assert not scene.watch.lost  # the cause is the one that has gone


def test_ranks_that_still_load_are_given_time(scene: Scene) -> None:
    """Reading annotations marks nothing, and may let no other thread run for a while."""
    for rank in scene.ranks.values():
        rank.marks = 0

    def load(number: int, rank: Rank) -> None:
        rank.beats += number != 1

    scene.pass_time(PATIENCE_S * 0.95, load)
    assert not scene.killed

    def only_beat(_number: int, rank: Rank) -> None:
        rank.beats += 1

    scene.pass_time(3 * PATIENCE_S, only_beat)
    assert not scene.killed


def test_a_rank_that_needs_longer_to_end_than_another_is_left_alone(
    scene: Scene, ended: int
) -> None:
    def end(number: int, rank: Rank) -> None:
        rank.beats = LEAVING
        if number == 1:
            rank.pid = ended

    scene.pass_time(PATIENCE_S * 0.5, end)
    assert not scene.killed


def test_ranks_that_have_not_begun_are_not_looked_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "read_pulse", lambda _folder: None)
    scene.pass_time(5 * PATIENCE_S, go_on)
    assert not scene.killed


def test_a_process_that_has_ended_is_not_alive(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    monkeypatch.undo()  # look at real processes
    monkeypatch.setattr(watch_module, "read_pulse", lambda folder: scene.ranks[folder].pulse())
    monkeypatch.setattr(os, "killpg", lambda pid, _number: scene.killed.append(pid))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for rank, pid in zip(scene.ranks.values(), (child.pid, ended, os.getpid()), strict=True):
        rank.pid = pid
    scene.pass_time(6, go_on)
    assert set(scene.killed) == {child.pid, os.getpid()}
    child.communicate()


def test_the_newest_start_is_watched(tmp_path: Path) -> None:
    assert find_attempt(tmp_path) is None
    for number in (0, 2, 10, 9):
        (tmp_path / "run-1" / f"attempt_{number}").mkdir(parents=True)
    assert find_attempt(tmp_path) == tmp_path / "run-1" / "attempt_10"


def test_a_signal_that_finds_nobody_is_no_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_pid: int, _number: signal.Signals) -> None:
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", nobody)
    monkeypatch.setattr(os, "killpg", nobody)
    scene.pass_time(PATIENCE_S / 5, lambda _number, _rank: None)
    assert len(scene.watch.lost) == 3


def test_what_takes_its_time_goes_on_as_long_as_it_beats(scene: Scene) -> None:
    def live(_number: int, rank: Rank) -> None:
        rank.beats += 1
        rank.takes_its_time = 1

    scene.pass_time(3 * PATIENCE_S, live)
    assert scene.watch.lost == {}


def test_what_has_taken_its_time_while_loading_still_loads(scene: Scene) -> None:
    """The limits of a rank that goes on do not hold before its first mark."""
    for rank in scene.ranks.values():
        rank.marks = 0

    def take_time(_number: int, rank: Rank) -> None:
        rank.beats += 1
        rank.takes_its_time = 1

    def load(_number: int, rank: Rank) -> None:
        rank.beats += 1
        rank.takes_its_time = 0

    scene.pass_time(0.5 * PATIENCE_S, take_time)
    scene.pass_time(3 * PATIENCE_S, load)
    assert scene.watch.lost == {}
