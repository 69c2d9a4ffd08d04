"""The verb `bench device`: one command that makes a machine's rows, whatever kind it is of.

Both detectors, inference and training steps, in each precision that the device has, and batches
that double until they no longer help or no longer fit. Weights and images are generated and stay on
the device's side of the loader, so this is the device and its software alone; a run's throughput is
`bench train`'s to measure. What has not been reached when the time is up is named, not guessed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from tabulate import tabulate

from suite.bench.calm import Watch
from suite.bench.ceiling import Ceiling, measure_ceiling
from suite.bench.device_rows import FEWEST_RUNS, Subject, Timed, open_subject
from suite.device import Device, Precision, build_device, cpu_has_bf16
from suite.errors import MissingEnvironment
from suite.progress import Progress
from suite.records import Record, build_record

Mode = Literal["infer", "train"]

DETECTORS = ("ssd_r34", "retinanet_r50_fpn")
_BATCHES = (1, 4, 16, 64, 256, 1024)
# A larger batch has to be worth it.
_GAIN = 1.03
_MODES: tuple[Mode, ...] = ("infer", "train")


@dataclass(frozen=True)
class _Group:
    detector: str
    mode: Mode
    precision: Precision

    def __str__(self) -> str:
        return f"{self.detector} {self.mode} {self.precision}"


@dataclass(frozen=True)
class _Sweep:
    """What was measured of a group; `ended` says why it ended before batches stopped helping."""

    subject: Subject
    found: list[Timed]
    ended: str = ""


def bench_device(kind: str = "auto", *, minutes: float = 8.0, strict: bool = True) -> Record:
    """Measure one device and return its record, with a row for each batch.

    Args:
        kind: cpu, cuda, npu or auto.
        minutes: that it may take; shared out among what is measured.
        strict: see `build_device`.

    Raises:
        MissingEnvironment: the device is unusable.
    """
    started = time.perf_counter()
    device = build_device(kind, "fp32", strict=strict)  # type: ignore[arg-type]  # checked by click
    groups = _list_groups(device)
    watch = Watch()
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    ceilings = {precision: _find_ceiling(device, precision) for precision in _precisions(device)}
    progress = Progress(len(groups), label="bench device")
    for done, group in enumerate(groups):
        progress.update(done, str(group))
        left = started + 60 * minutes - time.perf_counter()
        if left <= 0:
            notes.append(f"not measured, the time was up: {group}")
            continue
        watch.look()
        try:
            sweep = _measure_group(group, device, left / (len(groups) - done))
            ceiling = ceilings[group.precision]
            rows += [_build_row(group, sweep.subject, timed, ceiling) for timed in sweep.found]
            notes += [sweep.ended] if sweep.ended else []
        except MissingEnvironment as error:
            notes.append(f"{group}: {error}")
    progress.close()
    calm = watch.finish()
    if not rows:
        raise MissingEnvironment(f"nothing could be measured: {'; '.join(notes)}")
    metrics = {
        f"ceiling_tflops_{precision}": ceiling.best / 1e12
        for precision, ceiling in ceilings.items()
    }
    return build_record(
        "bench-device",
        metrics={**metrics, "seconds": time.perf_counter() - started},
        subject={"detectors": list(DETECTORS), "images": "generated", "weights": "random"},
        conditions={**device.describe(), "devices": 1, "minutes": minutes, **calm.as_conditions()},
        notes=[*notes, *calm.notes()],
        rows=rows,
    )


def format_rows(record: Record) -> str:
    """Render the rows as a table of at most 80 columns."""
    cells = [
        (
            row["subject"]["detector"],
            row["kind"].removeprefix("bench-"),
            row["conditions"]["precision"],
            row["conditions"]["batch"],
            f"{row['metrics']['images_per_second']:,.4g}",
            f"{row['metrics']['latency_ms_p50']:,.4g}",
            f"{row['metrics']['model_flop_utilisation']:.0%}",
        )
        for row in record["rows"]
    ]
    headers = ("detector", "what", "prec.", "batch", "images/s", "ms", "of ceiling")
    table = tabulate(cells, headers, disable_numparse=True, colalign=("left",) * 3 + ("right",) * 4)
    name = record["hardware"]["device"]
    return "\n".join([f"{name}, {record['metrics']['seconds']:.0f} s", table, *record["notes"]])


def _precisions(device: Device) -> tuple[Precision, ...]:
    if device.kind == "cpu":
        return ("fp32", "bf16") if cpu_has_bf16() else ("fp32",)
    return ("fp32", "bf16", "fp16")


def _list_groups(device: Device) -> list[_Group]:
    """Return what is measured, the cheaper detector first."""
    found = product(DETECTORS, _MODES, _precisions(device))
    return [_Group(*one) for one in found]


def _find_ceiling(device: Device, precision: Precision) -> Ceiling:
    return measure_ceiling(_in_precision(device, precision))


def _in_precision(device: Device, precision: Precision) -> Device:
    return build_device(
        device.kind, precision, index=device.torch_device.index or 0, strict=device.strict
    )


def _measure_group(group: _Group, device: Device, seconds: float) -> _Sweep:
    """Measure growing batches until they do not help, do not fit, or the time is up."""
    ends = time.perf_counter() + seconds
    subject = open_subject(group.detector, _in_precision(device, group.precision))
    measure = subject.infer if group.mode == "infer" else subject.train
    found: list[Timed] = []
    for batch in _BATCHES:
        if found and time.perf_counter() + batch / found[-1].images_per_second * FEWEST_RUNS > ends:
            return _Sweep(subject, found, f"{group}: no time for batches from {batch} on")
        try:
            found.append(measure(batch, (ends - time.perf_counter()) / 2))
        except MissingEnvironment as error:
            if not found:
                raise
            return _Sweep(subject, found, f"{group}: batch {batch} does not fit ({error})")
        best_before = max((one.images_per_second for one in found[:-1]), default=0.0)
        if found[-1].images_per_second < _GAIN * best_before:
            break
    return _Sweep(subject, found)


def _build_row(group: _Group, subject: Subject, timed: Timed, ceiling: Ceiling) -> dict[str, Any]:
    flops = subject.flops_per_image(group.mode)
    return {
        "kind": f"bench-{group.mode}",
        "subject": {"detector": group.detector, "width": 1, "dataset": "generated"},
        "conditions": {
            **subject.device.describe(),
            "runtime": f"torch {subject.device.kind}",
            "batch": timed.batch,
            "devices": 1,
            "image_hw": list(subject.image_hw),
            "n": timed.runs,
            "scope": "global",
            "window": "a batch of generated images, without loading",
            "ceiling": ceiling.source,
        },
        "metrics": {
            "images_per_second": timed.images_per_second,
            "latency_ms_p50": 1000 * timed.seconds,
            "flops_per_image": flops,
            "model_flop_utilisation": flops * timed.images_per_second / ceiling.best,
            "peak_memory_bytes": timed.peak_memory_bytes,
            "energy_j_per_image": timed.joules_per_image,
            "detections_per_image": timed.detections_per_image,
        },
    }
