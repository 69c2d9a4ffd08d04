"""A terminal that goes away, a place with an odd name, a clock that jumps."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.launch.faults import VARIABLE
from suite.records import load_record
from tests.faults.runs import LONG, PATIENCE_S, SUITE, read_lines, train_words

TrainAlone = Callable[..., Any]


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_run_without_a_traceback(
    small: Path, train_alone: TrainAlone, tmp_path: Path
) -> None:
    """As `suite train ... 2>&1 | head -1`, in the C locale, in a folder with spaces and letters."""
    place = tmp_path / "läufe 目录"
    words = train_words(small, ["--output", place], LONG | {"devices": 1})
    chatty = {VARIABLE: "nan@rank0:step3-8", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*SUITE, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | chatty,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"step 3: skipped")
        process.stdout.close()
        assert process.wait(timeout=PATIENCE_S) == 1
    folder = place / "small-1"
    last = read_lines(folder)[-1]["step"]
    assert [line["step"] for line in read_lines(folder)] == list(range(1, last + 1))
    resumed = train_alone("--resume", folder, changes=LONG, fault=f"term@rank0:step{last + 1}")
    assert resumed.code == 143, resumed.stderr
    assert read_lines(folder)[-1]["step"] == last + 1


def test_durations_do_not_follow_a_clock_that_jumps(
    train_alone: TrainAlone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, jumps = time.time(), itertools.cycle([0, 86400, -86400])
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    begin = time.monotonic()
    done = train_alone()
    assert done.code == 0, done.stderr
    folder = tmp_path / "runs" / "small-1"
    seconds = [line["seconds"] for line in read_lines(folder)]
    assert seconds == sorted(seconds)
    metrics = load_record(folder / "record.json")["metrics"]
    assert 0 < metrics["train_seconds"] <= seconds[-1] <= time.monotonic() - begin
