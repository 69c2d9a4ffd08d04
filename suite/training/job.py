"""From a recipe to what a training run works with, and what records say about it."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from models import Detector
from suite.checkpoint import build_recipe_detector, start_from_checkpoint
from suite.data import build_workers, load_recipe_splits
from suite.data.batching import (
    RankSteps,
    TrainingOrder,
    build_training_order,
    trainable_samples,
)
from suite.data.caching import CacheBuild, keep_decoded, open_decoded
from suite.data.collating import Batch, count_box_rows
from suite.data.loading import TrainingStream, iterate_training
from suite.data.preparing import Augmentation
from suite.data.sample import Dataset, Sample
from suite.device import Device, build_device, tune_cpu_allocator
from suite.device_failures import FEWER_TO_TRAIN, explaining_failures
from suite.errors import MissingEnvironment, UsageError
from suite.launch.ranks import Ranks
from suite.launch.worker import Worker
from suite.leaving import stay_whole
from suite.meeting import meet
from suite.progress import LateProgress, transfer_progress
from suite.recipe import Recipe, recipe_digest, recipe_fields
from suite.schedule import learning_rate, steps_per_epoch, total_steps
from suite.sizing import Sizing, build_sizing
from suite.training.loop import Learner, build_learner
from suite.training.optim import Updater
from suite.weights import load_backbone_weights


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


@dataclass(frozen=True)
class Job:
    """What a run works with, complete before its first step.

    Attributes:
        ranks: the processes that train it together, this one among them.
        samples: of `train_set`, those with a box to learn.
        sizing: of the network's input.
    """

    recipe: Recipe
    device: Device
    ranks: Ranks
    train_set: Dataset
    val_set: Dataset
    samples: tuple[Sample, ...]
    sizing: Sizing
    plan: Plan


@contextmanager
def opened_job(
    recipe: Recipe, worker: Worker | None = None, *, strict_device: bool = False
) -> Iterator[Job]:
    """Find device, other ranks and data of a recipe; nothing is written.

    Args:
        worker: which of the ranks this process is; None: the only one.
        strict_device: see `build_device`.

    Raises:
        SuiteError: one of them is unusable.
        RankLost: another rank went, inside.
    """
    device = _build_device(recipe, worker, strict=strict_device)
    tune_cpu_allocator()
    if device.kind != "cpu":
        stay_whole()  # autograd's thread of the device may still call into Python at the end
    # Machines may have the data in different places; its digests are compared later.
    facts = recipe_fields(replace(recipe, data=replace(recipe.data, root="")))
    with meet(worker, device, facts=facts, patience=recipe.launch.patience) as ranks:
        yield _prepare(recipe, device, ranks)


def _prepare(recipe: Recipe, device: Device, ranks: Ranks) -> Job:
    train_set, val_set = load_recipe_splits(recipe)
    ranks.require_equal({"data": train_set.digest[:12], "val data": val_set.digest[:12]})
    samples = trainable_samples(train_set, use_crowd=recipe.data.use_crowd)
    if not samples:
        raise UsageError(f"{recipe.data.root}: no training image has a box to learn")
    plan = plan_run(recipe, dataset_size=len(samples))
    sizing = build_sizing(recipe.resize)
    return Job(recipe, device, ranks, train_set, val_set, samples, sizing, plan)


@contextmanager
def cached(job: Job) -> Iterator[Job]:
    """Yield the job with its training images kept decoded where its recipe says so.

    Raises:
        MissingEnvironment: there is no room for them.
    """
    if job.recipe.data.cache == "none":
        yield job
        return
    ranks = job.ranks
    # One rank of each machine makes the cache, the others wait for it.
    key = f"cache/{ranks.attempt}/{ranks.rank - ranks.local_rank}"
    with ExitStack() as cache:
        with ranks.taking_its_time():
            if ranks.local_rank == 0:
                samples, path = cache.enter_context(_kept_decoded(job))
                ranks.publish(key, str(path))
            else:
                samples = open_decoded(job.samples, Path(ranks.wait_for(key)))
        yield replace(job, samples=samples)
        ranks.wait_for_all()  # the cache may go


@contextmanager
def _kept_decoded(job: Job) -> Iterator[tuple[tuple[Sample, ...], Path]]:
    with ExitStack() as cache:
        with LateProgress("decode") as shown:
            build = CacheBuild(
                workers=build_workers(job.recipe.data), say=shown.say, progress=shown.update
            )
            where = job.recipe.data.cache
            assert where != "none"
            kept = cache.enter_context(keep_decoded(job.samples, where=where, build=build))
        yield kept


def _build_device(recipe: Recipe, worker: Worker | None, *, strict: bool) -> Device:
    """Find the device before anything is read, and say how the recipe would run elsewhere."""
    index = 0 if worker is None else worker.local_rank
    try:
        device = build_device(recipe.device, recipe.precision, index=index, strict=strict)
    except MissingEnvironment as error:
        raise MissingEnvironment(
            f"recipe {recipe.name} asks for {recipe.devices} x {recipe.device}: {error}\n"
            "to run it elsewhere: --devices 1 --device cpu"
        ) from error
    num_ranks = 1 if worker is None else worker.num_ranks
    if recipe.devices != num_ranks:
        raise UsageError(
            f"recipe {recipe.name} is for {recipe.devices} devices, a process each, and there are "
            f"{num_ranks}; start it with `suite train`, or pass --devices {num_ranks}"
        )
    return device


def plan_run(recipe: Recipe, *, dataset_size: int) -> Plan:
    """Turn a recipe's epochs into steps."""
    of_run = {"global_batch": recipe.global_batch, "dataset_size": dataset_size}
    epoch = steps_per_epoch(recipe.schedule, **of_run)

    def steps(epochs: float) -> int:
        return max(1, round(epochs * epoch))

    every = recipe.eval_every_epochs
    return Plan(
        num_steps=total_steps(recipe.schedule, **of_run),
        checkpoint_every=steps(recipe.checkpoint_every_epochs),
        evaluate_every=None if every is None else steps(every),
    )


def build_trainee(job: Job, *, load_weights: bool = True) -> tuple[Detector, Learner, Updater]:
    """Build the detector on its device, its losses and its optimizer, all from the recipe's seed.

    Args:
        load_weights: whether those that the recipe names are loaded; a resumed run has its own.

    Raises:
        InputError: these weights are unusable.
    """
    recipe, size = job.recipe, len(job.samples)
    torch.manual_seed(recipe.seed)
    detector = build_recipe_detector(recipe)
    if load_weights:
        with job.ranks.taking_its_time():
            _load_start(detector, recipe)
    job.device.take(detector)
    detector.train()

    def lr_of_step(step: int) -> float:
        return learning_rate(
            step, recipe.schedule, global_batch=recipe.global_batch, dataset_size=size
        )

    updater = Updater(detector, recipe.optimizer, learning_rate=lr_of_step, device=job.device)
    network = job.ranks.parallel(detector)
    return detector, build_learner(detector, job.device, network=network), updater


def _load_start(detector: Detector, recipe: Recipe) -> None:
    section = recipe.detector
    if section.backbone_weights is not None:
        with transfer_progress("backbone weights") as bar:
            load_backbone_weights(
                detector.backbone, section.backbone_weights, progress=bar.update, say=bar.say
            )
    if section.weights is not None:
        fresh = start_from_checkpoint(detector, recipe)
        if fresh:
            print(
                f"{section.weights}: other classes, so {', '.join(fresh)} start afresh",
                file=sys.stderr,
            )


def explaining_step(job: Job) -> AbstractContextManager[None]:
    """Say why the device cannot build the detector or make a step; see `explaining_failures`."""
    rank_batch = job.recipe.global_batch // job.recipe.devices
    holding = f"{rank_batch} images at a time"
    return explaining_failures(job.device, holding=holding, remedy=FEWER_TO_TRAIN)


def open_batches(job: Job, *, first_step: int) -> Generator[Batch]:
    """Yield the batches of all steps from `first_step`; close it where the last is not reached."""
    return iterate_training(
        build_stream(job),
        build_steps(job, first_step=first_step),
        workers=build_workers(job.recipe.data),
        pin=job.device.kind != "cpu",
    )


def build_stream(job: Job) -> TrainingStream:
    """Return the job's training samples as its recipe varies them."""
    recipe = job.recipe
    return TrainingStream(
        samples=job.samples,
        sizing=job.sizing,
        augmentation=Augmentation(
            crop=recipe.augment.crop,
            crop_factor=recipe.augment.crop_factor,
            flip=recipe.augment.flip,
            jitter=recipe.augment.jitter,
        ),
        seed=recipe.seed,
        box_rows=_count_box_rows(job) if recipe.static_shapes else None,
        replacing=_build_order(job) if recipe.data.on_bad_sample == "skip" else None,
    )


def _count_box_rows(job: Job) -> int:
    return count_box_rows(max(len(sample.labels) for sample in job.samples))


def build_steps(job: Job, *, first_step: int) -> RankSteps:
    """Return which samples each step from `first_step` on takes."""
    order = _build_order(job)
    return RankSteps(
        order=order,
        first_step=first_step,
        num_steps=job.plan.num_steps,
        rank=job.ranks.rank,
        num_ranks=job.ranks.num_ranks,
    )


def _build_order(job: Job) -> TrainingOrder:
    recipe = job.recipe
    return build_training_order(
        job.samples, job.sizing, seed=recipe.seed, global_batch=recipe.global_batch
    )


def describe_subject(job: Job) -> dict[str, Any]:
    """Return what a record says about what was trained."""
    recipe = job.recipe
    return {
        "detector": recipe.detector.name,
        "width": recipe.detector.width,
        "dataset": recipe.data.name,
        "recipe": recipe.name,
        "recipe_digest": recipe_digest(recipe),
        "reference": list(recipe.reference),
        "data_digest": job.train_set.digest,
        "val_digest": job.val_set.digest,
    }


def describe_conditions(job: Job) -> dict[str, Any]:
    """Return what a record says about how it was trained."""
    recipe = job.recipe
    return {
        **job.device.describe(),
        "devices": recipe.devices,
        "global_batch": recipe.global_batch,
        "image_hw": list(job.sizing.nominal_hw),
        "epochs": recipe.schedule.epochs,
        "steps": job.plan.num_steps,
        "seed": recipe.seed,
        "train_images": len(job.samples),
        "val_images": len(job.val_set.samples),
        "image_cache": recipe.data.cache,
    }
