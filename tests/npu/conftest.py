"""The environment in which a process finds the simulated NPU.

torch can give its one private backend a name once in a process and not take it back, so everything
on the simulated NPU runs in processes of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from suite.locking import alone
from tests.npu.build import build_simulation, missing_tool
from tests.npu.runs import Runs

Start = Callable[..., subprocess.Popen[str]]
Once = Callable[[str, Callable[[], Any]], Any]


@pytest.fixture(scope="session")
def npu_environment(repository: Path) -> dict[str, str]:
    """The variables of a process with a simulated NPU."""
    if reason := missing_tool():
        pytest.skip(reason)
    paths = [repository, *build_simulation()]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths),
        "OMP_NUM_THREADS": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    }


@pytest.fixture(scope="session")
def start_python(npu_environment: dict[str, str]) -> Start:
    """Start Python with these arguments where there is a simulated NPU."""

    def start(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=npu_environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def run_python(start_python: Start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python to its end where there is a simulated NPU, as `start_python`."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        process = start_python(*arguments, **variables)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Compute something once for all processes of this pytest run; it goes through JSON."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share

    def share(name: str, compute: Callable[[], Any]) -> Any:
        path = folder / f"{name}.json"
        with alone(folder / f"{name}.lock", say=print):
            if not path.exists():
                path.write_text(json.dumps(compute()))
        return json.loads(path.read_text())

    return share


@pytest.fixture(scope="session")
def observe(
    run_python: Callable[..., subprocess.CompletedProcess[str]], once: Once
) -> Callable[..., Any]:
    """Return what a program of `tests/npu/programs` prints as JSON; it runs once."""

    def load(program: str, *arguments: str, **variables: str) -> Any:
        def run() -> Any:
            finished = run_python("-m", f"tests.npu.programs.{program}", *arguments, **variables)
            assert finished.returncode == 0, finished.stderr
            return json.loads(finished.stdout)

        return once("-".join([program, *arguments, *variables]), run)

    return load


@pytest.fixture(scope="session")
def suite_on_npu(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `suite` to its end where there is a simulated NPU."""
    return partial(run_python, "-m", "suite")


@pytest.fixture(scope="session")
def runs(
    suite_on_npu: Callable[..., subprocess.CompletedProcess[str]],
    once: Once,
    tmp_path_factory: pytest.TempPathFactory,
) -> Runs:
    """Small training runs, each made once."""
    return Runs(suite_on_npu, once, tmp_path_factory)
