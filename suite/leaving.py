"""How this process ends.

Python takes itself apart at its end: it waits for child processes, and threads that still want to
run Python end there and then. Neither suits every process.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import time
from typing import Final, NoReturn

_CHILDREN_END_S: Final = 5.0
_stays_whole = False


def stay_whole() -> None:
    """Leave without taking Python apart, from now on.

    For a process in which gloo works: its threads let go of the last tensors some time after the
    call that used them has returned. They need Python for that, and abort where it is gone.
    """
    global _stays_whole
    _stays_whole = True


def leave(exit_code: int) -> NoReturn:
    """End this process.

    At once where a killed loader process does not end, as Python would wait for it: so it is in
    the kernel, at a disk that does not answer.
    """
    ended = _children_end()
    if ended and not _stays_whole:
        sys.exit(exit_code)
    if ended:
        atexit._run_exitfuncs()  # what libraries have to do, such as closing a device
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _children_end() -> bool:
    deadline = time.monotonic() + _CHILDREN_END_S
    while multiprocessing.active_children():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
