"""Signs of life: a rank gives them, whoever started it watches.

They stand in a small file of each rank, mapped into memory, so that giving one costs no call into
the system. A thread beats as long as the process runs at all; the rank itself marks what it has
done. A process that is stopped (SIGSTOP, a debugger, a frozen container) no longer beats; one that
waits for ever beats, and marks nothing.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from suite.parent import die_with_parent

BEAT_S: Final = 0.25
LEAVING: Final = -1  # instead of a count of beats
_PULSE: Final = struct.Struct("<qqqqqq")
_FILE: Final = "heartbeat"
_STACKS: Final = "stacks.txt"
# torch elastic's name for the file in which a rank says why it failed; it has a folder for each.
ERROR_FILE: Final = "TORCHELASTIC_ERROR_FILE"
# Set for ranks that the suite started itself, to the process that did: it keeps their output, tells
# their errors, and they end with it.
LAUNCHED: Final = "SUITE_LAUNCHED"
STACKS_SIGNAL: Final = getattr(signal, "SIGUSR2", None)


@dataclass(frozen=True)
class Pulse:
    """What a rank's file says.

    Attributes:
        pid: its process.
        beats: grows as long as the process runs; `LEAVING` once it is about to end.
        marks: grows as long as it goes on.
        step: optimizer steps done.
        waits: 1 where it has done its part and waits for other ranks, else 0.
        takes_its_time: 1 where nobody knows how long what it does takes, else 0.
    """

    pid: int
    beats: int
    marks: int
    step: int
    waits: int
    takes_its_time: int


class Heart:
    """The signs of life of this process; see `beating`."""

    def __init__(self, memory: mmap.mmap | None) -> None:
        self.step = 0
        self._memory = memory
        self._beats = 0
        self._marks = 0
        self._waits = 0
        self._takes_its_time = 0

    @staticmethod
    @contextmanager
    def beating() -> Iterator[Heart]:
        """Yield this process's heart, and let it beat meanwhile, where a launcher watches.

        The process then ends with its launcher, and writes the stacks of all threads when asked by
        `STACKS_SIGNAL`.
        """
        error_file = os.environ.get(ERROR_FILE)
        if not error_file:
            yield Heart(None)
            return
        folder = Path(error_file).parent
        launcher = os.getppid()
        die_with_parent()
        with _mapped(folder / _FILE) as memory, (folder / _STACKS).open("w") as stacks:
            if STACKS_SIGNAL is not None:
                faulthandler.register(STACKS_SIGNAL, file=stacks)
            heart = Heart(memory)
            stop = threading.Event()
            beat = threading.Thread(target=heart._beat, args=(stop, launcher), daemon=True)
            beat.start()
            try:
                yield heart
            finally:
                stop.set()
                beat.join()
                heart._leave()
                if STACKS_SIGNAL is not None:
                    faulthandler.unregister(STACKS_SIGNAL)

    def mark(self, step: int) -> None:
        """Note that this rank goes on, and how many steps it has done."""
        self.step = step
        self._marks += 1
        self.wait(False)

    def wait(self, waits: bool) -> None:
        """Note whether this rank waits for others: where all stand still, the rest is to blame."""
        self._waits = int(waits)
        self._write()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Note that what is inside waits for other ranks."""
        self.wait(True)
        try:
            yield
        finally:
            self.wait(False)

    @contextmanager
    def taking_its_time(self) -> Iterator[None]:
        """Let each beat count as going on: nobody knows how long what is inside takes."""
        before, self._takes_its_time = self._takes_its_time, 1
        self._write()
        try:
            yield
        finally:
            self._takes_its_time = before
            self._write()

    def _beat(self, stop: threading.Event, launcher: int) -> None:
        while not stop.wait(BEAT_S):
            if os.getppid() != launcher:  # where the kernel does not tell
                os.kill(os.getpid(), signal.SIGKILL)
            self._beats += 1
            self._write()

    def _leave(self) -> None:
        self._beats = LEAVING
        self._write()

    def _write(self) -> None:
        if self._memory is not None:
            marked = self._marks, self.step, self._waits, self._takes_its_time
            _PULSE.pack_into(self._memory, 0, os.getpid(), self._beats, *marked)


def follow_launcher() -> None:
    """Let this process end with the launcher that started it, at once if that is gone already."""
    launcher = os.environ.get(LAUNCHED)
    if launcher is not None:
        die_with_parent()
        if os.getppid() != int(launcher):
            os.kill(os.getpid(), signal.SIGKILL)


def read_pulse(folder: Path) -> Pulse | None:
    """Return what the rank of a folder says; None where it does not yet."""
    try:
        content = (folder / _FILE).read_bytes()
    except FileNotFoundError:
        return None
    pulse = Pulse(*_PULSE.unpack(content)) if len(content) == _PULSE.size else None
    return pulse if pulse is not None and pulse.pid else None


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    path.write_bytes(bytes(_PULSE.size))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), _PULSE.size) as memory:
        yield memory
