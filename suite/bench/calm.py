"""Whether a machine was calm while it was measured: what others took of it, and its own pace.

Both are read from the outside: the share of processor time that went to other processes
(/proc/stat; unknown elsewhere than on Linux), and how long the same small work takes now and
again, which shows a throttled clock, a busy neighbour and a stolen core alike.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_OTHERS = 0.1
MAX_PACE_SPREAD = 1.15
_STAT = Path("/proc/stat")
# User, nice, system, irq, softirq and steal; idle and waiting for disks are the others.
_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)
_PACE_LOOPS = 40


@dataclass(frozen=True, kw_only=True)
class Calm:
    """What was seen.

    Attributes:
        others: share of all cores that other processes took; None where nobody tells.
        pace_ms: median of how long the same small work took.
        pace_spread: slowest of the paces but a tenth over the fastest but a tenth; 1 is constant.
        load: mean number of runnable processes in the last minute before, None where unknown.
    """

    others: float | None
    pace_spread: float
    pace_ms: float
    load: float | None

    def notes(self) -> list[str]:
        """Return a sentence for each sign that the machine was not calm."""
        said = []
        if self.others is not None and self.others > MAX_OTHERS:
            said.append(
                f"not calm: other processes took {self.others:.0%} of all cores; "
                f"above {MAX_OTHERS:.0%} repeat it on a quiet machine"
            )
        if self.pace_spread > MAX_PACE_SPREAD:
            said.append(
                f"not calm: the same work took up to {self.pace_spread:.2f} times as long at "
                f"times; above {MAX_PACE_SPREAD} the clock or a neighbour moved"
            )
        return said

    def as_conditions(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "others_share": self.others,
            "pace_spread": self.pace_spread,
            "pace_ms": self.pace_ms,
            "load_before": self.load,
            "calm": not self.notes(),
        }


class Watch:
    """Watches from its making on; call `look` now and again, outside of what is timed."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._paces: list[float] = []
        self._busy = _busy_seconds()
        self._own = _own_seconds()
        self._started = time.perf_counter()
        self.look()

    def look(self) -> None:
        """Take the pace: a few milliseconds of one core."""
        self._paces.append(min(_pace() for _ in range(3)))

    def finish(self) -> Calm:
        """Return what was seen since the beginning."""
        self.look()
        elapsed = time.perf_counter() - self._started
        slow, fast = np.percentile(self._paces, [90, 10])
        return Calm(
            others=self._others_share(elapsed),
            pace_spread=float(slow / fast),
            pace_ms=1000 * float(np.median(self._paces)),
            load=self._load,
        )

    def _others_share(self, elapsed: float) -> float | None:
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / (elapsed * (os.cpu_count() or 1)))


def _pace() -> float:
    # Fits the first cache: not what memory or vector units do, but what the clock does.
    block = np.arange(2048, dtype=np.float64)
    started = time.perf_counter()
    for _ in range(_PACE_LOOPS):
        np.sort(block[::-1])
    return time.perf_counter() - started


def _busy_seconds() -> float | None:
    """Return what all processes have taken of all cores."""
    if not _STAT.is_file():
        return None
    ticks = [int(text) for text in _STAT.read_text().splitlines()[0].split()[1:]]
    return sum(ticks[column] for column in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return what this process and the ended ones among its children have taken."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
