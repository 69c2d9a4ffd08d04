"""Where the time of a training step goes, and how many operations it does.

Measured in steps of its own: at each mark the device is waited for, so what a real step does side
by side (copies, all-reduce) comes one after the other here, and the sum may be more than a step of
the headline window.
"""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from suite.bench.roofs_windows import Rig
from suite.data.collating import Batch
from suite.device import Device
from suite.training.loop import Learner, build_learner

# In their order; what `exchange` takes is taken off `backward`, which it is part of.
PARTS = ("waiting", "moving", "forward", "backward", "exchange", "optimizer")
_EXCHANGES = 5


def measure_parts(rig: Rig) -> dict[str, float]:
    """Return the mean seconds of each of `PARTS` over a window's counted steps, of this rank.

    `waiting` is for the loader, `exchange` what the backward pass takes longer with other ranks
    than without; 0 where there are none.
    """
    for _ in range(rig.drained):
        _step(rig, _Stopwatch(rig.job.device))
    watch = _Stopwatch(rig.job.device)
    for _ in range(rig.steps):
        _step(rig, watch)
    parts = {part: watch.seconds[part] / rig.steps for part in PARTS}
    parts["exchange"] = min(parts["backward"], _measure_exchange(rig))
    parts["backward"] -= parts["exchange"]
    return parts


def count_flops(rig: Rig) -> float | None:
    """Return the operations of forward and backward for an image of the batch that stays.

    A multiplication and its addition are two. None where the device's operators are none that
    torch can count.
    """
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(_loss(_learner_alone(rig), rig.resident))
    rig.detector.zero_grad(set_to_none=True)
    total = counter.get_total_flops()
    return total / rig.rank_batch if total else None


class _Stopwatch:
    """Seconds by part, by the clock and the device."""

    def __init__(self, device: Device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        self._device.synchronize()
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


def _step(rig: Rig, watch: _Stopwatch) -> None:
    place = rig.job.device.torch_device
    loaded = next(rig.stream)
    watch.mark("waiting")
    batch = loaded.to(place)
    watch.mark("moving")
    loss = _loss(rig.learner, batch)
    watch.mark("forward")
    torch.autograd.backward(loss)
    watch.mark("backward")
    # The gradients are there: the updater's own backward pass has nothing left but this number.
    rig.updater.step(torch.zeros((), device=place, requires_grad=True))
    watch.mark("optimizer")
    rig.job.ranks.mark(rig.updater.num_steps_done)


def _measure_exchange(rig: Rig) -> float:
    ranks = rig.job.ranks
    if ranks.num_ranks == 1:
        return 0.0
    alone, together = [], []
    for _ in range(_EXCHANGES):
        alone.append(_time_backward(rig, _learner_alone(rig)))
        together.append(_time_backward(rig, rig.learner))
    return max(0.0, median(together) - median(alone))


def _time_backward(rig: Rig, learner: Learner) -> float:
    """Time the backward pass on the batch that stays, begun by all ranks together."""
    loss = _loss(learner, rig.resident)
    rig.job.device.synchronize()
    rig.job.ranks.wait_for_all()
    started = time.perf_counter()
    torch.autograd.backward(loss)
    rig.job.device.synchronize()
    taken = time.perf_counter() - started
    rig.detector.zero_grad(set_to_none=True)
    rig.job.ranks.mark(rig.updater.num_steps_done)
    return taken


def _learner_alone(rig: Rig) -> Learner:
    """Return a learner whose gradients stay this rank's own."""
    return build_learner(rig.detector, rig.job.device, network=rig.detector)


def _loss(learner: Learner, batch: Batch) -> Tensor:
    return torch.stack(list(learner(batch).values())).sum()
