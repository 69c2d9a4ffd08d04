"""Timing of graphs in turns, and which of them cannot be told apart."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite.deploy import timing
from suite.deploy.timing import Timing, find_fastest, time_graphs


def test_graphs_take_turns_and_one_is_open_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    alive: list[weakref.ref[Any]] = []
    calls: list[str] = []

    def open_graph(content: bytes, *, source: str) -> Any:
        gc.collect()
        assert not any(reference() for reference in alive)
        opened.append(content.decode())

        def run(names: Any, feed: Any) -> None:
            calls.append(content.decode())

        alive.append(weakref.ref(run))
        return run

    monkeypatch.setattr(timing, "open_graph", open_graph)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    timings = time_graphs(paths, {"images": np.zeros(1)})
    assert opened == list("abc") * timing.ROUNDS
    assert calls == [name for name in opened for _ in range(timing.WARMUP + timing.RUNS)]
    assert [len(found.rounds_ms) for found in timings] == [timing.ROUNDS] * 3


def test_a_round_is_the_median_of_what_comes_after_the_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter([9, 9, 1, 2, 3, 50] * timing.ROUNDS)  # seconds
    now = [0.0]

    def run(names: Any, feed: Any) -> None:
        now[0] += next(took)

    monkeypatch.setattr(timing, "open_graph", lambda content, source: run)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    (tmp_path / "a").touch()
    (found,) = time_graphs([tmp_path / "a"], {})
    assert found == Timing((2500.0,) * timing.ROUNDS)
    assert found.latency_ms == 2500


def test_slower_is_what_is_slower_in_every_round() -> None:
    fast = Timing((1.0, 2.0, 3.0, 4.0, 5.0))
    slower = Timing((1.1, 2.1, 3.1, 4.1, 5.1))
    alike = Timing((9.0, 9.0, 2.9, 9.0, 9.0))
    assert find_fastest([slower, fast, alike]) == [1, 2]
    assert find_fastest([slower]) == [0]
