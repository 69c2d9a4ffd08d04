"""The verb `train`: from a recipe to a run folder with checkpoints, metrics and a record."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.errors import Stopped
from suite.events import Events
from suite.recipe import Recipe
from suite.run_folder import create_run_folder
from suite.training.bad_samples import BadSamples
from suite.training.job import Job, build_trainee, cached, open_batches, prepare_job
from suite.training.loop import catch_stop_signals, run_steps
from suite.training.outcome import (
    Run,
    evaluate_run,
    save_checkpoint,
    write_run_record,
    write_start,
)
from suite.training.resume import load_state, restore

__all__ = ["train"]


def train(
    recipe: Recipe,
    *,
    output: Path,
    resume: Path | None = None,
    evaluate_at_end: bool = True,
    notes: Sequence[str] = (),
) -> Path:
    """Train a detector and return the run folder.

    Args:
        recipe: what to train; everything that changes a number is in it.
        output: where `<recipe>-<n>` is created.
        resume: a run folder to continue at the exact sample instead; see `suite.training.resume`
            for what may differ in its recipe.
        notes: sentences for the record, such as what flags changed in the recipe.
        evaluate_at_end: judge the final weights on the val split.

    Raises:
        SuiteError: bad data, recipe or device (nothing is written then); a loss that is not finite;
            a signal, after saving.
    """
    job = prepare_job(recipe)
    state = None if resume is None else load_state(resume, job)
    with cached(job) as ready:
        folder = resume or create_run_folder(output, recipe.name)
        _train(ready, folder, state=state, evaluate_at_end=evaluate_at_end, notes=notes)
    return folder


def _train(
    job: Job,
    folder: Path,
    *,
    state: dict[str, Any] | None,
    evaluate_at_end: bool,
    notes: Sequence[str],
) -> None:
    """Train in a run folder, from the start or from a state that was saved there."""
    detector, learner, updater = build_trainee(job, load_weights=state is None)
    plan = job.plan
    with (
        catch_stop_signals() as stop_signal,
        Events(
            folder,
            num_steps=plan.num_steps,
            first_step=0 if state is None else state["step"],
            global_batch=job.recipe.global_batch,
            log_every=job.recipe.log_every_steps,
        ) as events,
    ):
        run = Run(folder, job, updater, events, _count_bad_samples(job, events))
        if state is None:
            write_start(run)
        else:
            restore(state, run)

        def stop_if_asked(_done: int = 0) -> None:
            number = stop_signal()
            if number is not None:
                raise _stopped_by(number, run)

        def after_step(step: int) -> None:
            asked = stop_signal() is not None
            last = step == plan.num_steps
            judged = not last and plan.evaluate_every and step % plan.evaluate_every == 0
            if asked or last or judged or step % plan.checkpoint_every == 0:
                save_checkpoint(run)
            if asked:
                stop_if_asked()
            if judged:
                evaluate_run(run, progress=stop_if_asked)
                detector.train()

        run_steps(
            run.bad_samples.watch(open_batches(job, first_step=updater.num_steps_done)),
            device=job.device,
            learner=learner,
            updater=updater,
            events=events,
            after_step=after_step,
        )
        evaluation = evaluate_run(run, progress=stop_if_asked) if evaluate_at_end else None
        write_run_record(run, evaluation, notes)


def _count_bad_samples(job: Job, events: Events) -> BadSamples:
    limit = job.recipe.data.bad_sample_limit
    return BadSamples(limit=limit, num_samples=len(job.samples), say=events.say)


def _stopped_by(number: int, run: Run) -> Stopped:
    name, step = signal.Signals(number).name, run.updater.num_steps_done
    return Stopped(
        f"stopped by {name} after step {step}; saved. Go on with --resume {run.folder}",
        signal_number=number,
    )
