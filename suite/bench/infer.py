"""The verb `bench infer`: how fast a checkpoint or a graph detects, and where the time goes.

Every run takes one batch of encoded images through three stages: `pre` decodes and resizes on one
core, `infer` is the whole `Detect` call (normalisation, network, suppression), `post` makes COCO
results. Latency is the sum; images/s is of `infer` alone and of all three, one after the other.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from suite.bench.timing import summarise_ms
from suite.data.assembly import load_dataset
from suite.data.batching import group_by_canvas
from suite.data.collating import collate
from suite.data.formats import Location
from suite.data.images import read_image_hw
from suite.data.preparing import prepare_for_evaluation
from suite.data.sample import ImageFile, Sample
from suite.data.synthetic import write_synthetic
from suite.device import Device
from suite.errors import UsageError
from suite.evaluation.coco import detections_to_results
from suite.graph_session import GraphRuntime
from suite.records import Record, build_record
from suite.runtime import LoadedDetect, build_model_device, load_detect, null_detect
from suite.sizing import Sizing

_NUM_GENERATED = 16


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """How to measure.

    Attributes:
        images: photos; none stands for 16 generated ones.
        batch: images a run.
        runs: counted runs, after `warmup` uncounted ones.
        device: cpu, cuda, npu or auto.
        precision: of a checkpoint's network, or what OpenVINO computes a graph in; None for fp32,
            and in ONNX Runtime for the graph's own.
        runtime: what runs a graph.
        threads: CPU threads of a graph's runtime, None for its choice.
        strict_device: see `build_device`.
    """

    images: Sequence[Path] = ()
    batch: int = 1
    runs: int = 50
    warmup: int = 10
    device: str = "auto"
    precision: str | None = None
    runtime: Literal["ort", "openvino"] | None = None
    threads: int | None = None
    strict_device: bool = True


def bench_infer(model: Path, request: InferenceRequest) -> Record:
    """Measure a model and return the record.

    Raises:
        InputError: the model or an image is unusable.
        MissingEnvironment: the device or its execution provider is absent.
        UsageError: precision or threads are asked for where they have no effect.
    """
    _require_effect(model, request)
    is_graph = model.suffix == ".onnx"
    device = build_model_device(
        model,
        "cpu" if request.runtime == "openvino" and request.device == "auto" else request.device,
        "fp32" if is_graph else request.precision or "fp32",
        strict=request.strict_device,
    )
    loaded = load_detect(model, device=device, runtime=_graph_runtime(request))
    with tempfile.TemporaryDirectory() as scratch:
        samples = _photo_samples(request.images) or _generated_samples(Path(scratch))
        device.reset_peak_memory()
        stages, num_detections = _time_stages(loaded, device, samples, request)
        floor = _time_null(loaded, device, samples, request)
    counted = {name: seconds[request.warmup :] for name, seconds in stages.items()}
    totals = [sum(run) for run in zip(*counted.values(), strict=True)]
    metrics: dict[str, float | int | None] = dict(summarise_ms(totals, prefix="latency"))
    for name, seconds in counted.items():
        metrics |= summarise_ms(seconds, prefix=name)
    metrics["images_per_second"] = request.batch / float(np.median(counted["infer"]))
    metrics["images_per_second_end_to_end"] = request.batch / float(np.median(totals))
    metrics["harness_ms_p50"] = float(np.median(floor)) * 1000
    metrics["detections_per_image"] = num_detections / (len(totals) * request.batch)
    metrics["peak_memory_bytes"] = device.peak_memory_bytes()
    return build_record(
        "bench-infer",
        metrics=metrics,
        subject=loaded.subject,
        conditions=_describe(loaded, device, request),
    )


def _require_effect(model: Path, request: InferenceRequest) -> None:
    if model.suffix == ".onnx":
        if request.precision is not None and request.runtime != "openvino":
            raise UsageError(
                f"--precision {request.precision}: {model} has its own precision; leave it out, "
                "measure the checkpoint, or try --runtime openvino"
            )
        if request.precision not in (None, "fp32", "bf16"):
            raise UsageError(f"--precision {request.precision}: OpenVINO has fp32 and bf16")
    elif request.threads is not None:
        raise UsageError(
            f"--threads {request.threads}: is for graphs; {model} runs in PyTorch, "
            "whose threads OMP_NUM_THREADS sets"
        )
    elif request.runtime is not None:
        raise UsageError(f"--runtime {request.runtime}: is for graphs; {model} runs in PyTorch")


def _graph_runtime(request: InferenceRequest) -> GraphRuntime:
    return GraphRuntime(
        name=request.runtime or "ort",
        precision="bf16" if request.precision == "bf16" and request.runtime else "fp32",
        threads=request.threads,
    )


def _time_stages(
    loaded: LoadedDetect, device: Device, samples: Sequence[Sample], request: InferenceRequest
) -> tuple[dict[str, list[float]], int]:
    stages: dict[str, list[float]] = {"pre": [], "infer": [], "post": []}
    num_detections = 0
    for run, batch_samples in enumerate(_batches(samples, loaded.sizing, request)):
        started = time.perf_counter()
        batch = collate([prepare_for_evaluation(sample, loaded.sizing) for sample in batch_samples])
        prepared = time.perf_counter()
        found = loaded.detect(batch.images)
        device.synchronize()
        detected = time.perf_counter()
        for answer in found:
            detections_to_results(
                0, answer.boxes_xyxy, answer.scores, answer.labels, loaded.category_ids
            )
        finished = time.perf_counter()
        stages["pre"].append(prepared - started)
        stages["infer"].append(detected - prepared)
        stages["post"].append(finished - detected)
        if run >= request.warmup:
            num_detections += sum(len(answer.scores) for answer in found)
    return stages, num_detections


def _time_null(
    loaded: LoadedDetect, device: Device, samples: Sequence[Sample], request: InferenceRequest
) -> list[float]:
    """Time the `infer` stage without a network: moving, normalising and cutting alone."""
    on_device = loaded.runtime.startswith("torch")  # graphs are fed from the CPU
    place = device.torch_device if on_device else torch.device("cpu")
    detect = null_detect(place)
    batch_samples = next(_batches(samples, loaded.sizing, request))
    batch = collate([prepare_for_evaluation(sample, loaded.sizing) for sample in batch_samples])
    seconds = []
    for _ in range(request.warmup + request.runs):
        started = time.perf_counter()
        detect(batch.images)
        device.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[request.warmup :]


def _batches(
    samples: Sequence[Sample], sizing: Sizing, request: InferenceRequest
) -> Iterator[list[Sample]]:
    """Yield the images of each run, all of one canvas; each canvas has its share of the runs."""
    groups = group_by_canvas(samples, sizing)
    streams = {canvas: itertools.cycle(group) for canvas, group in groups.items()}
    for sample in itertools.islice(itertools.cycle(samples), request.warmup + request.runs):
        stream = streams[sizing.canvas_hw(sample.image_hw)]
        yield [samples[index] for index in itertools.islice(stream, request.batch)]


def _photo_samples(paths: Sequence[Path]) -> list[Sample]:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return [Sample(0, ImageFile(path), read_image_hw(path), *nothing) for path in paths]


def _generated_samples(scratch: Path) -> list[Sample]:
    folder = scratch / "generated"
    write_synthetic(folder, num_train=1, num_val=_NUM_GENERATED, seed=0)
    annotations = folder / "annotations" / "instances_val.json"
    location = Location(format="coco", annotations=annotations, images=folder / "val")
    return list(load_dataset(location).samples)


def _describe(loaded: LoadedDetect, device: Device, request: InferenceRequest) -> dict[str, Any]:
    return {
        **device.describe(),
        "precision": loaded.precision,
        "runtime": loaded.runtime,
        "batch": request.batch,
        "devices": 1,
        "image_hw": list(loaded.sizing.nominal_hw),
        "n": request.runs,
        "warmup": request.warmup,
        "threads": _threads(loaded, request),
        "images": "given" if request.images else "generated",
        "scope": "global",
        "window": "infer stage, median over the counted runs",
    }


def _threads(loaded: LoadedDetect, request: InferenceRequest) -> int | str:
    """Return the CPU threads in effect; runtimes of graphs do not tell their own choice."""
    if loaded.runtime.startswith("torch"):
        return torch.get_num_threads()
    return request.threads or "default"
