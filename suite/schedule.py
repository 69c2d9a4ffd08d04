"""How many steps a run has, and the learning rate of each: plain arithmetic on a recipe's schedule.

The shape is that of the Ascend ModelZoo's SSD-ResNet34: linear warm-up from 0, then a cosine that
counts from the first step (so the peak is approached, never reached), then a floor. Steps count
from 0. Epochs are nominal where `Schedule.nominal_epoch_images` says so: the published run calls
120,000 images an epoch of a training set of 118,287.
"""

from __future__ import annotations

import math
from fractions import Fraction

from suite.errors import UsageError
from suite.recipe import Schedule


def steps_per_epoch(schedule: Schedule, *, global_batch: int, dataset_size: int) -> int:
    """Return the number of whole batches in an epoch, at least 1.

    Args:
        schedule: of the recipe.
        global_batch: images a step over all devices.
        dataset_size: images of the training set; not used where the schedule has
            `nominal_epoch_images`.

    Raises:
        UsageError: an epoch is smaller than one batch.
    """
    images = _epoch_images(schedule, dataset_size)
    if images < global_batch:
        raise UsageError(
            f"global_batch: {global_batch} is more than the {images} images of an epoch; lower it"
        )
    return images // global_batch


def total_steps(schedule: Schedule, *, global_batch: int, dataset_size: int) -> int:
    """Return the length of the run in steps, at least 1.

    Raises:
        UsageError: the run is shorter than one step.
    """
    steps = _floor(schedule.epochs, _epoch_images(schedule, dataset_size)) // global_batch
    if steps < 1:
        raise UsageError(f"schedule.epochs: {schedule.epochs:g} is less than one step; raise it")
    return steps


def warmup_steps(schedule: Schedule, *, global_batch: int, dataset_size: int) -> int:
    """Return the number of steps of the linear warm-up; 0: none."""
    epoch = steps_per_epoch(schedule, global_batch=global_batch, dataset_size=dataset_size)
    return _floor(schedule.warmup_epochs, epoch)


def decay_steps(schedule: Schedule, *, global_batch: int, dataset_size: int) -> int:
    """Return the number of steps from the first one to the floor, at least 1."""
    epoch = steps_per_epoch(schedule, global_batch=global_batch, dataset_size=dataset_size)
    return max(_floor(schedule.decay_epochs, epoch), 1)


def peak_learning_rate(schedule: Schedule, *, global_batch: int) -> float:
    """Return the base learning rate scaled linearly to the global batch."""
    return schedule.base_lr * global_batch / schedule.base_batch


def learning_rate(step: int, schedule: Schedule, *, global_batch: int, dataset_size: int) -> float:
    """Return the learning rate of one update.

    Args:
        step: from 0; steps after the decay have the floor's rate.
        schedule: of the recipe.
        global_batch: images a step over all devices.
        dataset_size: images of the training set.
    """
    peak = peak_learning_rate(schedule, global_batch=global_batch)
    warmup = warmup_steps(schedule, global_batch=global_batch, dataset_size=dataset_size)
    if step < warmup:
        return step / warmup * peak
    decay = decay_steps(schedule, global_batch=global_batch, dataset_size=dataset_size)
    floor = schedule.final_lr_factor
    cosine = 0.5 * (1 + math.cos(math.pi * min(step, decay) / decay))
    return peak * ((1 - floor) * cosine + floor)


def _epoch_images(schedule: Schedule, dataset_size: int) -> int:
    return dataset_size if schedule.nominal_epoch_images is None else schedule.nominal_epoch_images


def _floor(epochs: float, count: int) -> int:
    # In decimals, as it is written in the recipe: 0.29 * 100 is 28.999999999999996 in binary.
    return math.floor(Fraction(repr(epochs)) * count)
