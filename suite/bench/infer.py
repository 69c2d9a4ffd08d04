"""The verb `bench infer`: how fast a checkpoint or a graph detects, and which of two is faster."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from suite.bench.calm import Calm, Watch
from suite.bench.candidate import Block, Candidate, InferenceRequest, Measure, open_candidate
from suite.bench.stable import NUM_BLOCKS, find_interval, interleave, judge, tell_winner
from suite.bench.timing import summarise_ms
from suite.data.assembly import load_dataset
from suite.data.formats import Location
from suite.data.images import read_image_hw
from suite.data.sample import ImageFile, Sample
from suite.data.synthetic import write_synthetic
from suite.records import Record, build_record

_NUM_GENERATED = 16
_NULL_RUNS = 20
_SPEED = "images_per_second"


@dataclass(frozen=True)
class _Measured:
    candidate: Candidate
    blocks: list[Block]

    def seconds(self, stage: str | None = None) -> list[float]:
        """Return what each run took, in one stage or as a whole."""
        of_blocks = (block.stages[stage] if stage else block.totals() for block in self.blocks)
        return list(chain.from_iterable(of_blocks))

    def by_block(self, stage: str | None = None) -> list[float]:
        """Return the median run of each block; offline the mean, where only the sum counts."""
        average = np.mean if self.candidate.request.scenario == "offline" else np.median
        of_blocks = (block.stages[stage] if stage else block.totals() for block in self.blocks)
        return [float(average(seconds)) for seconds in of_blocks]

    def per_image(self, stage: str | None = None) -> list[float]:
        """Return the seconds of one image in each block."""
        return [seconds / self.candidate.request.batch for seconds in self.by_block(stage)]


def bench_infer(request: InferenceRequest) -> Record:
    """Measure a model and return the record.

    Raises:
        InputError: the model or an image is unusable.
        MissingEnvironment: the device or its execution provider is absent.
        UsageError: precision, runtime or threads are asked for where they have no effect.
    """
    with _samples_of(request.images) as samples:
        candidate = open_candidate(request, samples)
        candidate.device.reset_peak_memory()
        (measured,), calm = _measure([candidate], stable=request.stable)
        floor = _measure_null(candidate)
        conditions = {**_describe(measured), **calm.as_conditions()}
    return build_record(
        "bench-infer",
        metrics=_summarise(measured) | floor,
        subject=candidate.loaded.subject,
        conditions=conditions,
        notes=calm.notes() if request.stable else (),
        series=_series(measured),
    )


def compare_infer(a: InferenceRequest, b: InferenceRequest) -> Record:
    """Measure two models, or two ways to run one, in turn; return the record.

    Raises:
        as `bench_infer`.
    """
    with _samples_of(a.images) as samples:
        candidates = [open_candidate(request, samples) for request in (a, b)]
        measured, calm = _measure(candidates, stable=True)
        conditions = {**_describe(measured[0]), **calm.as_conditions()}
    metrics: dict[str, float] = {}
    for name, one in zip("ab", measured, strict=True):
        of_side = _intervals(one) | {"detections_per_image": _detections_per_image(one)}
        metrics |= {f"{name}_{key}": value for key, value in of_side.items()}
    whole = judge(*(one.per_image() for one in measured))
    metrics |= whole.ratio.as_metrics("ratio")
    if a.scenario == "single-stream":
        network = judge(*(one.per_image("infer") for one in measured))
        metrics |= network.ratio.as_metrics("infer_ratio")
    return build_record(
        "bench-compare",
        metrics=metrics,
        subject={name: _describe_side(one) for name, one in zip("ab", measured, strict=True)},
        conditions=conditions | {"winner": whole.describe_winner()},
        notes=calm.notes(),
    )


def format_comparison(record: Record) -> str:
    """Render both sides as a table, and which of them is faster as a sentence."""
    metrics, winner = record["metrics"], record["conditions"]["winner"]
    facts = ("file", "device", "runtime", "precision", "threads", "batch")
    rows = [[name, *(str(record["subject"][side][name]) for side in "ab")] for name in facts]
    single = record["conditions"]["scenario"] == "single-stream"
    labels = {"images_per_second": "images/s, infer stage" if single else "images/s, whole pass"}
    if single:
        labels = {"latency_ms_p50": "latency ms p50, all stages"} | labels
    for name, label in labels.items():
        rows.append([label, *(_with_bounds(metrics, f"{side}_{name}") for side in "ab")])
    rows.append(
        ["detections", *(f"{metrics[f'{side}_detections_per_image']:.1f}" for side in "ab")]
    )
    table = tabulate(rows, headers=["", "a", "b"], disable_numparse=True)
    said = f"b runs at {_with_bounds(metrics, 'ratio')} of the speed of a; {tell_winner(winner)}"
    if "infer_ratio" in metrics:
        said += f"\nthe infer stage alone: {_with_bounds(metrics, 'infer_ratio')}"
    return "\n".join([table, "", said, *record["notes"]])


def _with_bounds(metrics: dict[str, float], name: str) -> str:
    bounds = f"{metrics[f'{name}_low']:.4g} to {metrics[f'{name}_high']:.4g}"
    return f"{metrics[name]:.4g} ({bounds})"


@contextmanager
def _samples_of(images: Sequence[Path]) -> Iterator[list[Sample]]:
    with tempfile.TemporaryDirectory() as scratch:
        yield _photo_samples(images) or _generated_samples(Path(scratch))


def _measure(candidates: Sequence[Candidate], *, stable: bool) -> tuple[list[_Measured], Calm]:
    num_blocks = NUM_BLOCKS if stable else 1
    watch = Watch()
    with ExitStack() as stack:
        measures = [
            partial(
                _look_and_measure,
                watch,
                stack.enter_context(candidate.measuring()),
                -(-candidate.request.runs // num_blocks),
            )
            for candidate in candidates
        ]
        blocks = interleave(measures, num_blocks=num_blocks)
    found = [_Measured(*pair) for pair in zip(candidates, blocks, strict=True)]
    return found, watch.finish()


def _look_and_measure(watch: Watch, measure: Measure, runs: int) -> Block:
    watch.look()
    return measure(runs)


def _measure_null(candidate: Candidate) -> dict[str, float]:
    """Price the harness: the same without a network."""
    with candidate.null().measuring() as measure:
        block = measure(_NULL_RUNS)
    if candidate.request.scenario == "offline":
        seconds = float(np.mean(block.stages["whole"]))
        return {"images_per_second_null": candidate.request.batch / seconds}
    return {"harness_ms_p50": 1000 * float(np.median(block.stages["infer"]))}


def _summarise(measured: _Measured) -> dict[str, float | int | None]:
    request = measured.candidate.request
    single = request.scenario == "single-stream"
    metrics: dict[str, float | int | None] = {}
    # Offline nobody waits for a batch: what lies between two of them is no latency.
    metrics |= summarise_ms(measured.seconds(), prefix="latency" if single else "batch_interval")
    intervals = _intervals(measured)
    # Of a single block there is no interval; of several the median is that of their medians.
    metrics |= intervals if request.stable else {_SPEED: intervals[_SPEED]}
    if single:
        for stage in ("pre", "infer", "post"):
            metrics |= summarise_ms(measured.seconds(stage), prefix=stage)
        metrics[f"{_SPEED}_end_to_end"] = request.batch / float(np.median(measured.by_block()))
    metrics["energy_j_per_image"] = _energy_per_image(measured)
    metrics["detections_per_image"] = _detections_per_image(measured)
    metrics["peak_memory_bytes"] = measured.candidate.device.peak_memory_bytes()
    return metrics


def _intervals(measured: _Measured) -> dict[str, float]:
    """Return throughput and, of single-stream, latency with their bounds."""
    single = measured.candidate.request.scenario == "single-stream"
    speed = find_interval(measured.per_image("infer" if single else None)).inverse(1)
    if not single:
        return speed.as_metrics(_SPEED)
    latency = find_interval([1000 * seconds for seconds in measured.by_block()])
    return latency.as_metrics("latency_ms_p50") | speed.as_metrics(_SPEED)


def _num_images(measured: _Measured) -> int:
    return len(measured.seconds()) * measured.candidate.request.batch


def _detections_per_image(measured: _Measured) -> float:
    return sum(block.num_detections for block in measured.blocks) / _num_images(measured)


def _energy_per_image(measured: _Measured) -> float | None:
    joules = [block.energy.joules for block in measured.blocks]
    known = [value for value in joules if value is not None]
    return sum(known) / _num_images(measured) if len(known) == len(joules) else None


def _photo_samples(paths: Sequence[Path]) -> list[Sample]:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return [Sample(0, ImageFile(path), read_image_hw(path), *nothing) for path in paths]


def _generated_samples(scratch: Path) -> list[Sample]:
    folder = scratch / "generated"
    write_synthetic(folder, num_train=1, num_val=_NUM_GENERATED, seed=0)
    annotations = folder / "annotations" / "instances_val.json"
    location = Location(format="coco", annotations=annotations, images=folder / "val")
    return list(load_dataset(location).samples)


def _series(measured: _Measured) -> dict[str, list[float]]:
    single = measured.candidate.request.scenario == "single-stream"
    name = "latency_ms" if single else "batch_interval_ms"
    return {name: [1000 * seconds for seconds in measured.seconds()]}


def _digest(samples: Sequence[Sample]) -> str:
    """Return a digest of the images as they are encoded, whatever their order."""
    digests = sorted(hashlib.sha256(_encoded(sample)).hexdigest() for sample in samples)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _encoded(sample: Sample) -> bytes:
    assert isinstance(sample.image, ImageFile)
    return sample.image.read()


def _describe(measured: _Measured) -> dict[str, Any]:
    request, loaded = measured.candidate.request, measured.candidate.loaded
    window = {
        "single-stream": "infer stage, median over the counted runs",
        "offline": "whole pass, loading at the same time, after what was loaded ahead",
    }
    return {
        **measured.candidate.device.describe(),
        "scenario": request.scenario,
        "precision": loaded.precision,
        "runtime": loaded.runtime,
        "batch": request.batch,
        "devices": 1,
        "image_hw": list(loaded.sizing.nominal_hw),
        "n": len(measured.seconds()),
        "blocks": len(measured.blocks),
        "warmup": request.warmup,
        "threads": _threads(measured.candidate),
        "images": "given" if request.images else "generated",
        "images_sha256": _digest(measured.candidate.samples),
        "num_images": len(measured.candidate.samples),
        "scope": "global",
        "window": window[request.scenario],
        "energy_sensor": measured.blocks[0].energy.sensor,
        **({"workers": request.workers} if request.scenario == "offline" else {}),
    }


def _describe_side(measured: _Measured) -> dict[str, Any]:
    loaded = measured.candidate.loaded
    return loaded.subject | {
        "file": measured.candidate.request.model.name,
        "device": measured.candidate.device.name(),
        "image_hw": list(loaded.sizing.nominal_hw),
        "precision": loaded.precision,
        "runtime": loaded.runtime,
        "threads": _threads(measured.candidate),
        "batch": measured.candidate.request.batch,
    }


def _threads(candidate: Candidate) -> int | str:
    """Return the CPU threads in effect; runtimes of graphs do not tell their own choice."""
    if candidate.loaded.runtime.startswith("torch"):
        return torch.get_num_threads()
    return candidate.request.threads or "default"
