"""Loader processes that hang, are slow, or are suspended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from suite.data.workers import Stalled, Workers, load_batches


@dataclass(frozen=True)
class Numbers:
    """A source of its turns, some of which take long."""

    seconds: dict[int, float]

    def load(self, turn: int, starting: Callable[[int], None]) -> int:
        starting(turn)
        time.sleep(self.seconds.get(turn, 0))
        return turn

    def name_of(self, index: int) -> str:
        return f"photo-{index}.jpg"


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def turns(count: int) -> list[list[int]]:
    return [[2 * step, 2 * step + 1] for step in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hang_ends_in_an_error_that_names_the_file(workers: int) -> None:
    batches = load_batches(
        Numbers({5: 3600}),
        turns(20),
        collate=list,
        workers=Workers(num=workers, timeout_s=1.0),
    )
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    started = time.monotonic()
    with pytest.raises(Stalled, match=r"not moved for 1 s, they hang at photo-5\.jpg; look at"):
        next(batches)
    assert time.monotonic() - started < 20


def test_slow_samples_are_waited_for_as_long_as_one_of_them_moves() -> None:
    # Each takes less than the timeout, a batch of them more.
    slow = dict.fromkeys(range(8), 0.3)
    workers = Workers(num=1, timeout_s=0.5)
    batches = load_batches(Numbers(slow), [[0, 1, 2, 3, 4, 5]], collate=list, workers=workers)
    assert list(batches) == [[0, 1, 2, 3, 4, 5]]


def test_one_slow_process_is_told_from_idle_ones() -> None:
    batches = load_batches(
        Numbers({1: 3600}), [[0], [1], [2], [3]], collate=list, workers=Workers(num=2, timeout_s=1)
    )
    with pytest.raises(Stalled, match=r"hang at photo-1\.jpg; look"):
        list(batches)


def test_a_pause_of_the_whole_run_is_no_hang(tmp_path: Path) -> None:
    """Stops a process that loads, with its workers, for longer than its timeout."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 1
        try:
            source = Numbers(dict.fromkeys(range(30), 0.05))
            loaded = load_batches(
                source, turns(15), collate=list, workers=Workers(num=1, timeout_s=1.0)
            )
            with closing(loaded):
                for batch in loaded:
                    (tmp_path / str(batch[0])).touch()
            code = 0
        finally:
            os._exit(code)
    while not (tmp_path / "4").exists():
        time.sleep(0.02)
    os.killpg(child, signal.SIGSTOP)
    time.sleep(2.5)
    os.killpg(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(list(tmp_path.iterdir())) == 15


def test_without_processes_nothing_is_watched() -> None:
    source = Numbers({1: 0.3})
    batches = load_batches(source, [[0, 1]], collate=list, workers=Workers(num=0, timeout_s=0.1))
    assert list(batches) == [[0, 1]]
