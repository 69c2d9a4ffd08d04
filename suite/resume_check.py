"""The verb `resume-check`: does a run that was killed go on as if nothing had happened?

The recipe is trained twice for its first steps, each time as a command of its own: once calmly,
once killed (SIGKILL) before a random step and resumed. Both are then stopped after the same step,
and everything that their checkpoints hold is compared bit by bit, and so are the losses on the way.
With one or two ranks on CPUs nothing may differ. With more, torch sums gradients in another order
in the first step of each process, and on other devices kernels may add in another order each time.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from suite.checkpoint import load_newest_checkpoint
from suite.data import load_split
from suite.data.batching import trainable_samples
from suite.errors import RankLost, SuiteError, UsageError
from suite.launch.faults import VARIABLE
from suite.recipe import Recipe, write_recipe
from suite.run_folder import create_run_folder
from suite.same_runs import compare_runs, find_run
from suite.schedule import steps_per_epoch, total_steps

_SAVES: Final = 4


@dataclass(frozen=True)
class ResumeCheck:
    """What came out.

    Attributes:
        num_steps: of both runs.
        killed_before: the step that the second run was killed before.
        resumed_from: the step that it went on from.
        num_compared: tensors and values.
        difference: where the two first differ; None: nowhere.
        folder: with both runs; deleted where they are equal.
    """

    num_steps: int
    killed_before: int
    resumed_from: int
    num_compared: int
    difference: str | None
    folder: Path


def resume_check(recipe: Recipe, *, num_steps: int, seed: int, output: Path) -> ResumeCheck:
    """Train twice, kill and resume once, and compare.

    Args:
        num_steps: at least 3.
        seed: of the step that is killed before.
        output: where a folder for both runs is made.

    Raises:
        UsageError: the recipe's run is too short.
        SuiteError: a run fails for another reason.
    """
    checked, every = _with_saves(recipe, num_steps)
    killed = random.Random(seed).randrange(every + 2, num_steps + 1)  # noqa: S311 - no secret
    folder = create_run_folder(output, f"resume-check-{recipe.name}")
    path = folder / "recipe.yaml"
    write_recipe(checked, path)
    stop = f"term@rank*:step{num_steps}"
    calm = _run(path, folder / "calm", fault=stop, ends=128 + signal.SIGTERM)
    _run(path, folder / "killed", fault=f"kill9@rank0:step{killed}", ends=None)
    hurt = find_run(folder / "killed")
    resumed_from = load_newest_checkpoint(hurt / "checkpoints")["step"]
    _run(path, folder / "killed", fault=stop, ends=128 + signal.SIGTERM, resume=hurt)
    num_compared, difference = compare_runs(calm, hurt)
    if difference is None:
        shutil.rmtree(folder)
    return ResumeCheck(num_steps, killed, resumed_from, num_compared, difference, folder)


def format_resume_check(done: ResumeCheck) -> str:
    """Render the answer in one line."""
    if done.difference is not None:
        return f"resume: DIFFERS at {done.difference}; both runs are in {done.folder}"
    return (
        f"resume: EXACT ({done.num_steps} steps, killed before step {done.killed_before}, resumed "
        f"from step {done.resumed_from}; {done.num_compared} tensors and values are equal)"
    )


def _with_saves(recipe: Recipe, num_steps: int) -> tuple[Recipe, int]:
    """Return a recipe that saves a few times within the steps, and after how many each."""
    samples = trainable_samples(load_split(recipe.data, "train"), use_crowd=recipe.data.use_crowd)
    of_run = {"global_batch": recipe.global_batch, "dataset_size": len(samples)}
    whole = total_steps(recipe.schedule, **of_run)
    if num_steps >= whole:
        raise UsageError(
            f"--steps {num_steps}: recipe {recipe.name} ends after {whole}; both runs are stopped "
            "before that, give fewer"
        )
    every = max(1, num_steps // _SAVES)
    epoch = steps_per_epoch(recipe.schedule, **of_run)
    return replace(recipe, checkpoint_every_epochs=every / epoch, eval_every_epochs=None), every


def _run(
    recipe: Path, output: Path, *, fault: str, ends: int | None, resume: Path | None = None
) -> Path:
    """Train in a process of its own that is to end by a fault; return the run folder.

    Args:
        ends: exit code that is to come; None: killed.
    """
    command = [sys.executable, "-m", "suite", "train", str(recipe), "--output", str(output)]
    command += ["--no-eval", *(["--resume", str(resume)] if resume else [])]
    environment = os.environ | {VARIABLE: fault}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    killed = done.returncode in (-signal.SIGKILL, RankLost.exit_code)  # the latter by a launcher
    if done.returncode != ends and not (ends is None and killed):
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise SuiteError(f"the run with {fault} ended with {done.returncode}:\n{last}")
    return find_run(output)
