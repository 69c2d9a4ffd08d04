"""The verb `train`: from a recipe to a run folder with checkpoints, metrics and a record."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from suite.errors import Stopped
from suite.events import Events, LogFormat
from suite.launch.faults import failing, faults_of_rank
from suite.launch.worker import Worker
from suite.recipe import Recipe
from suite.run_folder import create_run_folder, in_use
from suite.training.bad_samples import BadSamples
from suite.training.guard import LossGuard
from suite.training.job import (
    Job,
    build_trainee,
    cached,
    explaining_step,
    open_batches,
    opened_job,
)
from suite.training.loop import StopSignal, catch_stop_signals, run_steps
from suite.training.outcome import (
    Run,
    evaluate_run,
    save_checkpoint,
    save_periodically,
    say_final_lines,
    write_run_record,
    write_start,
)
from suite.training.resume import find_interrupted, load_state, publish_run, restore

__all__ = ["train"]


@dataclass(frozen=True, kw_only=True)
class _Manner:
    """How a run talks and ends; nothing here changes what is trained."""

    evaluate_at_end: bool
    notes: Sequence[str]
    log_format: LogFormat
    started: float = field(default_factory=time.perf_counter)


def train(
    recipe: Recipe,
    *,
    output: Path,
    resume: Path | None = None,
    allow_changed: Collection[str] = (),
    evaluate_at_end: bool = True,
    notes: Sequence[str] = (),
    worker: Worker | None = None,
    strict_device: bool = False,
    log_format: LogFormat = "plain",
) -> Path:
    """Train a detector and return the run folder.

    Where several processes train together, each of them calls this with the same arguments, but
    for `worker`. The main rank writes; one that goes on with a run after a rank was lost takes the
    run folder of before.

    Args:
        recipe: what to train; everything that changes a number is in it.
        output: where `<recipe>-<n>` is created.
        resume: a run folder to continue at the exact sample instead; see `suite.training.resume`
            for what may differ in its recipe.
        allow_changed: keys of the recipe in which a resumed run may differ from what it was.
        notes: sentences for the record, such as what flags changed in the recipe.
        evaluate_at_end: judge the final weights on the val split.
        worker: which of the ranks this process is; None: the only one.
        strict_device: see `build_device`.
        log_format: see `Events`.

    Raises:
        SuiteError: bad data, recipe or device (nothing is written then); a loss that is not finite;
            a signal, after saving.
        RankLost: another rank went or no longer answers.
    """
    manner = _Manner(evaluate_at_end=evaluate_at_end, notes=notes, log_format=log_format)
    with opened_job(recipe, worker, strict_device=strict_device) as job:
        resume = resume or find_interrupted(job.ranks)
        state = None if resume is None else load_state(resume, job, allow_changed=allow_changed)
        with cached(job) as ready:
            folder = resume or _open_folder(output, job)
            with in_use(folder) if job.ranks.is_main else nullcontext():
                _train(ready, folder, state=state, manner=manner)
    return folder


def _open_folder(output: Path, job: Job) -> Path:
    """Make the run folder, once, and let ranks that are started again find it."""
    ranks = job.ranks
    folder = Path(ranks.share(lambda: str(create_run_folder(output, job.recipe.name))))
    if ranks.is_main:
        publish_run(ranks, folder)
    return folder


def _train(job: Job, folder: Path, *, state: dict[str, Any] | None, manner: _Manner) -> None:
    """Train in a run folder, from the start or from a state that was saved there."""
    with explaining_step(job):
        detector, learner, updater = build_trainee(job, load_weights=state is None)
    first_step = 0 if state is None else state["step"]
    with (
        catch_stop_signals() as stop_signal,
        _open_events(job, folder, first_step, manner.log_format) as events,
        explaining_step(job),
    ):
        run = Run(
            folder=folder,
            job=job,
            detector=detector,
            updater=updater,
            events=events,
            bad_samples=_count_bad_samples(job, events),
            loss_guard=LossGuard(job.device.precision),
        )
        _begin(run, state)
        run_steps(
            run.bad_samples.watch(open_batches(job, first_step=first_step)),
            device=job.device,
            learner=failing(learner, faults_of_rank(job.ranks.rank), first_step=first_step),
            updater=updater,
            events=events,
            loss_guard=run.loss_guard,
            after_step=partial(_after_step, run, stop_signal),
        )
        stopping = partial(_stop_if_asked, run, stop_signal)
        evaluation = evaluate_run(run, progress=stopping) if manner.evaluate_at_end else None
        if job.ranks.is_main:
            write_run_record(run, evaluation, manner.notes)
            say_final_lines(run, evaluation, seconds=time.perf_counter() - manner.started)


def _open_events(job: Job, folder: Path, first_step: int, log_format: LogFormat) -> Events:
    return Events(
        folder,
        num_steps=job.plan.num_steps,
        first_step=first_step,
        global_batch=job.recipe.global_batch,
        log_every=job.recipe.log_every_steps,
        ranks=job.ranks,
        log_format=log_format,
    )


def _begin(run: Run, state: dict[str, Any] | None) -> None:
    if state is not None:
        restore(state, run)
    elif run.job.ranks.is_main:
        write_start(run)
    run.job.ranks.mark(run.updater.num_steps_done)


def _after_step(run: Run, stop_signal: StopSignal, step: int) -> None:
    """Save, evaluate or stop where it is time; all ranks find the same."""
    plan, ranks = run.job.plan, run.job.ranks
    ranks.mark(step)
    asked = ranks.any_before(stop_signal() is not None)
    last = step == plan.num_steps
    judged = not last and plan.evaluate_every and step % plan.evaluate_every == 0
    if asked or last or judged:
        save_checkpoint(run)
    elif step % plan.checkpoint_every == 0:
        save_periodically(run)
    elif step % run.job.recipe.log_every_steps == 0:
        run.bad_samples.settle()
    if asked:
        ranks.wait_for_all()  # until it is saved: who ends first has the others ended
        raise _stopped_by(stop_signal() or signal.SIGTERM, run)
    if judged:
        evaluate_run(run, progress=partial(_stop_if_asked, run, stop_signal))
        run.detector.train()


def _stop_if_asked(run: Run, stop_signal: StopSignal, _done: int) -> None:
    """End an evaluation; everything before it is saved."""
    number = stop_signal()
    if number is not None:
        raise _stopped_by(number, run)


def _count_bad_samples(job: Job, events: Events) -> BadSamples:
    return BadSamples(
        limit=job.recipe.data.bad_sample_limit,
        num_samples=len(job.samples),
        say=events.say,
        ranks=job.ranks,
    )


def _stopped_by(number: int, run: Run) -> Stopped:
    name, step = signal.Signals(number).name, run.updater.num_steps_done
    return Stopped(
        f"stopped by {name} after step {step}; saved. Go on with --resume {run.folder}",
        signal_number=number,
    )
