"""Statistics of repeated timings, and how many steps make an honest one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from suite.data.collating import Batch
from suite.errors import UsageError
from suite.training.job import Job


def summarise_ms(seconds: Sequence[float], *, prefix: str) -> dict[str, float]:
    """Return percentiles in milliseconds as `<prefix>_ms_p50`, `_p90`, `_p99`."""
    milliseconds = np.asarray(seconds) * 1000
    return {f"{prefix}_ms_p{q}": float(np.percentile(milliseconds, q)) for q in (50, 90, 99)}


def count_warmup(job: Job, *, warmup: int, steps: int) -> int:
    """Return the uncounted steps: as asked, and enough to use up what was loaded ahead.

    Two batches a loader process wait when the first step has been slow; counted, they would make
    the loader look faster than it is.

    Raises:
        UsageError: the run has fewer steps than that and `steps` counted ones.
    """
    needed = max(warmup, 2 * job.recipe.data.workers + 1)
    if job.plan.num_steps < needed + steps:
        raise UsageError(
            f"recipe {job.recipe.name}: its run has {job.plan.num_steps} steps, fewer than "
            f"{needed} to warm up (--warmup, and twice data.workers + 1) and --steps {steps} need"
        )
    return needed


def time_loading(batches: Iterator[Batch], *, warmup: int, steps: int) -> list[float]:
    """Return the seconds that each of the `steps` batches after `warmup` ones took to come."""
    for _ in range(warmup):
        next(batches)
    marks = [time.perf_counter()]
    for _ in range(steps):
        next(batches)
        marks.append(time.perf_counter())
    seconds: list[float] = np.diff(marks).tolist()
    return seconds
