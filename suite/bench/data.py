"""The verb `bench data`: how fast a recipe's training images load, and where the time goes.

First one core, in this process, stage by stage, in processor time: what other processes do does not
count. Then the loader as training runs it, by the clock. Files and caches are read once before, so
that disks do not count either.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from contextlib import closing, suppress
from typing import Any

from tabulate import tabulate

from suite.bench.timing import count_warmup, time_loading
from suite.data.batching import RankSteps
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.loading import TrainingStream
from suite.data.sample import DecodedImage, ImageFile
from suite.device import one_cpu_thread
from suite.errors import InputError
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.training.job import (
    Job,
    build_steps,
    build_stream,
    cached,
    describe_conditions,
    describe_subject,
    open_batches,
    opened_job,
)

_STAGES = ("read", "decode", "crop", "resize", "flip and colour", "batch", "normalise")
# What the device does where there is one; on a CPU, it is part of the step.
_AFTER_LOADING = "normalise"


def bench_data(recipe: Recipe, *, steps: int = 8, warmup: int = 1) -> Record:
    """Measure the loading of a recipe's training images and return the record.

    Args:
        steps: counted batches of `global_batch` images, after `warmup` or more uncounted ones.

    Raises:
        SuiteError: as `train`.
    """
    with opened_job(recipe) as job:
        return _measure(job, steps=steps, warmup=warmup)


def _measure(job: Job, *, steps: int, warmup: int) -> Record:
    recipe = job.recipe
    warmup = count_warmup(job, warmup=warmup, steps=steps)
    with cached(job) as ready:
        _touch(ready, warmup + steps)
        seconds = _time_stages(ready, counts=(warmup, steps))
        by_clock = _time_loader(ready, counts=(warmup, steps))
    num_images = steps * recipe.global_batch
    loading = sum(spent for stage, spent in seconds.items() if stage != _AFTER_LOADING)
    metrics: dict[str, Any] = {
        f"{stage.replace(' ', '_')}_ms": 1000 * seconds[stage] / num_images for stage in _STAGES
    }
    metrics["images_per_second_per_core"] = num_images / loading
    metrics["images_per_second_per_core_normalised"] = num_images / sum(seconds.values())
    metrics["images_per_second"] = num_images / by_clock
    return build_record(
        "bench-data",
        metrics=metrics,
        subject=describe_subject(job),
        conditions={
            **describe_conditions(job),
            "workers": recipe.data.workers,
            "n": num_images,
            "warmup": warmup * recipe.global_batch,
            "scope": "global",
            "window": f"{steps} batches after {warmup}; per core: processor time of one process",
        },
    )


def format_stages(record: Record) -> str:
    """Render where the time of one core goes."""
    metrics = record["metrics"]
    spent = {stage: metrics[f"{stage.replace(' ', '_')}_ms"] for stage in _STAGES}
    whole = sum(spent.values())
    rows = [(stage, f"{ms:.3f}", f"{ms / whole:.0%}") for stage, ms in spent.items()]
    table = tabulate(rows, headers=["stage", "ms/image", "share"], disable_numparse=True)
    return (
        f"{table}\n\n"
        f"one core: {metrics['images_per_second_per_core']:.0f} images/s, "
        f"{metrics['images_per_second_per_core_normalised']:.0f} with the normalisation\n"
        f"the loader, {record['conditions']['workers']} processes: "
        f"{metrics['images_per_second']:.0f} images/s"
    )


class _Stopwatch:
    """Processor seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.process_time()

    def mark(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[stage] += now - self._last
        self._last = now


def _time_stages(job: Job, *, counts: tuple[int, int]) -> dict[str, float]:
    warmup, num_steps = counts
    stream, steps = build_stream(job), build_steps(job, first_step=0)
    with one_cpu_thread():
        for _ in range(warmup):
            _prepare_batch(stream, steps, 0, _Stopwatch())
        watch = _Stopwatch()
        for step in range(warmup, warmup + num_steps):
            _prepare_batch(stream, steps, step, watch)
        reading = _time_reading(job, range(warmup, warmup + num_steps))
    # `decode` reads too: what reading alone takes is taken off it.
    watch.seconds["read"] = reading
    watch.seconds["decode"] = max(0.0, watch.seconds["decode"] - reading)
    return {stage: watch.seconds[stage] for stage in _STAGES}


def _prepare_batch(stream: TrainingStream, steps: RankSteps, step: int, watch: _Stopwatch) -> None:
    examples = []
    for turn in steps.order.turns(step):
        example = stream.load(turn, lambda _: None, mark=watch.mark)
        if isinstance(example, InputError):
            raise example
        examples.append(example)
    batch = collate(examples)
    watch.mark("batch")
    batch.images.normalised()
    watch.mark(_AFTER_LOADING)


def _touch(job: Job, num_steps: int) -> None:
    """Bring what the first steps read into memory, as far as it can be read."""
    for image in _list_images(job, range(num_steps)):
        with suppress(InputError):
            if isinstance(image, ImageFile):
                image.read()
            else:
                read_image(image).max()


def _list_images(job: Job, steps: range) -> list[ImageFile | DecodedImage]:
    order = build_steps(job, first_step=0).order
    turns = itertools.chain.from_iterable(map(order.turns, steps))
    return [job.samples[turn.sample_index].image for turn in turns]


def _time_reading(job: Job, steps: range) -> float:
    """Return the processor seconds of reading the files of some steps; what is cached has none."""
    files = [image for image in _list_images(job, steps) if isinstance(image, ImageFile)]
    started = time.process_time()
    for file in files:
        with suppress(InputError):
            file.read()
    return time.process_time() - started if files else 0.0


def _time_loader(job: Job, *, counts: tuple[int, int]) -> float:
    warmup, steps = counts
    with closing(open_batches(job, first_step=0)) as batches:
        return sum(time_loading(batches, warmup=warmup, steps=steps))
