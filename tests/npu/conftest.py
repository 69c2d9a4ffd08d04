"""The environment in which a process finds the simulated NPU.

torch can give its one private backend a name once in a process and not take it back, so everything
on the simulated NPU runs in processes of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.npu.build import build_simulation, missing_tool


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
def run_python(npu_environment: dict[str, str]) -> Callable[..., Any]:
    """Run code in a new process with a simulated NPU and load the JSON of its last line."""

    def run(code: str, *, variables: Mapping[str, str] | None = None) -> Any:
        finished = subprocess.run(
            [sys.executable, "-c", code],
            env=npu_environment | dict(variables or {}),
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout.splitlines()[-1])

    return run
