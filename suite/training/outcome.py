"""What a run leaves behind: its start, checkpoints, evaluations and the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import Detector
from suite.checkpoint import checkpoint_path, delete_old_checkpoints, write_checkpoint
from suite.data import build_workers
from suite.errors import Diverged
from suite.evaluation import evaluate
from suite.evaluation.coco import Evaluation, modelzoo_line
from suite.evaluation.coco_files import write_results
from suite.events import DIVERGENCE_REMEDY, Events
from suite.files import file_sha256
from suite.modelzoo_log import final_lines
from suite.recipe import recipe_to_dict, write_recipe
from suite.records import build_record, write_record
from suite.run_folder import NUM_CHECKPOINTS_KEPT
from suite.runtime import postprocess_parameters, torch_detect
from suite.training.bad_samples import BadSamples
from suite.training.guard import LossGuard
from suite.training.job import Job, describe_conditions, describe_subject
from suite.training.optim import Updater

_EVALUATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of a job, and its folder."""

    folder: Path
    job: Job
    detector: Detector
    updater: Updater
    events: Events
    bad_samples: BadSamples
    loss_guard: LossGuard


def write_start(run: Run) -> None:
    """Write the resolved recipe and the manifest: what is about to be run, on what."""
    job = run.job
    write_recipe(job.recipe, run.folder / "recipe.yaml")
    manifest = build_record(
        "manifest",
        metrics={},
        subject=describe_subject(job),
        conditions=describe_conditions(job),
        notes=[f"training boxes {rule}: {n}" for rule, n in job.train_set.repairs.items()],
    )
    write_record(manifest, run.folder / "manifest.json")


def save_periodically(run: Run) -> None:
    """Save a checkpoint unless steps are being skipped: it would push out one that is still good.

    All ranks call it.
    """
    _, in_a_row = run.updater.guard.read()
    if not in_a_row:
        save_checkpoint(run)


def save_checkpoint(run: Run) -> None:
    """Write the state after the last step and let go of the oldest one; all ranks call it.

    Raises:
        Diverged: a weight is not finite; nothing is written.
    """
    run.bad_samples.settle()
    events = run.events.state()
    if not run.job.ranks.is_main:
        return
    state = run.updater.state()
    for name, tensor in state["weights"].items():
        if not tensor.isfinite().all():
            raise Diverged(
                f"'{name}' is no longer finite after step {state['step']}, which is not saved; "
                f"{DIVERGENCE_REMEDY}"
            )
    dataset = run.job.train_set
    state["events"] = events
    state["recipe"] = recipe_to_dict(run.job.recipe)
    state["class_names"] = list(dataset.class_names)
    state["category_ids"] = list(dataset.category_ids)
    state["data_digest"] = dataset.digest
    state["loss_guard"] = run.loss_guard.state()
    state["bad_samples"] = run.bad_samples.state()
    checkpoints = run.folder / "checkpoints"
    write_checkpoint(state, checkpoint_path(checkpoints, state["step"]))
    delete_old_checkpoints(checkpoints, keep=NUM_CHECKPOINTS_KEPT)


def evaluate_run(run: Run, *, progress: Callable[[int], None]) -> Evaluation:
    """Judge the weights as they are on the val split and keep the detections.

    Args:
        progress: called with the number of images done; may raise to end it.
    """
    job = run.job
    judged = run.updater.inference_detector()
    job.ranks.share_buffers(judged)
    detect = torch_detect(judged, postprocess_parameters(job.recipe), job.device)

    def advance(done: int) -> None:
        job.ranks.mark(run.updater.num_steps_done)
        run.events.evaluating(done, len(job.val_set.samples))
        progress(done)

    with run.events.paused():
        evaluation, results = evaluate(
            detect,
            job.val_set,
            sizing=job.sizing,
            batch_size=_evaluation_batch(job),
            workers=build_workers(job.recipe.data),
            progress=advance,
            ranks=job.ranks,
        )
        if job.ranks.is_main:
            write_results(results, run.folder / "eval" / "coco_instances_results.json")
    run.events.wrote("evaluated", ap=evaluation.ap, ap50=evaluation.ap50)
    run.events.say(modelzoo_line(evaluation))
    return evaluation


def _evaluation_batch(job: Job) -> int:
    """Return the images a call; large ones as many as memory was enough for in training."""
    if not job.sizing.keep_ratio:
        return _EVALUATION_BATCH
    return min(_EVALUATION_BATCH, job.recipe.global_batch // job.recipe.devices)


def write_run_record(run: Run, evaluation: Evaluation | None, notes: Sequence[str]) -> None:
    """Write the record that completes a run."""
    checkpoint = checkpoint_path(run.folder / "checkpoints", run.job.plan.num_steps)
    subject = describe_subject(run.job) | {"checkpoint_sha256": file_sha256(checkpoint)}
    conditions = describe_conditions(run.job) | {
        "scope": "global",
        "window": "all log intervals but the first after each start, data loading included, "
        "evaluation excluded",
        "bad_samples": run.bad_samples.state(),
        **({} if evaluation is None else {"referee": evaluation.referee}),
    }
    metrics = run.events.totals() | ({} if evaluation is None else evaluation.numbers())
    record = build_record(
        "train", metrics=metrics, subject=subject, conditions=conditions, notes=notes
    )
    write_record(record, run.folder / "record.json")


def say_final_lines(run: Run, evaluation: Evaluation | None, *, seconds: float) -> None:
    """Say the figures that test farms look for at the end of a log.

    Args:
        seconds: of this call, from the first look at the data.
    """
    lines = final_lines(
        images_per_second=run.events.totals().get("images_per_second"),
        accuracy=None if evaluation is None else evaluation.ap,
        seconds=seconds,
    )
    for line in lines:
        run.events.say(line)
