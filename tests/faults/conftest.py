"""A tiny run on two ranks, the same run undisturbed, and the seed of what disturbs it."""

from __future__ import annotations

import os
import random
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from suite.data.synthetic import write_synthetic
from suite.launch.faults import VARIABLE
from suite.locking import alone
from suite.recipe import load_recipe, write_recipe
from tests.faults.runs import SUITE, Run, end_of, start_run, train_words
from tests.small_runs import SMALL

_SMALL = {**SMALL, "name": "small", "devices": "2"}


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "faults"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def small(common: Path) -> Path:
    """The recipe of a run of 8 steps on two ranks, with its data beside it."""
    recipe = common / "small.yaml"
    with alone(common / "small.lock", say=lambda _: None):
        if not recipe.exists():
            write_synthetic(common / "data", num_train=8, num_val=2, seed=3)
            write_recipe(load_recipe("demo", _SMALL | {"data.root": str(common / "data")}), recipe)
    return recipe


@pytest.fixture(scope="session")
def calm_end(small: Path, common: Path) -> dict[str, Any]:
    """How the run ends that nothing disturbs; see `end_of`."""
    output = common / "calm"
    with alone(common / "calm.lock", say=lambda _: None):
        if not output.exists():
            run = start_run(train_words(small, [], {}), output=output)
            ended = run.end()
            run.close()
            assert ended.code == 0, ended.stderr
    return end_of(output / "small-1")


@pytest.fixture
def start(small: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start the small run in processes of its own; see `train_words` and `start_run`."""
    runs = []

    def begin(*arguments: object, changes: Mapping[str, object] = {}, **how: Any) -> Run:
        words = train_words(small, arguments, changes)
        runs.append(start_run(words, **{"output": tmp_path / "runs", **how}))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.fixture
def train_alone(
    small: Path,
    tmp_path: Path,
    run_suite: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """Train the small run on one rank in this process; return its code and what it said."""

    def train(*arguments: object, changes: Mapping[str, object] = {}, fault: str = "") -> Any:
        words = train_words(small, arguments, {"devices": 1, **changes})
        with monkeypatch.context() as patch:
            patch.setenv(VARIABLE, fault)
            return run_suite(*words, "--output", tmp_path / "runs")

    return train


@pytest.fixture
def chance() -> random.Random:
    """Random numbers for a schedule of faults; SUITE_FAULT_SEED repeats one."""
    seed = int(os.environ.get("SUITE_FAULT_SEED") or secrets.randbits(32))
    print(f"seed of the schedule of faults: SUITE_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def mounting() -> Callable[[str], list[str]]:
    """Return `suite` as a command that first mounts something nobody else sees."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets us mount nothing")
    return lambda mount: [*prefix, "sh", "-c", f'{mount} && exec "$0" "$@"', *SUITE]
