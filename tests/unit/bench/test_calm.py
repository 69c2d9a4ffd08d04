"""A machine that was disturbed says so."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from suite.bench import calm
from suite.bench.calm import Calm, Watch


def test_what_is_disturbed_is_said_with_the_figure() -> None:
    assert Calm(others=0.02, pace_spread=1.05, pace_ms=3.0, load=0.1).notes() == []
    assert (
        Calm(others=None, pace_spread=1.05, pace_ms=3.0, load=None).as_conditions()["calm"] is True
    )
    loud = Calm(others=0.5, pace_spread=1.4, pace_ms=3.0, load=3.0)
    others, pace = loud.notes()
    assert "other processes took 50%" in others
    assert "1.40 times as long" in pace
    assert loud.as_conditions()["calm"] is False


def _burn(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="only Linux tells")
def test_a_neighbour_is_seen_and_the_own_work_is_not() -> None:
    watch = Watch()
    _burn(0.5)
    own = watch.finish().others
    neighbour = multiprocessing.get_context("spawn").Process(target=_burn, args=(60,))
    neighbour.start()
    try:
        watch = Watch()
        time.sleep(1.5)
        others = watch.finish().others
    finally:
        neighbour.kill()
        neighbour.join()
    assert own is not None
    assert others is not None
    # Other tests run beside this one; the neighbour alone takes one core.
    assert others > 0.2


def test_where_nobody_tells_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calm, "_STAT", tmp_path / "none")
    assert Watch().finish().others is None
