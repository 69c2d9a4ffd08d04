"""A long run in small: many steps, many faults, and the end that a calm run has."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from tests.faults.runs import Run, end_of, newest_step

Start = Callable[..., Run]

NUM_STEPS = 400
NUM_FAULTS = 8
KINDS = ("kill9", "term", "raise", "exit0", "stop", "hang", "launcher")
CHANGES = {
    "schedule.epochs": NUM_STEPS // 4,
    "schedule.decay_epochs": NUM_STEPS // 4,
    "checkpoint_every_epochs": 5,
    "data.workers": 1,
    "launch.step_timeout_s": 20,
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_any_faults_change_nothing_and_nothing_grows(
    start: Start, chance: random.Random, tmp_path: Path
) -> None:
    calm = start(changes=CHANGES, output=tmp_path / "calm")
    assert_nothing_grows(calm)
    assert calm.end().code == 0
    hurt, step = start_hurt(start, chance, step=0), 0
    for number in range(1, NUM_FAULTS):
        assert hurt.end().code != 0
        hurt.wait_until_gone(within_s=5)
        assert newest_step(hurt.folder) >= step
        step = newest_step(hurt.folder)
        left = NUM_FAULTS - number
        # A run that was lost before it saved anything begins anew.
        resume = hurt.folder if step else None
        hurt = start_hurt(start, chance, step=step, resume=resume, faults_left=left)
    assert hurt.end().code != 0
    assert newest_step(hurt.folder) >= max(step, 1)
    last = start("--resume", hurt.folder, changes=CHANGES)
    assert last.end().code == 0
    assert end_of(last.folder) == end_of(calm.folder)


def start_hurt(
    start: Start,
    chance: random.Random,
    *,
    step: int,
    resume: Path | None = None,
    faults_left: int = NUM_FAULTS,
) -> Run:
    """Start or resume the run, with a fault in the part that is due."""
    kind, rank = chance.choice(KINDS), chance.randrange(2)
    at = step + chance.randrange(1, 2 * (NUM_STEPS - step) // (faults_left + 1))
    print(f"from step {step}: {kind} of rank {rank} at step {at}")
    fault = "" if kind == "launcher" else f"{kind}@rank{rank}:step{at}"
    run = start(*(["--resume", resume] if resume else []), changes=CHANGES, fault=fault)
    if kind == "launcher":
        run.wait_for_step(at)
        run.process.kill()
    return run


def assert_nothing_grows(run: Run) -> None:
    """Compare open files and memory of the ranks in the second and the last quarter of a run."""
    second: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    last: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    run.wait_for_step(NUM_STEPS // 4)
    while run.process.poll() is None:
        for rank, pulse in run.ranks().items():
            if NUM_STEPS // 4 <= pulse.step < NUM_STEPS // 2:
                second[rank].append(use_of(pulse.pid))
            if 3 * NUM_STEPS // 4 <= pulse.step < NUM_STEPS:
                last[rank].append(use_of(pulse.pid))
        time.sleep(0.1)
    for rank in (0, 1):
        assert len(second[rank]) > 20 and len(last[rank]) > 20, run.stderr
        medians = [map(median, zip(*part[rank], strict=True)) for part in (second, last)]
        files, memory = zip(*medians, strict=True)
        print(f"rank {rank}: {files} open files, {memory} MiB")
        assert files[1] <= files[0] + 2
        assert memory[1] <= memory[0] + 16  # a batch that is kept at each step would be 50


def use_of(pid: int) -> tuple[int, int]:
    """Return the number of open files of a process and its resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE") // 2**20
