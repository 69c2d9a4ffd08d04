"""`bench train --vs`: which of two recipes, or two forms of one, trains faster.

Both are open at once, and their windows are measured in blocks, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from suite.bench.calm import Watch
from suite.bench.roofs_windows import Rig, Window, opened_rig, time_model, time_whole
from suite.bench.stable import NUM_BLOCKS, interleave, judge, steps_a_block
from suite.bench.train import Blocks, describe_window
from suite.errors import UsageError
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.training.job import describe_conditions, describe_subject, explaining_step, opened_job


def compare_training(
    a: Recipe, b: Recipe, *, steps: int = 10, warmup: int = 3, strict_device: bool = True
) -> Record:
    """Measure the training of two recipes in turn, end to end and the model alone.

    Rates are in images a second: recipes may have batches of different sizes.

    Args:
        steps, warmup: as in `bench_train` with `stable`.

    Raises:
        UsageError: one of them is for several devices.
        SuiteError: as `train`.
    """
    for recipe in (a, b):
        if recipe.devices > 1:
            raise UsageError(
                f"--vs: recipe {recipe.name} is for {recipe.devices} devices, and a comparison "
                "runs on one; pass --devices 1"
            )
    watch = Watch()
    with ExitStack() as stack:
        rigs = [
            _open(stack, recipe, steps=steps_a_block(steps), warmup=warmup, strict=strict_device)
            for recipe in (a, b)
        ]
        whole, model = _measure(rigs, watch)
        described = [
            {**describe_conditions(rig.job), **describe_window(rig, NUM_BLOCKS)} for rig in rigs
        ]
    calm = watch.finish()
    judged = judge(*(_seconds_per_image(blocks) for blocks in whole))
    alone = judge(*(_seconds_per_image(blocks) for blocks in model))
    return build_record(
        "bench-compare",
        metrics={
            **_rates("a", whole[0], model[0]),
            **_rates("b", whole[1], model[1]),
            **judged.ratio.as_metrics("ratio"),
            **alone.ratio.as_metrics("model_only_ratio"),
        },
        subject={
            name: describe_subject(rig.job) | {"conditions": conditions}
            for name, rig, conditions in zip("ab", rigs, described, strict=True)
        },
        conditions={
            **described[0],
            **calm.as_conditions(),
            "winner": judged.describe_winner(),
        },
        notes=calm.notes(),
    )


def _open(stack: ExitStack, recipe: Recipe, *, steps: int, warmup: int, strict: bool) -> Rig:
    job = stack.enter_context(opened_job(recipe, strict_device=strict))
    stack.enter_context(explaining_step(job))
    return stack.enter_context(opened_rig(job, steps=steps, warmup=warmup))


def _measure(rigs: list[Rig], watch: Watch) -> tuple[list[Blocks], list[Blocks]]:
    """Return the blocks of both, end to end and of the model alone."""
    looked = partial(_look_and_time, watch)
    kinds: list[Callable[[], Window]] = [partial(looked, rig) for rig in rigs]
    kinds += [partial(time_model, rig) for rig in rigs]
    images = [rig.job.recipe.global_batch for rig in rigs]
    found = interleave(kinds, num_blocks=NUM_BLOCKS)
    whole, model = (
        [Blocks(windows, number) for windows, number in zip(half, images, strict=True)]
        for half in (found[:2], found[2:])
    )
    return whole, model


def _look_and_time(watch: Watch, rig: Rig) -> Window:
    watch.look()
    return time_whole(rig)


def _seconds_per_image(blocks: Blocks) -> list[float]:
    return [seconds / blocks.images for seconds in blocks.by_block()]


def _rates(name: str, whole: Blocks, model: Blocks) -> dict[str, Any]:
    speed = f"{name}_images_per_second"
    return whole.rate().as_metrics(speed) | model.rate().as_metrics(f"{speed}_model_only")
