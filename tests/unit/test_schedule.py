"""The published run's steps and learning rates to the digit, and what holds for any schedule."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import UsageError
from suite.recipe import load_recipe
from suite.recipe_sections import Schedule
from suite.schedule import (
    decay_steps,
    learning_rate,
    milestone_steps,
    peak_learning_rate,
    steps_per_epoch,
    total_steps,
    warmup_steps,
)

PUBLISHED = Schedule(
    epochs=115.2,
    nominal_epoch_images=120_000,
    base_lr=3e-3,
    base_batch=32,
    warmup_epochs=0.8,
    decay_epochs=106.0,
    final_lr_factor=0.01,
)


@pytest.mark.parametrize(
    ("global_batch", "steps"),
    [(256, (468, 374, 49_608, 54_000)), (32, (3_750, 3_000, 397_500, 432_000))],
)
def test_the_published_runs_have_these_steps(global_batch: int, steps: tuple[int, ...]) -> None:
    counts = (steps_per_epoch, warmup_steps, decay_steps, total_steps)
    run = [count(PUBLISHED, global_batch=global_batch, dataset_size=118_287) for count in counts]
    assert tuple(run) == steps


def published_rate(step: int, global_batch: int = 256) -> float:
    return learning_rate(step, PUBLISHED, global_batch=global_batch, dataset_size=118_287)


def test_the_published_log_line_is_met_to_its_last_digit() -> None:
    # The log prints it beside global step 3100, the rate that step 3099 used.
    assert f"{published_rate(3099):.8f}" == "0.02377195"
    assert published_rate(3099) == pytest.approx(0.02377194924, abs=1e-11)


def test_the_published_schedule_at_its_turning_points() -> None:
    assert peak_learning_rate(PUBLISHED, global_batch=256) == 0.024
    assert peak_learning_rate(PUBLISHED, global_batch=32) == 0.003
    assert published_rate(0) == 0.0
    assert published_rate(187) == pytest.approx(0.012)
    assert published_rate(374) == pytest.approx(0.0239967, abs=5e-8)
    assert published_rate(24_804) == pytest.approx(0.024 * 0.505)
    assert {published_rate(step) for step in range(49_608, 54_000, 7)} == {0.024 * 0.01}


def test_epochs_are_counted_in_decimals() -> None:
    schedule = dataclasses.replace(
        PUBLISHED, epochs=0.29, nominal_epoch_images=None, warmup_epochs=0.29
    )
    assert total_steps(schedule, global_batch=1, dataset_size=100) == 29
    assert warmup_steps(schedule, global_batch=1, dataset_size=100) == 29


def test_without_nominal_images_an_epoch_is_the_training_set() -> None:
    schedule = dataclasses.replace(PUBLISHED, epochs=40.0, nominal_epoch_images=None)
    assert steps_per_epoch(schedule, global_batch=16, dataset_size=205) == 12
    assert total_steps(schedule, global_batch=16, dataset_size=205) == 512


def test_no_warm_up_starts_at_the_peak() -> None:
    schedule = dataclasses.replace(PUBLISHED, warmup_epochs=0.0)
    assert learning_rate(0, schedule, global_batch=32, dataset_size=1) == 0.003


def test_runs_without_a_step_are_refused() -> None:
    schedule = dataclasses.replace(PUBLISHED, nominal_epoch_images=None, epochs=0.01)
    with pytest.raises(UsageError, match="global_batch: 16 is more than the 15 images of an epoch"):
        steps_per_epoch(schedule, global_batch=16, dataset_size=15)
    with pytest.raises(UsageError, match=r"schedule\.epochs: 0\.01 is less than one step"):
        total_steps(schedule, global_batch=16, dataset_size=205)


schedules = st.builds(
    Schedule,
    epochs=st.floats(0.5, 50),
    nominal_epoch_images=st.none(),
    base_lr=st.floats(1e-5, 1),
    base_batch=st.integers(1, 64),
    warmup_epochs=st.floats(0, 2),
    decay_epochs=st.floats(2.5, 50),
    final_lr_factor=st.floats(0, 1),
)


@given(schedules, st.integers(1, 64), st.integers(64, 1000))
def test_any_schedule_is_bounded_continuous_and_ends_on_its_floor(
    schedule: Schedule, global_batch: int, dataset_size: int
) -> None:
    run = {"global_batch": global_batch, "dataset_size": dataset_size}
    peak = peak_learning_rate(schedule, global_batch=global_batch)
    warmup, decay = warmup_steps(schedule, **run), decay_steps(schedule, **run)
    steps = sorted({*range(0, decay + 20, 1 + decay // 40), warmup, decay})
    lowest = peak * schedule.final_lr_factor
    for step in steps:
        rate, following = (learning_rate(at, schedule, **run) for at in (step, step + 1))
        assert 0 <= rate <= peak * (1 + 1e-12)
        assert rate >= lowest * (1 - 1e-12) or step < warmup
        assert abs(following - rate) <= largest_change(step, peak, warmup, decay) * (1 + 1e-9)
        assert following <= rate * (1 + 1e-12) or step < warmup
    assert learning_rate(decay, schedule, **run) == pytest.approx(lowest, rel=1e-12)
    assert learning_rate(decay + 12345, schedule, **run) == pytest.approx(lowest, rel=1e-12)


def largest_change(step: int, peak: float, warmup: int, decay: int) -> float:
    """Slope of the line or steepest of the cosine; between them also what the latter fell."""
    slope = peak / warmup if step < warmup else peak * math.pi / (2 * decay)
    fallen = peak * (1 - math.cos(math.pi * warmup / decay)) / 2 if step == warmup - 1 else 0.0
    return slope + fallen


@given(schedules, st.integers(0, 10_000))
def test_the_warm_up_is_a_line_through_zero(schedule: Schedule, step: int) -> None:
    run = {"global_batch": 8, "dataset_size": 1000}
    warmup = warmup_steps(schedule, **run)
    if 0 < step < warmup:
        rate = learning_rate(step, schedule, **run)
        peak = peak_learning_rate(schedule, global_batch=8)
        assert rate == pytest.approx(peak * step / warmup)


# Milestones, as mmdetection's 1x schedule has them

STEPPED = load_recipe("retinanet_r50_fpn_8p").schedule
EIGHT = {"global_batch": 64, "dataset_size": 117_266}  # 1,832 steps an epoch


def stepped_rate(step: int) -> float:
    return learning_rate(step, STEPPED, **EIGHT)


def test_mmdetections_schedule_at_its_turning_points() -> None:
    assert steps_per_epoch(STEPPED, **EIGHT) == 1_832
    assert total_steps(STEPPED, **EIGHT) == 12 * 117_266 // 64
    assert warmup_steps(STEPPED, **EIGHT) == 500
    assert decay_steps(STEPPED, **EIGHT) == 0
    assert milestone_steps(STEPPED, **EIGHT) == [8 * 1_832, 11 * 1_832]
    assert stepped_rate(0) == pytest.approx(0.04 * 0.001)
    assert stepped_rate(250) == pytest.approx(0.04 * (0.001 + 0.999 / 2))
    assert stepped_rate(499) == pytest.approx(0.04 * (1 - 0.999 / 500))
    assert {stepped_rate(step) for step in range(500, 8 * 1_832, 97)} == {0.04}
    assert stepped_rate(8 * 1_832 - 1) == 0.04
    assert stepped_rate(8 * 1_832) == pytest.approx(0.004)
    assert stepped_rate(11 * 1_832 - 1) == pytest.approx(0.004)
    assert stepped_rate(11 * 1_832) == pytest.approx(0.0004)
    assert stepped_rate(10**9) == pytest.approx(0.0004)


@pytest.mark.parametrize(
    ("name", "peak", "milestones"),
    [
        ("retinanet_r50_fpn_1p", 0.005, (8, 11)),
        ("retinanet_r50_fpn_8p", 0.04, (8, 11)),
        ("retinanet_r50_fpn_2x_8p", 0.04, (16, 22)),
        ("retinanet_r50_fpn_multinode", 0.08, (8, 11)),
    ],
)
def test_the_peak_is_scaled_linearly_from_0_01_at_16(
    name: str, peak: float, milestones: tuple[int, ...]
) -> None:
    recipe = load_recipe(name)
    assert (recipe.schedule.base_lr, recipe.schedule.base_batch) == (0.01, 16)
    assert peak_learning_rate(recipe.schedule, global_batch=recipe.global_batch) == peak
    assert recipe.schedule.milestones == milestones


def test_a_milestone_holds_during_the_warm_up_too() -> None:
    schedule = dataclasses.replace(STEPPED, warmup_steps=100, milestones=(1, 2))
    run = {"global_batch": 1, "dataset_size": 30}
    rates = [learning_rate(step, schedule, **run) for step in (29, 30, 59, 60, 99, 100)]
    peak = 0.01 / 16
    line = [0.001 + 0.999 * step / 100 for step in (29, 30, 59, 60, 99)]
    wanted = [line[0], line[1] / 10, line[2] / 10, line[3] / 100, line[4] / 100, 0.01]
    assert rates == pytest.approx([peak * factor for factor in wanted])


def test_milestones_are_counted_in_decimals_of_whole_epochs() -> None:
    schedule = dataclasses.replace(STEPPED, milestones=(0.29, 1.5))
    assert milestone_steps(schedule, global_batch=1, dataset_size=100) == [29, 150]


def test_a_warm_up_may_start_above_zero_before_a_cosine_too() -> None:
    schedule = dataclasses.replace(PUBLISHED, warmup_start=0.1)
    of_run = {"global_batch": 256, "dataset_size": 118_287}
    assert learning_rate(0, schedule, **of_run) == pytest.approx(0.0024)
    assert learning_rate(187, schedule, **of_run) == pytest.approx(0.024 * 0.55)
    assert learning_rate(374, schedule, **of_run) == published_rate(374)


stepped = st.builds(
    Schedule,
    epochs=st.floats(0.5, 50),
    base_lr=st.floats(1e-5, 1),
    base_batch=st.integers(1, 64),
    warmup_steps=st.integers(0, 300),
    warmup_start=st.floats(0, 1),
    milestones=st.lists(st.floats(0.1, 20), min_size=1, max_size=4, unique=True)
    .map(sorted)
    .map(tuple),
)


@given(stepped, st.integers(1, 64), st.integers(64, 1000), st.integers(0, 5000))
def test_any_stepped_schedule_is_a_line_times_tenths(
    schedule: Schedule, global_batch: int, dataset_size: int, step: int
) -> None:
    run = {"global_batch": global_batch, "dataset_size": dataset_size}
    epoch = dataset_size // global_batch
    passed = sum(step >= math.floor(at * epoch + 1e-9) for at in schedule.milestones)
    warmup, start = schedule.warmup_steps or 0, schedule.warmup_start
    warm = start + (1 - start) * step / warmup if step < warmup else 1.0
    peak = schedule.base_lr * global_batch / schedule.base_batch
    assert learning_rate(step, schedule, **run) == pytest.approx(peak * warm * 10.0**-passed)
