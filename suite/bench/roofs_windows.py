"""Windows of training steps: end to end, the model alone, the loader alone.

All take from one stream of batches, so none sees another's images first, and each may be measured
again: what the loader has prepared meanwhile is used up before it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice, repeat
from statistics import mean
from typing import Any

import torch

from models import Detector
from models.structures import Images
from suite.bench.energy import measured_energy
from suite.bench.timing import count_warmup, time_loading
from suite.data.collating import Batch
from suite.data.prefetching import move_to_device
from suite.device import Device
from suite.launch.ranks import Ranks
from suite.training.job import Job, build_trainee, cached, open_batches
from suite.training.loop import Learner, train_step
from suite.training.optim import Updater

_ENDLESS = 2**40  # steps; the order of samples goes on after a run's last one


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A recipe ready to be measured.

    Attributes:
        stream: batches in the host's memory.
        resident: the first of them, on the device.
        drained: steps that use up what was loaded ahead.
        warmup, steps: uncounted and counted steps of a window.
    """

    job: Job
    detector: Detector
    learner: Learner
    updater: Updater
    stream: Generator[Batch]
    resident: Batch
    drained: int
    warmup: int
    steps: int

    @property
    def rank_batch(self) -> int:
        """Images of this rank in a step."""
        return len(self.resident.image_ids)


@dataclass(frozen=True)
class Window:
    """Counted steps, of this rank or of all (see `merge_ranks`).

    Attributes:
        step_seconds: of each.
        padding: share of the batches' pixels that are no picture, mean over batches.
        pixels: of an image with its padding, mean; 0 where no batch was looked at.
        joules: that the device took; None where no sensor told.
        sensor: its name, or "none".
    """

    step_seconds: list[float]
    padding: float = 0.0
    pixels: float = 0.0
    joules: float | None = None
    sensor: str = "none"


@contextmanager
def opened_rig(job: Job, *, steps: int, warmup: int) -> Iterator[Rig]:
    """Build what a recipe trains and start its loader.

    Raises:
        UsageError: its run has fewer steps than one window.
    """
    drained = count_warmup(job, warmup=warmup, steps=steps)
    detector, learner, updater = build_trainee(job)
    job.device.reset_peak_memory()
    endless = replace(job, plan=replace(job.plan, num_steps=_ENDLESS))
    with cached(endless) as ready, closing(open_batches(ready, first_step=0)) as stream:
        yield Rig(
            job=job,
            detector=detector,
            learner=learner,
            updater=updater,
            stream=stream,
            resident=next(stream).to(job.device.torch_device),
            drained=drained,
            warmup=warmup,
            steps=steps,
        )


def time_whole(rig: Rig) -> Window:
    """Train on what the loader gives."""
    seen: list[Images] = []
    moved = move_to_device(_noting(rig.stream, seen), rig.job.device)
    window = _time_steps(rig, moved, warmup=rig.drained)
    counted = seen[-rig.steps :]
    return replace(
        window,
        padding=mean(measure_padding(images) for images in counted),
        pixels=mean(float(images.pixels[0, 0].numel()) for images in counted),
    )


def time_model(rig: Rig) -> Window:
    """Train on the batch that stays on the device."""
    return _time_steps(rig, repeat(rig.resident), warmup=rig.warmup)


def time_loader(rig: Rig) -> Window:
    """Take batches and do nothing with them."""
    rig.job.ranks.wait_for_all()
    # In steps of all processes, each of which may finish a batch at the same moment.
    steps = _round_up(rig.steps, max(1, rig.job.recipe.data.workers))
    seconds = time_loading(rig.stream, warmup=rig.drained, steps=steps)
    rig.job.ranks.mark(rig.updater.num_steps_done)
    return Window(seconds)


def merge_ranks(windows: Sequence[Window], ranks: Ranks) -> list[Window]:
    """Return what all ranks together did in each window: the time is that of the slowest."""
    of_ranks = ranks.gather([asdict(window) for window in windows])
    return [_merge([Window(**one) for one in same]) for same in zip(*of_ranks, strict=True)]


def _merge(windows: Sequence[Window]) -> Window:
    joules = [window.joules for window in windows if window.joules is not None]
    return Window(
        max((window.step_seconds for window in windows), key=sum),
        padding=mean(window.padding for window in windows),
        pixels=mean(window.pixels for window in windows),
        joules=sum(joules) if len(joules) == len(windows) else None,
        sensor=windows[0].sensor,
    )


def measure_padding(images: Images) -> float:
    """Return the share of a batch's pixels that belong to no picture."""
    number, _, height, width = images.pixels.shape
    return 1.0 - float(images.resized_hw.prod(dim=1).sum()) / (number * height * width)


def _noting(batches: Iterator[Batch], seen: list[Images]) -> Generator[Batch]:
    """Pass batches on; where this ends, `batches` does not."""
    for batch in batches:
        # The sizes alone: pixels would fill the memory, and pinned ones are used again.
        pixels = batch.images.pixels.to("meta")
        seen.append(replace(batch.images, pixels=pixels))
        yield batch


def _time_steps(rig: Rig, batches: Iterator[Batch], *, warmup: int) -> Window:
    device, laps = rig.job.device, _Laps(rig.job.device)
    _train(rig, islice(batches, warmup), after_step=lambda: None)
    device.synchronize()
    with measured_energy(device) as energy:
        laps.mark()  # from here on: opening a sensor takes its time
        _train(rig, islice(batches, rig.steps), after_step=laps.mark)
        device.synchronize()
    return Window(laps.seconds(), joules=energy.joules, sensor=energy.sensor)


def _train(rig: Rig, batches: Iterator[Batch], *, after_step: Callable[[], None]) -> None:
    for batch in batches:
        train_step(batch, rig.learner, rig.updater)
        after_step()
        rig.job.ranks.mark(rig.updater.num_steps_done)


class _Laps:
    """Seconds between marks. Nothing waits for a device at a mark: there it is an event."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self._device.kind == "cpu":
            self._marks.append(time.perf_counter())
            return
        event = torch.get_device_module(self._device.kind).Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Return what lies between them; the device has been waited for."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device.kind == "cpu":
            return [after - before for before, after in pairs]
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
