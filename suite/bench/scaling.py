"""The verb `bench scaling`: what a recipe's step would take on many devices, on paper.

The figures of one device are given or come from a record of `bench train`; gradients are counted on
the recipe's detector; links are stated. Images per device stay, so the global batch grows with the
devices, and with it the learning rate by the recipe's rule: what that does to training stands in
the notes, since no table of speeds shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from suite.bench.step_time import (
    BUCKET_LIMITS,
    MIB,
    Network,
    Work,
    explain_step,
    predict_step,
    split_into_buckets,
)
from suite.errors import UsageError
from suite.recipe import Recipe
from suite.records import load_record
from suite.report.reference import load_reference
from suite.schedule import peak_learning_rate, total_steps, warmup_steps

UNVERIFIED = "a model, unverified on Ascend hardware"

# Of the published runs of SSD and RetinaNet, MLPerf's with 4,096 images a step has the fewest: 28,
# in 93 epochs and with another rule for the learning rate than a recipe's (row mlperf_train-032).
_FEWEST_STEPS_AN_EPOCH = 28
_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class ScalingRequest:
    """What to work out.

    Attributes:
        images_per_second: of one device.
        backward_share: of the computing time.
        rank_batch: images a device and step; None: the recipe's.
        bucket_mib: of gradients; None: as torch's DistributedDataParallel fills them by default.
        loader_images_per_second: of the loaders of one machine; None: never in the way.
        lost_s: lost in each step of several devices.
        dataset_size: training images, where the recipe does not state its nominal epoch.
        measured: devices and images a second of a measured run, to be explained.
    """

    images_per_second: float
    network: Network
    devices: Sequence[int] = (1, 8, 64, 512, 1024)
    backward_share: float = 2 / 3
    rank_batch: int | None = None
    bucket_mib: float | None = None
    loader_images_per_second: float | None = None
    lost_s: float = 0.0
    dataset_size: int | None = None
    measured: tuple[int, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of devices; times in milliseconds."""

    devices: int
    machines: int
    global_batch: int
    learning_rate: float
    steps_per_epoch: int | None
    all_reduce_ms: float
    exposed_ms: float
    step_ms: float
    images_per_second: float
    efficiency: float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The answer.

    Attributes:
        buckets: bytes of gradients that leave together, in that order.
        notes: what the growing batch means for training.
        check: how a measured run compares, None where none was given.
    """

    recipe: str
    rank_batch: int
    trained_parameters: int
    buckets: tuple[int, ...]
    step_ms: float
    backward_ms: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    check: dict[str, float | None] | None


def predict_scaling(recipe: Recipe, request: ScalingRequest, *, reference: Path) -> Scaling:
    """Work out the step time of a recipe for each number of devices.

    Args:
        reference: folder of published results; the largest batch of this detector is looked up.
    """
    rank_batch = request.rank_batch or recipe.global_batch // recipe.devices
    gradients = count_gradients(recipe)
    work = _build_work(request, rank_batch, gradients)
    rows = tuple(_build_row(recipe, request, work, rank_batch, n) for n in request.devices)
    return Scaling(
        recipe=recipe.name,
        rank_batch=rank_batch,
        trained_parameters=sum(gradients) // _FLOAT32,
        buckets=tuple(work.buckets),
        step_ms=1000 * (work.forward_s + work.backward_s),
        backward_ms=1000 * work.backward_s,
        rows=rows,
        notes=(*_note_schedule(recipe, request, rows), *_note_published(recipe, reference, rows)),
        check=_check_measured(request, work, rank_batch),
    )


def rate_of_record(path: Path, recipe: Recipe) -> tuple[float, int]:
    """Return images a second and images a step of a `bench train` record of one device.

    Raises:
        InputError: it is not a record.
        UsageError: it is of something else.
    """
    record = load_record(path)
    conditions = record["conditions"]
    rate = record["metrics"].get("images_per_second_model_only")
    if record["kind"] != "bench-train" or not rate:
        raise UsageError(f"{path}: is of kind {record['kind']}; wanted is one of `bench train`")
    if conditions.get("devices") != 1:
        raise UsageError(f"{path}: is of {conditions.get('devices')} devices; wanted is one of 1")
    if record["subject"].get("detector") != recipe.detector.name:
        raise UsageError(
            f"{path}: is of {record['subject'].get('detector')}, the recipe of "
            f"{recipe.detector.name}"
        )
    return float(rate), int(conditions["global_batch"])


def count_gradients(recipe: Recipe) -> list[int]:
    """Return the bytes of each trained parameter's gradient, those that are ready first in front.

    Gradients are float32 in every precision: only the forward pass runs in a reduced one.
    """
    import torch

    from suite.checkpoint import build_recipe_detector

    with torch.device("meta"):
        detector = build_recipe_detector(recipe)
    sizes = [p.numel() * _FLOAT32 for p in detector.parameters() if p.requires_grad]
    return sizes[::-1]


def scaling_to_dict(scaling: Scaling, request: ScalingRequest) -> dict[str, Any]:
    """Return the answer, what it was asked with and what it is worth, as plain data."""
    return {"status": UNVERIFIED, "asked": asdict(request), **asdict(scaling)}


def _build_work(request: ScalingRequest, rank_batch: int, gradients: Sequence[int]) -> Work:
    computed = rank_batch / request.images_per_second
    loader = request.loader_images_per_second
    limits = BUCKET_LIMITS if request.bucket_mib is None else (int(request.bucket_mib * MIB),)
    return Work(
        forward_s=computed * (1 - request.backward_share),
        backward_s=computed * request.backward_share,
        buckets=split_into_buckets(gradients, limits),
        loading_s=0.0 if loader is None else rank_batch / loader,
        lost_s=request.lost_s,
    )


def _build_row(
    recipe: Recipe, request: ScalingRequest, work: Work, rank_batch: int, devices: int
) -> Row:
    step = predict_step(work, request.network, devices=devices)
    batch = rank_batch * devices
    rate = batch / step.step_s
    alone = rank_batch / predict_step(work, request.network, devices=1).step_s
    images = recipe.schedule.nominal_epoch_images or request.dataset_size
    return Row(
        devices=devices,
        machines=-(-devices // request.network.devices_per_machine),
        global_batch=batch,
        learning_rate=peak_learning_rate(recipe.schedule, global_batch=batch),
        steps_per_epoch=None if images is None else images // batch,
        all_reduce_ms=1000 * step.all_reduce_s,
        exposed_ms=1000 * step.exposed_s,
        step_ms=1000 * step.step_s,
        images_per_second=rate,
        efficiency=rate / (devices * alone),
    )


def _note_schedule(recipe: Recipe, request: ScalingRequest, rows: Sequence[Row]) -> list[str]:
    notes = []
    for row in rows:
        steps = row.steps_per_epoch
        if steps is None:
            continue
        told = f"{row.devices:,} devices: {steps} steps an epoch"
        warmup = _count_warmup(recipe, request, row.global_batch) if steps else None
        if warmup is not None:
            told += f", {warmup[1]} in all, which the warm-up of {warmup[0]} outlasts"
        elif steps >= _FEWEST_STEPS_AN_EPOCH:
            continue
        notes.append(f"{told}; do not train so, give each device fewer images (--batch)")
    return notes


def _count_warmup(recipe: Recipe, request: ScalingRequest, batch: int) -> tuple[int, int] | None:
    """Return the steps of the warm-up and of the run where the run ends within the warm-up."""
    images = recipe.schedule.nominal_epoch_images or request.dataset_size or 0
    of_run = {"global_batch": batch, "dataset_size": images}
    steps = warmup_steps(recipe.schedule, **of_run), total_steps(recipe.schedule, **of_run)
    return steps if steps[0] >= steps[1] else None


def _note_published(recipe: Recipe, reference: Path, rows: Sequence[Row]) -> list[str]:
    """Name the largest batch that anybody published an AP of this detector for."""
    trained = [
        row
        for row in load_reference(reference)
        if row.detector == recipe.detector.name and row.ap is not None and row.global_batch
    ]
    if not trained:
        return []
    largest = max(trained, key=lambda row: row.global_batch or 0)
    beyond = [str(row.devices) for row in rows if row.global_batch > (largest.global_batch or 0)]
    if not beyond:
        return []
    return [
        f"{', '.join(beyond)} devices: more than {largest.global_batch:,} images a step, the most "
        f"with a published AP of this detector (row {largest.row_id})"
    ]


def _check_measured(
    request: ScalingRequest, work: Work, rank_batch: int
) -> dict[str, float | None] | None:
    if request.measured is None:
        return None
    devices, rate = request.measured
    network = request.network
    measured_s = rank_batch * devices / rate
    why = explain_step(work, network, devices=devices, measured_step_s=measured_s)
    inside = network.inside.bytes_per_second / 1e9
    return {
        "devices": devices,
        "images_per_second": rate,
        "efficiency": rate / (devices * request.images_per_second),
        "step_ms": 1000 * measured_s,
        "model_step_ms": 1000 * predict_step(work, network, devices=devices).step_s,
        "inside_gb_per_second_overlapped": why.overlapped and why.overlapped * inside,
        "inside_gb_per_second_after_backward": why.after_backward and why.after_backward * inside,
        "lost_ms": None if why.lost_s is None else 1000 * why.lost_s,
    }
