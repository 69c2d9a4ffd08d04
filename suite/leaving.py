"""How this process ends.

Python takes itself apart at its end: it waits for child processes, and threads that still want to
run Python end there and then. Neither suits every process. Nor does it look at a signal before the
library it has called returns, which may be in an hour.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

TERMINATED: Final = 128 + signal.SIGTERM
_CHILDREN_END_S: Final = 5.0
_TERMINATE_S: Final = 10.0
_stays_whole = False


class Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the process as an exception does: temporary files go on the way out.

    Where that takes more than ten seconds, because a library does not return, the process ends
    all the same. A handler that is set inside, as training does, which saves first, takes its time.
    """
    before = signal.signal(signal.SIGTERM, _raise)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fd_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_what_is_stuck, args=(reading,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        os.close(writing)
        signal.signal(signal.SIGTERM, before)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _end_what_is_stuck(reading: int) -> None:
    """Wait for SIGTERM, whose number Python's C handler writes at once, then for the end."""
    deadline: float | None = None
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            _end_now(TERMINATED)
        if not select.select([reading], [], [], left)[0]:
            continue
        numbers = os.read(reading, 64)
        if not numbers:
            os.close(reading)
            return
        ours = signal.SIGTERM in numbers and signal.getsignal(signal.SIGTERM) is _raise
        if ours and deadline is None:
            deadline = time.monotonic() + _TERMINATE_S


def stay_whole() -> None:
    """Leave without taking Python apart, from now on.

    For a process in which threads of a library outlive the calls that made them: gloo's let go of
    the last tensors some time after the call that used them has returned, autograd's of a device
    may be in the midst of a step. They need Python for that, and abort where it is gone.
    """
    global _stays_whole
    _stays_whole = True


def leave(exit_code: int) -> NoReturn:
    """End this process.

    A child process that does not end within some seconds is left behind, as Python would wait for
    it: so it is with a killed loader in the kernel, at a disk that does not answer.
    """
    ended = _children_end()
    if ended and not _stays_whole:
        sys.exit(exit_code)
    if ended:
        atexit._run_exitfuncs()  # what libraries have to do, such as closing a device
    _end_now(exit_code)


def _end_now(exit_code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # no room, no reader, or closed
            stream.flush()
    os._exit(exit_code)


def _children_end() -> bool:
    deadline = time.monotonic() + _CHILDREN_END_S
    while multiprocessing.active_children():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
