"""The verb `bench train`: training throughput of a recipe, with and without its data loading."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite.bench.timing import count_warmup, summarise_ms
from suite.data.collating import Batch
from suite.data.prefetching import move_to_device
from suite.launch.worker import Worker
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.training.job import (
    Job,
    build_trainee,
    cached,
    describe_conditions,
    describe_subject,
    explaining_step,
    open_batches,
    opened_job,
)
from suite.training.loop import Learner, train_step
from suite.training.optim import Updater


@dataclass(frozen=True)
class _Window:
    """Seconds of each counted step."""

    step_seconds: list[float]

    def images_per_second(self, batch: int) -> float:
        return len(self.step_seconds) * batch / sum(self.step_seconds)


def bench_train(
    recipe: Recipe,
    *,
    steps: int = 10,
    warmup: int = 3,
    worker: Worker | None = None,
    strict_device: bool = True,
) -> Record:
    """Measure training steps of a recipe on its own data and device; nothing is saved.

    Two windows of `steps` steps, each after `warmup` or more uncounted ones: end to end with the
    loader, then on one batch that stays on the device. Their ratio says how far the loader holds it
    back.

    Raises:
        SuiteError: as `train`.
    """
    with opened_job(recipe, worker, strict_device=strict_device) as job, explaining_step(job):
        return _measure(job, steps=steps, warmup=warmup)


def _measure(job: Job, *, steps: int, warmup: int) -> Record:
    recipe = job.recipe
    warmup = count_warmup(job, warmup=warmup, steps=steps)
    _, learner, updater = build_trainee(job)
    job.device.reset_peak_memory()
    with cached(job) as ready:
        batches = open_batches(ready, first_step=0)
        whole = _time_steps(batches, job, learner, updater, counts=(warmup, steps))
    with closing(open_batches(job, first_step=0)) as stream:
        resident = next(stream).to(job.device.torch_device)
    model = _time_steps(_repeat(resident), job, learner, updater, counts=(warmup, steps))
    metrics: dict[str, Any] = {
        "images_per_second": whole.images_per_second(recipe.global_batch),
        "images_per_second_model_only": model.images_per_second(recipe.global_batch),
        "peak_memory_bytes": job.device.peak_memory_bytes(),
        **summarise_ms(whole.step_seconds, prefix="step"),
    }
    return build_record(
        "bench-train",
        metrics=metrics,
        subject=describe_subject(job),
        conditions={
            **describe_conditions(job),
            "n": steps,
            "warmup": warmup,
            "scope": "global",
            "window": f"{steps} steps after {warmup}, data loading included",
        },
    )


def _repeat(batch: Batch) -> Generator[Batch]:
    while True:
        yield batch


def _time_steps(
    batches: Generator[Batch],
    job: Job,
    learner: Learner,
    updater: Updater,
    *,
    counts: tuple[int, int],
) -> _Window:
    warmup, steps = counts
    marks = [time.perf_counter()]
    moved = move_to_device(batches, job.device)
    with closing(moved):
        for batch in moved:
            train_step(batch, learner, updater)
            job.device.synchronize()
            marks.append(time.perf_counter())
            job.ranks.mark(len(marks) - 1)
            if len(marks) == 1 + warmup + steps:
                break
    return _Window(np.diff(marks[warmup:]).tolist())
