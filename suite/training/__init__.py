"""The verb `train`: from a recipe to a run folder with checkpoints, metrics and a record."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suite.checkpoint import (
    build_recipe_detector,
    checkpoint_path,
    delete_old_checkpoints,
    list_checkpoints,
    load_newest_checkpoint,
    write_checkpoint,
)
from suite.data import load_recipe_splits
from suite.data.loading import (
    Augmentation,
    Batch,
    StepPositions,
    TrainingStream,
    iterate_training,
    trainable_samples,
)
from suite.data.sample import Dataset, Sample
from suite.device import Device, build_device, tune_cpu_allocator
from suite.errors import UsageError
from suite.evaluation import evaluate
from suite.evaluation.coco import Evaluation, modelzoo_line, write_results
from suite.events import Events
from suite.files import file_sha256, write_text
from suite.recipe import Recipe, recipe_digest, recipe_from_dict, recipe_to_dict, write_recipe
from suite.records import build_record, write_record
from suite.run_folder import create_run_folder, open_run_folder
from suite.runtime import postprocess_parameters, torch_detect
from suite.schedule import learning_rate
from suite.training.loop import (
    Plan,
    build_learner,
    catch_stop_signals,
    plan_run,
    run_steps,
    stopped_by,
)
from suite.training.optim import Updater
from suite.weights import load_backbone_weights

_KEEP_CHECKPOINTS = 3
_EVALUATION_BATCH = 16


@dataclass(frozen=True)
class _Job:
    """What a run works with, complete before its first step."""

    recipe: Recipe
    device: Device
    train_set: Dataset
    val_set: Dataset
    samples: tuple[Sample, ...]
    plan: Plan


def train(
    recipe: Recipe, *, output: Path, resume: Path | None = None, evaluate_at_end: bool = True
) -> Path:
    """Train a detector and return the run folder.

    Args:
        recipe: what to train; everything that changes a number is in it.
        output: where `<recipe>-<n>` is created.
        resume: a run folder to continue at the exact sample instead; its recipe must be the same.
        evaluate_at_end: judge the final weights on the val split.

    Raises:
        SuiteError: bad data, recipe or device (nothing is written then); a loss that is not finite; a
            signal, after saving.
    """
    job = _prepare(recipe)
    state = load_newest_checkpoint(open_run_folder(resume) / "checkpoints") if resume else None
    if state is not None:
        _require_same_run(job, state)
    torch.manual_seed(recipe.seed)
    detector = _build_detector(job, load_backbone=state is None)
    updater = _build_updater(job, detector)
    if state is not None:
        updater.restore(state)
    folder = resume or create_run_folder(output, recipe.name)
    if resume is None:
        _write_start(folder, job)
    with (
        catch_stop_signals() as stop_signal,
        Events(
            folder,
            num_steps=job.plan.num_steps,
            first_step=updater.num_steps_done,
            global_batch=recipe.global_batch,
            log_every=recipe.log_every_steps,
        ) as events,
    ):
        if resume is not None:
            events.wrote("resumed")

        def after_step(step: int) -> None:
            number = stop_signal()
            last = step == job.plan.num_steps
            if last or number is not None or step % job.plan.checkpoint_every == 0:
                _save(folder, job, updater)
            if number is not None:
                raise stopped_by(number, step=step, folder=folder)
            if not last and job.plan.evaluate_every and step % job.plan.evaluate_every == 0:
                _evaluate(folder, job, updater, events)
                detector.train()

        run_steps(
            _batches(job, detector, first_step=updater.num_steps_done),
            device=job.device,
            learner=build_learner(detector, job.device),
            updater=updater,
            events=events,
            after_step=after_step,
        )
        evaluation = _evaluate(folder, job, updater, events) if evaluate_at_end else None
        _write_record(folder, job, events, evaluation)
    return folder


def _prepare(recipe: Recipe) -> _Job:
    if recipe.devices != 1:
        raise UsageError(
            f"recipe {recipe.name}: devices is {recipe.devices}, this version trains on one device; "
            "pass --devices 1 (the global batch stays as it is)"
        )
    device = build_device(recipe.device, recipe.precision)
    tune_cpu_allocator()
    train_set, val_set = load_recipe_splits(recipe)
    samples = trainable_samples(train_set, use_crowd=recipe.data.use_crowd)
    if not samples:
        raise UsageError(f"{recipe.data.root}: no training image has a box to learn")
    plan = plan_run(recipe, dataset_size=len(samples))
    return _Job(recipe, device, train_set, val_set, samples, plan)


def _require_same_run(job: _Job, state: dict[str, Any]) -> None:
    """Refuse to continue a run under another recipe or on other data: no number would describe it."""
    stored = recipe_from_dict(state["recipe"], source="checkpoint")
    if recipe_digest(stored) != recipe_digest(job.recipe):
        raise UsageError(
            f"--resume: the run was trained with another recipe than '{job.recipe.name}'; "
            "pass the run's own recipe.yaml"
        )
    if state["data_digest"] != job.train_set.digest:
        raise UsageError(
            f"--resume: the training annotations under {job.recipe.data.root} have changed"
        )


def _build_detector(job: _Job, *, load_backbone: bool) -> nn.Module:
    detector = build_recipe_detector(job.recipe)
    source = job.recipe.detector.backbone_weights
    if load_backbone and source is not None:
        load_backbone_weights(detector.get_submodule("backbone"), source)
    return detector.to(job.device.torch_device, memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def _build_updater(job: _Job, detector: nn.Module) -> Updater:
    recipe, size = job.recipe, len(job.samples)

    def lr_of_step(step: int) -> float:
        return learning_rate(
            step, recipe.schedule, global_batch=recipe.global_batch, dataset_size=size
        )

    return Updater(detector, recipe.optimizer, learning_rate=lr_of_step, scaler=job.device.scaler())


def _batches(job: _Job, detector: nn.Module, *, first_step: int) -> Generator[Batch]:
    recipe = job.recipe
    stream = TrainingStream(
        samples=job.samples,
        image_hw=detector.image_hw,  # type: ignore[arg-type]  # Module attributes are untyped
        augmentation=Augmentation(
            crop=recipe.augment.crop,
            crop_factor=recipe.augment.crop_factor,
            flip=recipe.augment.flip,
            jitter=recipe.augment.jitter,
        ),
        seed=recipe.seed,
    )
    positions = StepPositions(
        first_step=first_step, num_steps=job.plan.num_steps, global_batch=recipe.global_batch
    )
    pin = job.device.kind != "cpu"
    return iterate_training(stream, positions, workers=recipe.data.workers, pin=pin)


def _write_start(folder: Path, job: _Job) -> None:
    write_recipe(job.recipe, folder / "recipe.yaml")
    manifest = build_record(
        "manifest", metrics={}, subject=_subject(job), conditions=_conditions(job)
    )
    manifest["repairs"] = dict(job.train_set.repairs)
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def _save(folder: Path, job: _Job, updater: Updater) -> None:
    state = updater.state()
    state["recipe"] = recipe_to_dict(job.recipe)
    state["class_names"] = list(job.train_set.class_names)
    state["category_ids"] = list(job.train_set.category_ids)
    state["data_digest"] = job.train_set.digest
    checkpoints = folder / "checkpoints"
    write_checkpoint(state, checkpoint_path(checkpoints, updater.num_steps_done))
    delete_old_checkpoints(checkpoints, keep=_KEEP_CHECKPOINTS)


def _evaluate(folder: Path, job: _Job, updater: Updater, events: Events) -> Evaluation:
    detector = updater.inference_module()
    detect = torch_detect(detector, postprocess_parameters(job.recipe), job.device)
    evaluation, results = evaluate(
        detect,
        job.val_set,
        image_hw=detector.image_hw,  # type: ignore[arg-type]  # Module attributes are untyped
        batch_size=_EVALUATION_BATCH,
        workers=job.recipe.data.workers,
    )
    write_results(results, folder / "eval" / "coco_instances_results.json")
    events.wrote("evaluated", ap=evaluation.ap, ap50=evaluation.ap50)
    events.say(modelzoo_line(evaluation))
    events.pause()
    return evaluation


def _write_record(folder: Path, job: _Job, events: Events, evaluation: Evaluation | None) -> None:
    subject = _subject(job)
    subject["checkpoint_sha256"] = file_sha256(list_checkpoints(folder / "checkpoints")[-1])
    metrics = events.totals()
    if evaluation is not None:
        metrics |= evaluation.numbers()
    record = build_record("train", metrics=metrics, subject=subject, conditions=_conditions(job))
    write_record(record, folder / "record.json")


def _subject(job: _Job) -> dict[str, Any]:
    recipe = job.recipe
    return {
        "detector": recipe.detector.name,
        "width": recipe.detector.width,
        "recipe": recipe.name,
        "recipe_digest": recipe_digest(recipe),
        "reference": list(recipe.reference),
        "data_digest": job.train_set.digest,
        "val_digest": job.val_set.digest,
    }


def _conditions(job: _Job) -> dict[str, Any]:
    recipe = job.recipe
    return {
        **job.device.describe(),
        "devices": recipe.devices,
        "global_batch": recipe.global_batch,
        "epochs": recipe.schedule.epochs,
        "steps": job.plan.num_steps,
        "seed": recipe.seed,
        "train_images": len(job.samples),
        "val_images": len(job.val_set.samples),
        "scope": "global",
        "window": "whole run without the first log interval, data loading included, evaluation excluded",
    }
