"""Ranks that are started again after one was killed: they meet anew and go on from what was saved.

What the ranks of an attempt leave at the store must not be found by those of the next one, which
would try to reach the dead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import TORCHRUN, Run, end_of, read_lines

Start = Callable[..., Run]


@pytest.mark.parametrize("launcher", ["suite", "torchrun"])
def test_ranks_that_are_started_again_go_on_to_the_same_end(
    launcher: str, start: Start, chance: random.Random, calm_end: dict[str, Any], tmp_path: Path
) -> None:
    assert_goes_on(start, launcher, chance, output=tmp_path / "runs", calm_end=calm_end)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launcher", ["suite", "torchrun"])
def test_they_do_so_every_time(
    launcher: str, start: Start, chance: random.Random, calm_end: dict[str, Any], tmp_path: Path
) -> None:
    for number in range(10):
        assert_goes_on(start, launcher, chance, output=tmp_path / str(number), calm_end=calm_end)


def assert_goes_on(
    start: Start, launcher: str, chance: random.Random, *, output: Path, calm_end: dict[str, Any]
) -> None:
    step = chance.randrange(3, 9)
    how: dict[str, Any] = {"output": output, "fault": f"kill9@rank1:step{step}"}
    if launcher == "suite":
        run = start("--restarts", 1, **how)
    else:
        run = start(command=[*TORCHRUN, "--max-restarts", "1", "-m", "suite"], **how)
    ended = run.end()
    assert ended.code == 0, ended.stderr
    (resumed,) = [line for line in read_lines(run.folder) if line.get("event") == "resumed"]
    assert resumed == {"event": "resumed", "step": (step - 1) // 2 * 2}
    assert end_of(run.folder) == calm_end
    assert run.family() == {}
