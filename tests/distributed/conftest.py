"""Small runs of several ranks on this machine's CPU, started as people start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from suite.data.synthetic import write_synthetic
from tests import small_runs
from tests.ports import find_port

# 16 images, 4 a step, 1 epoch: 4 steps, a checkpoint after every second one.
SMALL = {
    **small_runs.SMALL,
    "global_batch": "4",
    "schedule.base_batch": "4",
    "schedule.epochs": "1",
    "schedule.decay_epochs": "1",
    "schedule.warmup_epochs": "0.25",
    "launch.join_timeout_s": "60",
    "launch.step_timeout_s": "60",
}
RETINANET = {**small_runs.RETINANET, "schedule.milestones": "[0.5, 0.75]"}
_LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "SLURM_", "PET_", "OMPI_")


@dataclass(frozen=True)
class Finished:
    """A finished command."""

    code: int
    stdout: str
    stderr: str


class Running:
    """A command that was started."""

    def __init__(self, words: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def finish(self) -> Finished:
        stdout, stderr = self._process.communicate(timeout=240)
        return Finished(self._process.returncode, stdout, stderr)


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of six kinds of shape."""
    folder = tmp_path_factory.mktemp("distributed") / "data"
    write_synthetic(folder, num_train=16, num_val=5, seed=3)
    return folder


@pytest.fixture(scope="session")
def overrides(data: Path) -> Callable[..., dict[str, str]]:
    """What makes the demo recipe a small one; keys are given with `__` for a dot."""

    def build(*, data: Path = data, retinanet: bool = False, **changes: str) -> dict[str, str]:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        return {**SMALL, **(RETINANET if retinanet else {}), "data.root": str(data), **dotted}

    return build


@pytest.fixture(scope="session")
def flags(overrides: Callable[..., dict[str, str]]) -> Callable[..., list[str]]:
    """The same as a recipe and flags."""

    def build(**changes: Any) -> list[str]:
        values = overrides(**changes)
        return [
            "demo",
            *(word for key, value in values.items() for word in ("--set", f"{key}={value}")),
        ]

    return build


@pytest.fixture(scope="session")
def start() -> Start:
    """Start `python -m suite`, or another command, in an environment that no launcher has set."""

    def run(*words: str | Path, by: Sequence[str | Path] = (), **variables: str) -> Running:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_LAUNCHER_VARIABLES)
        }
        # One thread each, so that all ways to start compute alike.
        environment |= {"OMP_NUM_THREADS": "1", **variables}
        return Running([*(by or (sys.executable, "-m", "suite")), *words], environment)

    return run


@pytest.fixture(scope="session")
def start_by_hand(start: Start) -> Callable[..., list[Running]]:
    """Start every rank of a run with the variables that people set by hand."""

    def run(*words: str | Path, num_ranks: int = 2, **named: Any) -> list[Running]:
        port = find_port()
        return [
            start(
                *words,
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(num_ranks),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                **named,
            )
            for rank in range(num_ranks)
        ]

    return run
