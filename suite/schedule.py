"""How many steps a run has, and the learning rate of each: plain arithmetic on a recipe's schedule.

After a linear warm-up there are two shapes. That of the Ascend ModelZoo's SSD-ResNet34 is a cosine
that counts from the first step (so the peak is approached, never reached), then a floor. That of
mmdetection divides the peak by 10 at milestones, which hold during the warm-up too. Steps count
from 0. Epochs are nominal where `Schedule.nominal_epoch_images` says so: the published run calls
120,000 images an epoch of a training set of 118,287.
"""

from __future__ import annotations

import math
from fractions import Fraction

from suite.errors import UsageError
from suite.recipe_sections import Schedule

_MILESTONE_FACTOR = 0.1


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
    if schedule.warmup_epochs is None:
        return schedule.warmup_steps or 0
    epoch = steps_per_epoch(schedule, global_batch=global_batch, dataset_size=dataset_size)
    return _floor(schedule.warmup_epochs, epoch)


def decay_steps(schedule: Schedule, *, global_batch: int, dataset_size: int) -> int:
    """Return the number of steps from the first one to the cosine's floor; 0: no cosine."""
    if schedule.decay_epochs is None:
        return 0
    epoch = steps_per_epoch(schedule, global_batch=global_batch, dataset_size=dataset_size)
    return max(_floor(schedule.decay_epochs, epoch), 1)


def milestone_steps(schedule: Schedule, *, global_batch: int, dataset_size: int) -> list[int]:
    """Return the steps from which the rate is a tenth of what it was."""
    epoch = steps_per_epoch(schedule, global_batch=global_batch, dataset_size=dataset_size)
    return [_floor(milestone, epoch) for milestone in schedule.milestones]


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
    of_run = {"global_batch": global_batch, "dataset_size": dataset_size}
    peak = peak_learning_rate(schedule, global_batch=global_batch)
    warmup = warmup_steps(schedule, **of_run)
    warm = 1.0
    if step < warmup:
        warm = schedule.warmup_start + (1 - schedule.warmup_start) * (step / warmup)
    if schedule.final_lr_factor is None:
        passed = sum(step >= milestone for milestone in milestone_steps(schedule, **of_run))
        return warm * peak * _MILESTONE_FACTOR**passed
    if step < warmup:
        return warm * peak
    decay = decay_steps(schedule, **of_run)
    floor = schedule.final_lr_factor
    cosine = 0.5 * (1 + math.cos(math.pi * min(step, decay) / decay))
    return peak * ((1 - floor) * cosine + floor)


def _epoch_images(schedule: Schedule, dataset_size: int) -> int:
    return dataset_size if schedule.nominal_epoch_images is None else schedule.nominal_epoch_images


def _floor(epochs: float, count: int) -> int:
    # In decimals, as it is written in the recipe: 0.29 * 100 is 28.999999999999996 in binary.
    return math.floor(Fraction(repr(epochs)) * count)
