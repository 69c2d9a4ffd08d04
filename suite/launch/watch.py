"""The launcher's eye on the ranks of its machine: who no longer lives, and who no longer goes on.

torch elastic sees a process that has ended. It does not see one that was stopped, that waits for
ever, or that waits for a peer which has ended; their next collective would take minutes to fail.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from suite.launch.heartbeat import LEAVING, STACKS_SIGNAL, Pulse, read_pulse

_POLL_S: Final = 0.5
# Parts of the patience. One that waits for ever is told before the collectives that wait for it
# fail and the others end, after which nobody knows who waited for whom.
_STUCK_PART: Final = 0.9
_FROZEN_PART: Final = 0.1
_FROZEN_LEAST_S: Final = 5.0  # some calls into libraries let no other thread run for seconds
_STACKS_S: Final = 1.0
_SURVIVORS_S: Final = 5.0


@dataclass
class _Seen:
    pulse: Pulse
    still_s: float = 0.0
    idle_s: float = 0.0
    gone_s: float = 0.0


@dataclass
class Watch:
    """What was found.

    Attributes:
        lost: folder of a rank that was killed for it -> why, a sentence.
    """

    patience_s: float
    lost: dict[Path, str] = field(default_factory=dict)

    def look(self, folders: list[Path], seen: dict[Path, _Seen], passed_s: float) -> None:
        """Compare signs of life with those before; kill what holds up the others."""
        for folder in folders:
            pulse = read_pulse(folder)
            if pulse is None:
                continue
            known = seen.setdefault(folder, _Seen(pulse))
            beats, marks = pulse.beats != known.pulse.beats, pulse.marks != known.pulse.marks
            goes_on = marks or (beats and pulse.takes_its_time)
            known.still_s = 0.0 if beats else known.still_s + passed_s
            known.idle_s = 0.0 if goes_on else known.idle_s + passed_s
            there = _is_alive(pulse.pid) or pulse.beats == LEAVING
            known.gone_s = 0.0 if there else known.gone_s + passed_s
            known.pulse = pulse
        self._judge(seen)

    def _judge(self, seen: dict[Path, _Seen]) -> None:
        alive = {f: s for f, s in seen.items() if s.gone_s == 0.0 and f not in self.lost}
        frozen = [f for f, s in alive.items() if s.still_s > self._frozen_s(s.pulse)]
        stuck_s = self.patience_s * _STUCK_PART
        # Who has waited for one that was killed since is not stuck itself.
        # Nor is one that has not marked anything yet: it loads.
        waited = alive and all(s.pulse.marks and s.idle_s > stuck_s for s in alive.values())
        stuck = waited and not self.lost.keys() & seen.keys()
        if frozen:
            self._end(alive, frozen, "gave no sign of life since step {step}: stopped or frozen")
        elif stuck:
            behind = min((s.pulse.step, s.pulse.waits) for s in alive.values())
            culprits = [f for f, s in alive.items() if (s.pulse.step, s.pulse.waits) == behind]
            self._end(alive, culprits, f"has not gone on for {stuck_s:g} s at step {{step}}")
        elif alive and any(s.gone_s > _SURVIVORS_S for s in seen.values()):
            # They wait for the one that is gone, and their device may not tell them.
            for state in alive.values():
                _kill(state.pulse.pid)

    def _frozen_s(self, pulse: Pulse) -> float:
        # Before the first step annotations are read, which may let no other thread run for long.
        if pulse.beats == LEAVING or not pulse.marks:
            return self.patience_s
        return max(self.patience_s * _FROZEN_PART, _FROZEN_LEAST_S)

    def _end(self, alive: dict[Path, _Seen], culprits: list[Path], reason: str) -> None:
        if STACKS_SIGNAL is not None:
            for state in alive.values():
                with suppress(ProcessLookupError):
                    os.kill(state.pulse.pid, STACKS_SIGNAL)
        time.sleep(_STACKS_S)
        for folder in culprits:
            self.lost[folder] = reason.format(step=alive[folder].pulse.step)
            _kill(alive[folder].pulse.pid)


@contextmanager
def watching(log_folder: Path, *, patience_s: float) -> Iterator[Watch]:
    """Watch the ranks whose folders appear under a log folder; yield what is found.

    Args:
        patience_s: without any rank going on.
    """
    watch, stop = Watch(patience_s), threading.Event()
    thread = threading.Thread(target=_watch, args=(watch, log_folder, stop), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def _watch(watch: Watch, log_folder: Path, stop: threading.Event) -> None:
    seen: dict[Path, _Seen] = {}
    attempt: Path | None = None
    # Silence is counted in polls: a launcher that was suspended itself has not seen any.
    while not stop.wait(_POLL_S):
        newest = find_attempt(log_folder)
        if newest is None:
            continue
        if newest != attempt:
            attempt, seen = newest, {}
        watch.look(sorted(attempt.glob("[0-9]*")), seen, _POLL_S)


def kill_ranks(log_folder: Path) -> None:
    """Kill the ranks of the newest start."""
    attempt = find_attempt(log_folder)
    for folder in [] if attempt is None else attempt.glob("[0-9]*"):
        pulse = read_pulse(folder)
        if pulse is not None:
            _kill(pulse.pid)


def find_attempt(log_folder: Path) -> Path | None:
    """Return torch elastic's folder of the newest start of the ranks; None before the first."""
    attempts = log_folder.glob("*/attempt_*")
    return max(attempts, key=lambda path: int(path.name.rpartition("_")[2]), default=None)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # elastic makes each rank the head of a group
