"""Parts of a step and its operations: delays that are put in, and counts on paper."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.bench.breakdown import PARTS, count_flops, measure_parts
from suite.bench.roofs_windows import (
    Rig,
    Window,
    merge_ranks,
    opened_rig,
    time_loader,
    time_model,
    time_whole,
)
from suite.data.collating import Batch
from suite.data.synthetic import write_synthetic
from suite.deploy.cost import count_detector
from suite.launch.ranks import Ranks
from suite.recipe import Recipe, load_recipe
from suite.training.job import opened_job
from tests.small_runs import RETINANET, SMALL

DELAY = 0.2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_synthetic(folder / "data", num_train=8, num_val=1, seed=0)
    return folder / "data"


@pytest.fixture(scope="module")
def recipe(data: Path) -> Recipe:
    return load_recipe("demo", {**SMALL, "data.root": str(data)})


@pytest.fixture
def rig(recipe: Recipe) -> Iterator[Rig]:
    with opened_job(recipe) as job, opened_rig(job, steps=2, warmup=1) as rig:
        yield rig


def slow_stream(rig: Rig) -> Rig:
    def slowly() -> Iterator[Batch]:
        for batch in rig.stream:
            time.sleep(DELAY)
            yield batch

    return replace(rig, stream=slowly())


class SlowBackward(torch.autograd.Function):
    """The identity, whose gradient takes its time."""

    @staticmethod
    def forward(_context: object, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(_context: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # torch takes any
        time.sleep(DELAY)
        return gradient


def test_a_delay_shows_in_its_part_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = measure_parts(rig)
    assert tuple(calm) == PARTS
    assert calm["exchange"] == 0  # there is no other rank
    learner, update, move = rig.learner, rig.updater.guard.step, Batch.to

    def slow_learner(batch: Batch) -> dict[str, torch.Tensor]:
        time.sleep(DELAY)
        return learner(batch)

    def slow_end(batch: Batch) -> dict[str, torch.Tensor]:
        return {name: SlowBackward.apply(loss) for name, loss in list(learner(batch).items())[:1]}

    slow = {
        "waiting": measure_parts(slow_stream(rig)),
        "forward": measure_parts(replace(rig, learner=slow_learner)),
        "backward": measure_parts(replace(rig, learner=slow_end)),
    }
    monkeypatch.setattr(
        rig.updater.guard, "step", lambda **more: (time.sleep(DELAY), update(**more))[1]
    )
    slow["optimizer"] = measure_parts(rig)
    monkeypatch.setattr(
        Batch, "to", lambda batch, place: (time.sleep(DELAY), move(batch, place))[1]
    )
    monkeypatch.setattr(rig.updater.guard, "step", update)
    slow["moving"] = measure_parts(rig)
    for part, parts in slow.items():
        assert parts[part] >= DELAY
        others = {name: seconds for name, seconds in parts.items() if name != part}
        assert max(others.values()) < DELAY, (part, parts)


def test_the_windows_differ_by_the_loader(rig: Rig) -> None:
    slow = slow_stream(rig)
    whole, model, loader = time_whole(slow), time_model(slow), time_loader(slow)
    assert min(whole.step_seconds) >= DELAY
    assert min(loader.step_seconds) >= DELAY
    assert min(model.step_seconds) < DELAY
    assert {len(window.step_seconds) for window in (whole, model, loader)} == {2}
    assert (whole.padding, whole.pixels) == (0, 300 * 300)  # stretched: nothing to pad
    assert (whole.joules, whole.sensor) == (None, "none")


def test_ranks_together_are_as_fast_as_the_slowest() -> None:
    class TwoRanks(Ranks):
        def gather(self, value: Any) -> list[Any]:
            other = {"step_seconds": [1, 3], "padding": 0.3, "pixels": 20, "joules": 5}
            return [value, [{**other, "sensor": "NVML"}]]

    mine = Window([2.0, 1.0], padding=0.1, pixels=10.0, joules=2.0, sensor="NVML")
    (both,) = merge_ranks([mine], TwoRanks())
    assert both == Window([1, 3], padding=0.2, pixels=15, joules=7.0, sensor="NVML")
    (unknown,) = merge_ranks([replace(mine, joules=None)], TwoRanks())
    assert unknown.joules is None


def test_operations_are_three_forward_passes_but_for_the_first_layer(rig: Rig) -> None:
    """The gradients of a convolution cost as much as it does, each: of weights and of its input."""
    forward = count_detector(rig.job.recipe, (300, 300)).flops
    assert forward is not None
    width = rig.detector.state_dict()["backbone.conv1.weight"].shape[0]
    first = 2 * width * 3 * 7 * 7 * 150 * 150
    assert count_flops(rig) == pytest.approx(3 * forward - first, rel=0.01)


def test_padding_is_what_no_picture_covers(data: Path) -> None:
    changes = {**SMALL, **RETINANET, "data.root": str(data), "schedule.milestones": "[1]"}
    with (
        opened_job(load_recipe("demo", changes)) as job,
        opened_rig(job, steps=2, warmup=1) as rig,
    ):
        shares, sizes = [], []
        taken: list[Batch] = []

        def listen() -> Iterator[Batch]:
            for batch in rig.stream:
                taken.append(batch)
                yield batch

        window = time_whole(replace(rig, stream=listen()))
        for batch in taken[-2:]:
            blank = (batch.images.pixels == 0).all(dim=1)
            shares.append(blank.float().mean().item())
            sizes.append(blank[0].numel())
    assert window.padding == pytest.approx(sum(shares) / 2, abs=0.02)
    assert 0 < window.padding < 0.5
    assert window.pixels == sum(sizes) / 2
