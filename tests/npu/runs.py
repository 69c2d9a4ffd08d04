"""Small training runs on the simulated NPU and on the CPU, and what they leave."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from suite.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint
from suite.data.synthetic import write_synthetic
from suite.device import Device
from suite.recipe import load_recipe, write_recipe
from suite.training import train

# 8 images, 2 a step and device, 2 epochs: 8 steps on one device, 4 on two.
_SMALL: Final = {
    "detector.width": "0.125",
    "global_batch": "2",
    "schedule.base_batch": "2",
    "schedule.epochs": "2",
    "schedule.decay_epochs": "2",
    "schedule.warmup_epochs": "0.5",
    "checkpoint_every_epochs": "0.5",
    "log_every_steps": "1",
    "postprocess.score_threshold": "0.01",
    "precision": "fp32",
    "static_shapes": "true",
    "data.workers": "0",
    "device": "cpu",
}
# SSD's rate is so low because higher ones make what the order of additions differs by grow: the
# memory layout of the CPU is not that of an NPU.
_DETECTORS: Final = {
    "ssd": {"schedule.base_lr": "0.0002"},
    "retinanet": {
        "schedule.base_lr": "0.002",
        "detector.name": "retinanet_r18_fpn",
        "detector.frozen_stages": "1",
        "resize.mode": "fixed",
        "resize.short_side": "64",
        "resize.long_side": "96",
    },
}
NUM_STEPS: Final = 8


@dataclass(frozen=True)
class Runs:
    """Starts runs; each is made once for all tests of a session that ask for it.

    Args:
        suite: runs the command line where there is a simulated NPU.
    """

    suite: Callable[..., subprocess.CompletedProcess[str]]
    once: Callable[[str, Callable[[], Any]], Any]
    folders: pytest.TempPathFactory

    def recipe(self, name: str) -> Path:
        """Return the recipe `ssd` or `retinanet`, with its data beside it; it asks for the CPU."""
        return Path(self.once("recipes", self._write_recipes)) / f"{name}.yaml"

    def train(self, name: str, *arguments: str, **variables: str) -> Path:
        """Train with arguments in processes of its own, and return the run folder."""
        folder, _ = self.train_and_listen(name, *arguments, **variables)
        return folder

    def train_and_listen(self, name: str, *arguments: str, **variables: str) -> tuple[Path, str]:
        """Train as `train`; return the run folder and what was said."""

        def run() -> list[str]:
            output = self.folders.mktemp(name)
            words = [self.recipe(name), *arguments, "--output", output]
            finished = self.suite("train", *words, **variables)
            assert finished.returncode == 0, finished.stderr
            return [str(output / f"{name}-1"), finished.stderr]

        words = [name, *arguments, *map("=".join, variables.items())]
        folder, said = self.once(re.sub(r"[^\w.=]+", "-", " ".join(words)), run)
        return Path(folder), said

    def train_on_cpu(self, name: str, *, npu_layout: bool = False) -> Path:
        """Train on the CPU, in this process.

        Args:
            npu_layout: have images and weights lie in memory as they do on an NPU, so that even the
                order of additions is the same.
        """

        def run() -> str:
            recipe = load_recipe(str(self.recipe(name)))
            with pytest.MonkeyPatch.context() as patch:
                if npu_layout:
                    patch.setattr(Device, "memory_format", torch.contiguous_format)
                return str(train(recipe, output=self.folders.mktemp(name)))

        return Path(self.once(f"{name}-in-process-{npu_layout}", run))

    def _write_recipes(self) -> str:
        folder = self.folders.mktemp("recipes")
        write_synthetic(folder / "data", num_train=8, num_val=4, seed=3)
        for name, changes in _DETECTORS.items():
            own = {"name": name, "data.root": str(folder / "data")}
            write_recipe(load_recipe("demo", _SMALL | changes | own), folder / f"{name}.yaml")
        return str(folder)


def read_lines(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run: Path) -> dict[int, tuple[float, ...]]:
    """Return the losses by step; a step that was skipped has none."""
    lines = [line for line in read_lines(run) if "loss" in line]
    return {line["step"]: (line["classification"], line["box"], line["loss"]) for line in lines}


def state_of(run: Path, step: int | None = None) -> dict[str, Any]:
    """Return a checkpoint of a run, by default the newest."""
    newest = list_checkpoints(run / "checkpoints")[-1]
    return load_checkpoint(newest if step is None else checkpoint_path(run / "checkpoints", step))


def cut(run: Path, target: Path, *, step: int) -> Path:
    """Copy a run as it would stand had it been killed soon after the checkpoint of a step."""
    shutil.copytree(run, target)
    (target / "record.json").unlink()
    for path in list_checkpoints(target / "checkpoints"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return target


def assert_same_losses(ours: Path, theirs: Path, *, digits: int = 5) -> None:
    """The two runs logged the same losses at the same steps, to a number of digits."""
    first, second = losses_of(ours), losses_of(theirs)
    assert first.keys() == second.keys() != set()
    for step, losses in first.items():
        assert losses == pytest.approx(second[step], rel=10.0**-digits), f"step {step}"


def assert_close(ours: Any, theirs: Any, *, within: float = 0.0, where: str = "") -> None:
    """Nested tensors and plain values are equal; tensors to within a difference."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in ours.items():
            assert_close(value, theirs[key], within=within, where=f"{where}.{key}")
    elif isinstance(ours, list):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_close(*pair, within=within, where=f"{where}[{index}]")
    elif isinstance(ours, Tensor):
        assert (ours.double() - theirs.double()).abs().max() <= within, where
    else:
        assert ours == theirs, where
