"""The verb `bench train`: training throughput of a recipe, its roofs, and where a step's time goes.

Windows are of the same length on every rank, and a rate is all ranks' images over the time of the
slowest: nobody begins a step before all have done theirs.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from statistics import mean
from typing import Any

from suite.bench.breakdown import PARTS, count_flops, measure_parts
from suite.bench.calm import Watch
from suite.bench.ceiling import Ceiling, measure_ceiling
from suite.bench.roofs import Roofs, explain_roofs, find_bound
from suite.bench.roofs_windows import (
    Rig,
    Window,
    merge_ranks,
    opened_rig,
    time_loader,
    time_model,
    time_whole,
)
from suite.bench.stable import NUM_BLOCKS, Interval, find_interval, interleave, steps_a_block
from suite.bench.timing import summarise_ms
from suite.launch.ranks import Ranks
from suite.launch.worker import Worker
from suite.provenance import describe_machine
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.training.job import describe_conditions, describe_subject, explaining_step, opened_job

_SPEED = "images_per_second"


@dataclass(frozen=True)
class Blocks:
    """Windows of one kind, in each step of which all ranks together had `images`."""

    windows: list[Window]
    images: int

    def by_block(self) -> list[float]:
        """Return the mean seconds of a step, by window."""
        return [mean(window.step_seconds) for window in self.windows]

    def by_step(self) -> list[float]:
        """Return the seconds of every step."""
        return list(chain.from_iterable(window.step_seconds for window in self.windows))

    def rate(self) -> Interval:
        """Return images a second, over all ranks."""
        return find_interval(self.by_block()).inverse(self.images)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Everything about one recipe; of all ranks, `parts` and `ceiling` their mean."""

    whole: Blocks
    model: Blocks
    loader: Blocks
    parts: Mapping[str, float]
    flops: float | None
    ceiling: Ceiling
    peak_memory: int


def bench_train(
    recipe: Recipe,
    *,
    steps: int = 10,
    warmup: int = 3,
    stable: bool = False,
    worker: Worker | None = None,
    strict_device: bool = True,
) -> Record:
    """Measure training steps of a recipe on its own data and device; nothing is saved.

    Three windows of `steps` steps: end to end, on one batch that stays on the device, and the
    loader without training. Then as many steps again, with the device waited for between the parts
    of each.

    Args:
        steps: counted steps of a window; with `stable` of all its blocks together,
            three in each at least.
        warmup: uncounted steps before each window; where the loader is in it, enough to use up what
            was loaded ahead.
        stable: measure the windows in blocks, in turn, and give intervals.

    Raises:
        SuiteError: as `train`.
    """
    num_blocks = NUM_BLOCKS if stable else 1
    watch = Watch()
    with (
        opened_job(recipe, worker, strict_device=strict_device) as job,
        explaining_step(job),
        opened_rig(job, steps=steps_a_block(steps) if stable else steps, warmup=warmup) as rig,
    ):
        measured = _measure(rig, watch, num_blocks=num_blocks)
        roofs = _build_roofs(rig, measured)
    calm = watch.finish()
    if job.ranks.num_ranks > 1:
        calm = replace(calm, others=None)  # the other ranks are among them
    return build_record(
        "bench-train",
        metrics=_summarise(rig, measured, stable=stable),
        subject=describe_subject(job),
        conditions={
            **describe_conditions(job),
            **describe_window(rig, num_blocks),
            "bound": find_bound(roofs),
            "ceiling": measured.ceiling.source,
            "energy_sensor": measured.whole.windows[0].sensor,
            **calm.as_conditions(),
        },
        notes=[explain_roofs(roofs), *calm.notes()],
        series={"step_ms": [1000 * seconds for seconds in measured.whole.by_step()]},
    )


def describe_window(rig: Rig, num_blocks: int) -> dict[str, Any]:
    """Return what a record says about what was counted."""
    job, steps = rig.job, rig.steps
    each = f"{steps} steps after {rig.drained}"
    return {
        "scope": "global",
        "window": f"{each if num_blocks == 1 else f'{num_blocks} blocks of {each}'}, "
        "data loading included",
        "data_included": True,
        "n": steps * num_blocks,
        "blocks": num_blocks,
        "warmup": rig.drained,
        "batch": rig.rank_batch,
        "workers": job.recipe.data.workers,
        "peak_memory_of": "one process, resident"
        if job.device.kind == "cpu"
        else "one device, allocated",
    }


def _measure(rig: Rig, watch: Watch, *, num_blocks: int) -> _Measured:
    def end_to_end() -> Window:
        watch.look()
        return time_whole(rig)

    ranks, device = rig.job.ranks, rig.job.device
    before = measure_ceiling(device)
    device.reset_peak_memory()
    kinds: list[Callable[[], Window]] = [
        end_to_end,
        partial(time_model, rig),
        partial(time_loader, rig),
    ]
    whole, model, loader = (
        Blocks(merge_ranks(windows, ranks), rig.job.recipe.global_batch)
        for windows in interleave(kinds, num_blocks=num_blocks)
    )
    parts = measure_parts(rig)
    peak = max(ranks.gather(device.peak_memory_bytes()))
    flops = count_flops(rig)
    ceiling = before.raised_to(measure_ceiling(device))
    return _Measured(
        whole=whole,
        model=model,
        loader=loader,
        parts=_average(ranks, parts),
        flops=flops,
        ceiling=Ceiling(**_average(ranks, vars(ceiling))),
        peak_memory=peak,
    )


def _average(ranks: Ranks, numbers: Mapping[str, float]) -> dict[str, float]:
    of_ranks = ranks.gather(dict(numbers))
    return {name: mean(one[name] for one in of_ranks) for name in numbers}


def _build_roofs(rig: Rig, measured: _Measured) -> Roofs:
    job = rig.job
    on_machines = Counter(job.ranks.gather(socket.gethostname()))
    model, whole = measured.model.rate(), measured.whole.rate()
    return Roofs(
        loader=measured.loader.rate().median,
        model=model.median,
        whole=whole.median,
        ranks=job.ranks.num_ranks,
        ranks_here=max(on_machines.values()),
        workers=job.recipe.data.workers,
        cores=describe_machine()["cores"] or 1,
        on_cpu=job.device.kind == "cpu",
        cache=job.recipe.data.cache,
        level=model.overlaps(whole),
    )


def _summarise(rig: Rig, measured: _Measured, *, stable: bool) -> dict[str, float | int | None]:
    whole = measured.whole
    metrics: dict[str, float | int | None] = {}
    for suffix in ("", "_model_only", "_loader_only"):
        rate = {"": whole, "_model_only": measured.model}.get(suffix, measured.loader).rate()
        name = _SPEED + suffix
        metrics |= rate.as_metrics(name) if stable else {name: rate.median}
    return {
        **metrics,
        f"{_SPEED}_per_device": whole.rate().median / rig.job.ranks.num_ranks,
        **_utilisation(rig, measured),
        **_summarise_parts(measured.parts),
        "padding_share": mean(window.padding for window in whole.windows),
        "peak_memory_bytes": measured.peak_memory,
        "energy_j_per_image": _joules_per_image(whole),
        **summarise_ms(whole.by_step(), prefix="step"),
        **summarise_ms(measured.model.by_step(), prefix="model_step"),
    }


def _utilisation(rig: Rig, measured: _Measured) -> dict[str, float | None]:
    """Return the operations of an image and the share of the ceiling that they make up.

    They are those of the batch that stays; other batches may be padded to other sizes.
    """
    ceiling, flops = measured.ceiling, measured.flops
    found: dict[str, float | None] = {
        "flops_per_image": flops,
        "ceiling_tflops": ceiling.best / 1e12,
        "ceiling_matrix_product_tflops": ceiling.products / 1e12,
        "ceiling_convolution_tflops": ceiling.convolutions / 1e12,
        "model_flop_utilisation": None,
        "model_flop_utilisation_model_only": None,
    }
    if flops is not None:
        share_of_one = flops / rig.job.ranks.num_ranks / ceiling.best
        resident = rig.resident.images.pixels[0, 0].numel()
        larger = mean(window.pixels for window in measured.whole.windows) / resident
        found["model_flop_utilisation"] = share_of_one * larger * measured.whole.rate().median
        found["model_flop_utilisation_model_only"] = share_of_one * measured.model.rate().median
    return found


def _summarise_parts(parts: Mapping[str, float]) -> dict[str, float]:
    whole = sum(parts.values())
    return {
        **{f"{part}_ms": 1000 * parts[part] for part in PARTS},
        "marked_step_ms": 1000 * whole,
        "data_share": parts["waiting"] / whole,
    }


def _joules_per_image(whole: Blocks) -> float | None:
    joules = [window.joules for window in whole.windows if window.joules is not None]
    if len(joules) < len(whole.windows):
        return None
    return sum(joules) / (whole.images * len(whole.by_step()))
