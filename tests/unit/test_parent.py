"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from suite.launch.heartbeat import LAUNCHED


def test_a_rank_whose_launcher_is_gone_does_not_start() -> None:
    """It was killed while this process was being started."""
    command = [sys.executable, "-m", "suite", "--version"]
    gone = subprocess.run(command, env=os.environ | {LAUNCHED: "1"}, check=False)
    assert gone.returncode == -signal.SIGKILL
    there = subprocess.run(command, env=os.environ | {LAUNCHED: str(os.getpid())}, check=False)
    assert there.returncode == 0
