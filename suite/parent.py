"""What a process and those it starts have in common: which signals ask them to stop, and their end.

Some processes have to end when the one that started them does, however that ended.
"""

from __future__ import annotations

import ctypes
import signal
import sys

# SIGHUP: the terminal is gone. SIGUSR1 is how schedulers warn of the end.
STOP_SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent is gone; without effect but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
