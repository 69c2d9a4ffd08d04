"""Continuing a run: which state, and whether it is still the same run."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import Any

from suite.checkpoint import list_checkpoints, load_newest_checkpoint, recipe_of_checkpoint
from suite.errors import InputError, UsageError
from suite.launch.ranks import Ranks
from suite.recipe import differing_keys
from suite.run_folder import open_run_folder
from suite.training.job import Job
from suite.training.outcome import Run

# Where a run computes and reads, what it writes when, and how much it puts up with.
_MAY_DIFFER = {
    "data.root",
    "data.workers",
    "data.timeout_s",
    "data.cache",
    "data.on_bad_sample",
    "data.bad_sample_limit",
    "device",
    "devices",
    "static_shapes",
    "launch.join_timeout_s",
    "launch.step_timeout_s",
    "log_every_steps",
    "checkpoint_every_epochs",
    "eval_every_epochs",
    "reference",
}


def publish_run(ranks: Ranks, folder: Path) -> None:
    """Let ranks that are started again find the run folder."""
    ranks.publish("run-folder", str(folder.absolute()))


def find_interrupted(ranks: Ranks) -> Path | None:
    """Return the run folder that ranks which were started again go on with.

    None where they are not, or where nothing was saved.
    """
    if ranks.attempt == 0:
        return None
    folder = ranks.share(lambda: ranks.published("run-folder"))
    if folder is None or not ranks.share(lambda: _has_checkpoints(Path(folder))):
        return None
    return Path(folder)


def _has_checkpoints(folder: Path) -> bool:
    return bool(list_checkpoints(folder / "checkpoints"))


def load_state(folder: Path, job: Job, *, allow_changed: Collection[str] = ()) -> dict[str, Any]:
    """Read the newest sound checkpoint of a run that is to go on with a job.

    Args:
        allow_changed: keys of the recipe that may differ all the same.

    Raises:
        InputError: it is no run folder, or has no sound checkpoint.
        UsageError: the run is complete, was another one, or had other data.
    """
    state = load_newest_checkpoint(open_run_folder(folder) / "checkpoints")
    job.ranks.require_equal({"the newest sound checkpoint": f"step {state['step']}"})
    if (folder / "record.json").exists():
        raise UsageError(f"--resume {folder}: this run is complete, it has its record.json")
    changes = _find_changes(state, job)
    if "global_batch" in allow_changed:
        raise UsageError(
            f"--resume {folder}: steps of another global_batch are not those of this run; start a "
            "new one from its weights with --set detector.weights=CHECKPOINT"
        )
    refused = {k: v for k, v in changes.items() if k not in _MAY_DIFFER and k not in allow_changed}
    if refused:
        raise UsageError(
            f"--resume {folder}: was trained by another recipe ({'; '.join(refused.values())}); "
            f"pass the run's own: {folder / 'recipe.yaml'}, or mean it: "
            f"{' '.join(f'--allow-changed {key}' for key in refused)}"
        )
    if state["data_digest"] != job.train_set.digest:
        raise UsageError(
            f"--resume {folder}: the training annotations under {job.recipe.data.root} have changed"
        )
    return state


def restore(state: dict[str, Any], run: Run) -> None:
    """Put a loaded state in place and record the resumption, with what differs from before.

    Raises:
        InputError: it does not fit.
    """
    try:
        run.updater.restore(state)
        run.events.restore(state["events"])
        # Checkpoints of before bad samples and the guard existed have neither.
        run.bad_samples.restore(state.get("bad_samples", []))
        run.loss_guard.restore(state.get("loss_guard", {"losses": []}))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"the checkpoint of step {state['step']} does not fit its own recipe; delete it"
        ) from error
    run.events.wrote("resumed", **_find_changes(state, run.job))


def _find_changes(state: dict[str, Any], job: Job) -> dict[str, str]:
    stored = recipe_of_checkpoint(state, source="the checkpoint")
    return {
        key: f"{key} {attrgetter(key)(stored)}, now {attrgetter(key)(job.recipe)}"
        for key in differing_keys(stored, job.recipe)
    }
