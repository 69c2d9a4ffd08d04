"""The training loop and the plan of its steps. Nothing in a step waits for the device."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from suite.data.loading import Batch
from suite.device import Device
from suite.errors import Stopped
from suite.events import Events
from suite.recipe import Recipe
from suite.schedule import total_steps
from suite.training.optim import Updater

Learner = Callable[[Batch], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a run does what, in steps.

    Attributes:
        num_steps: of the whole run.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between evaluations, None for none before the end.
    """

    num_steps: int
    checkpoint_every: int
    evaluate_every: int | None


def plan_run(recipe: Recipe, *, dataset_size: int) -> Plan:
    """Turn a recipe's epochs into steps."""
    epoch_images = recipe.schedule.epoch_images or dataset_size

    def steps(epochs: float) -> int:
        return max(1, round(epochs * epoch_images / recipe.global_batch))

    return Plan(
        num_steps=total_steps(
            recipe.schedule, global_batch=recipe.global_batch, dataset_size=dataset_size
        ),
        checkpoint_every=steps(recipe.checkpoint_every_epochs),
        evaluate_every=None
        if recipe.eval_every_epochs is None
        else steps(recipe.eval_every_epochs),
    )


def build_learner(detector: nn.Module, device: Device) -> Learner:
    """Return the function from a batch on the device to its named losses.

    Only the network runs in reduced precision; normalisation and losses stay in float32.
    """

    def learn(batch: Batch) -> dict[str, Tensor]:
        images = batch.images.normalised().contiguous(memory_format=torch.channels_last)
        with device.autocast():
            outputs = detector(images)
        losses: dict[str, Tensor] = detector.loss(outputs, batch.target)  # type: ignore[operator]
        return losses

    return learn


def run_steps(
    batches: Generator[Batch],
    *,
    device: Device,
    learner: Learner,
    updater: Updater,
    events: Events,
    after_step: Callable[[int], None],
) -> None:
    """Train on every batch.

    Args:
        after_step: called with the number of steps done; checkpoints, evaluates, stops.
    """
    with closing(batches):  # ends the loader's processes, whatever ends the loop
        for batch in batches:
            losses = learner(batch.to(device.torch_device))
            lr = updater.lr
            updater.step(torch.stack(list(losses.values())).sum())
            events.stepped(losses, lr=lr)
            after_step(updater.num_steps_done)


@contextmanager
def catch_stop_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that tells which of SIGINT and SIGTERM came; a second acts at once."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {
        n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stopped_by(number: int, *, step: int, folder: object) -> Stopped:
    """Return the error that ends a run stopped by a signal, with the way to go on."""
    name = signal.Signals(number).name
    return Stopped(
        f"stopped by {name} after step {step}; saved. Go on with --resume {folder}",
        signal_number=number,
    )
