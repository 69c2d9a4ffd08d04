"""The training loop. Nothing in a step waits for the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from models import Detector
from suite.data.collating import Batch
from suite.data.prefetching import move_to_device
from suite.device import Device
from suite.errors import Diverged
from suite.events import Events, Interval
from suite.launch.heartbeat import LAUNCHED
from suite.parent import STOP_SIGNALS
from suite.training.guard import LossGuard
from suite.training.optim import Updater

Learner = Callable[[Batch], dict[str, Tensor]]
StopSignal = Callable[[], int | None]


def build_learner(detector: Detector, device: Device, *, network: nn.Module) -> Learner:
    """Return the function from a batch on the device to its named losses.

    Only the network runs in reduced precision; normalisation and losses stay in float32.

    Args:
        network: computes what the detector computes; it also averages gradients over ranks.
    """

    def learn(batch: Batch) -> dict[str, Tensor]:
        images = batch.images.normalised().contiguous(memory_format=device.memory_format)
        with device.autocast():
            outputs = network(images)
        image_hw = images.shape[2], images.shape[3]
        return detector.loss(outputs, batch.target, image_hw=image_hw)

    return learn


def run_steps(
    batches: Generator[Batch],
    *,
    device: Device,
    learner: Learner,
    updater: Updater,
    events: Events,
    loss_guard: LossGuard,
    after_step: Callable[[int], None],
) -> None:
    """Train on every batch.

    Args:
        after_step: called with the number of steps done; checkpoints, evaluates, stops.

    Raises:
        Diverged: what `loss_guard` finds.
    """
    moved = move_to_device(batches, device)
    with closing(moved):  # ends the loader's processes, whatever ends the loop
        for batch in moved:
            lr = updater.lr
            losses, skipped = train_step(batch, learner, updater)
            interval = events.stepped(losses, lr=lr, skipped=skipped)
            if interval is not None:
                _judge(interval, updater, events, loss_guard)
            after_step(updater.num_steps_done)


def train_step(
    batch: Batch, learner: Learner, updater: Updater
) -> tuple[dict[str, Tensor], Tensor]:
    """Make one optimizer step on a batch that is on the device.

    Returns:
        the losses, and whether the step was skipped (see `Updater.step`); all unread.
    """
    losses = learner(batch)
    skipped = updater.step(torch.stack(list(losses.values())).sum())
    return losses, skipped


def _judge(interval: Interval, updater: Updater, events: Events, loss_guard: LossGuard) -> None:
    _, in_a_row = updater.guard.read()
    try:
        loss_guard.judge(
            interval.loss,
            step=events.step,
            lr=interval.lr,
            in_a_row=in_a_row,
            last=interval.is_last,
        )
    except Diverged:
        events.wrote("diverged", lr=interval.lr)
        raise


@contextmanager
def catch_stop_signals() -> Iterator[StopSignal]:
    """Yield a function that tells whether SIGINT or SIGTERM came; a second acts at once.

    SIGHUP and SIGUSR1, by which schedulers warn of the end, count as SIGTERM.
    """
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if LAUNCHED in os.environ:
            return  # a launcher that is asked twice sees to it, and passes the first on to us again
        # The first handler would still clean up, which can hang as the step may.
        for again in heeded:
            signal.signal(again, signal.SIG_DFL)

    heeded = [n for n in STOP_SIGNALS if signal.getsignal(n) != signal.SIG_IGN]  # as for nohup
    previous: dict[int, Any] = {n: signal.signal(n, remember) for n in heeded}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
