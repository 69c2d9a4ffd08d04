"""A model opened to be timed, block by block, in one of two scenarios (the words are MLPerf's).

`single-stream`: one batch of encoded images after the other and nothing at the same time: `pre`
decodes and resizes on one core, `infer` is the whole `Detect` call (normalisation, network,
suppression), `post` makes COCO results; latency is the sum. `offline`: all images are there from
the start, loader processes prepare them while the model runs, and only the whole time counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from models.structures import Detections, Images
from suite.bench.energy import Energy, measured_energy
from suite.data.batching import group_by_canvas
from suite.data.collating import Batch, collate
from suite.data.loading import EvaluationSet, iterate_chosen
from suite.data.preparing import prepare_for_evaluation
from suite.data.sample import Sample
from suite.data.workers import Workers
from suite.device import Device, one_cpu_thread
from suite.errors import UsageError
from suite.evaluation.coco import detections_to_results
from suite.graph_session import GraphRuntime
from suite.runtime import LoadedDetect, build_model_device, load_detect, null_detect

Scenario = Literal["single-stream", "offline"]


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """What to measure and how.

    Attributes:
        model: a checkpoint or a graph.
        images: photos; none stands for 16 generated ones.
        scenario: see the module.
        batch: images a run.
        runs: counted runs, after `warmup` uncounted ones.
        device: cpu, cuda, npu or auto.
        precision: of a checkpoint's network, or what OpenVINO computes a graph in; None for fp32,
            and in ONNX Runtime for the graph's own.
        runtime: what runs a graph.
        threads: CPU threads of a graph's runtime, None for its choice.
        workers: loader processes of the scenario offline.
        stable: spread the runs over blocks and give intervals.
        strict_device: see `build_device`.
    """

    model: Path
    images: Sequence[Path] = ()
    scenario: Scenario = "single-stream"
    batch: int = 1
    runs: int = 50
    warmup: int = 10
    device: str = "auto"
    precision: str | None = None
    runtime: Literal["ort", "openvino"] | None = None
    threads: int | None = None
    workers: int = 1
    stable: bool = False
    strict_device: bool = True


class Block(NamedTuple):
    """Some runs, one after the other: seconds of each, by stage; their detections and energy.

    The stages are `pre`, `infer` and `post`, or `whole` alone of the scenario offline.
    """

    stages: dict[str, list[float]]
    num_detections: int
    energy: Energy

    def totals(self) -> list[float]:
        """Return the seconds of each run, all stages together."""
        return [sum(run) for run in zip(*self.stages.values(), strict=True)]


Measure = Callable[[int], Block]


@dataclass(frozen=True)
class Candidate:
    """A model, what runs it, and what it is fed with."""

    request: InferenceRequest
    device: Device
    loaded: LoadedDetect
    samples: Sequence[Sample]

    @contextmanager
    def measuring(self) -> Iterator[Measure]:
        """Give a function that times a number of runs; the model has warmed up.

        Raises:
            InputError: an image or the graph is unusable.
        """
        with ExitStack() as stack:
            if self.request.scenario == "offline":
                stream = stack.enter_context(closing(self._stream()))
                measure = self._measure_offline(stream)
            else:
                measure = self._measure_single(self._batches())
            measure(self.request.warmup)
            yield measure

    def null(self) -> Candidate:
        """Return the same without a network: moving, normalising and cutting alone."""
        on_device = self.loaded.runtime.startswith("torch")  # graphs are fed from the CPU
        place = self.device.torch_device if on_device else torch.device("cpu")
        return replace(self, loaded=replace(self.loaded, detect=null_detect(place)))

    def _measure_single(self, batches: Iterator[list[int]]) -> Measure:
        def measure(runs: int) -> Block:
            stages: dict[str, list[float]] = {"pre": [], "infer": [], "post": []}
            num_detections = 0
            with measured_energy(self.device) as energy:
                for places in itertools.islice(batches, runs):
                    started = time.perf_counter()
                    images = self._prepare(places)
                    prepared = time.perf_counter()
                    found = self._detect(images)
                    detected = time.perf_counter()
                    num_detections += self._finish(found)
                    stages["pre"].append(prepared - started)
                    stages["infer"].append(detected - prepared)
                    stages["post"].append(time.perf_counter() - detected)
            return Block(stages, num_detections, energy)

        return measure

    def _measure_offline(self, stream: Iterator[Batch]) -> Measure:
        def measure(runs: int) -> Block:
            # What was loaded while others were measured is not counted.
            for batch in itertools.islice(stream, 2 * self.request.workers + 1):
                self._finish(self._detect(batch.images))
            seconds: list[float] = []
            num_detections = 0
            with measured_energy(self.device) as energy:
                before = time.perf_counter()
                for batch in itertools.islice(stream, runs):
                    num_detections += self._finish(self._detect(batch.images))
                    seconds.append(time.perf_counter() - before)
                    before += seconds[-1]
            return Block({"whole": seconds}, num_detections, energy)

        return measure

    def _prepare(self, places: Iterable[int]) -> Images:
        sizing = self.loaded.sizing
        with one_cpu_thread():
            return collate([prepare_for_evaluation(self.samples[i], sizing) for i in places]).images

    def _detect(self, images: Images) -> list[Detections]:
        found = self.loaded.detect(images)
        self.device.synchronize()
        return found

    def _finish(self, found: Sequence[Detections]) -> int:
        """Make COCO results; return how many there are."""
        ids = self.loaded.category_ids
        answers = [
            detections_to_results(0, one.boxes_xyxy, one.scores, one.labels, ids) for one in found
        ]
        return sum(map(len, answers))

    def _stream(self) -> Generator[Batch]:
        chosen = EvaluationSet(tuple(self.samples), self.loaded.sizing)
        return iterate_chosen(chosen, self._batches(), workers=Workers(num=self.request.workers))

    def _canvases(self) -> dict[tuple[int, int], list[int]]:
        return group_by_canvas(self.samples, self.loaded.sizing)

    def _batches(self) -> Iterator[list[int]]:
        """Yield the images of each run, of one canvas; each canvas has its share of the runs."""
        sizing = self.loaded.sizing
        streams = {canvas: itertools.cycle(group) for canvas, group in self._canvases().items()}
        for sample in itertools.cycle(self.samples):
            stream = streams[sizing.canvas_hw(sample.image_hw)]
            yield list(itertools.islice(stream, self.request.batch))


def open_candidate(request: InferenceRequest, samples: Sequence[Sample]) -> Candidate:
    """Load a model for its runtime and device.

    Raises:
        InputError: the model is unusable.
        MissingEnvironment: the device or its execution provider is absent.
        UsageError: precision, runtime or threads are asked for where they have no effect.
    """
    _require_effect(request)
    is_graph = request.model.suffix == ".onnx"
    device = build_model_device(
        request.model,
        "cpu" if request.runtime == "openvino" and request.device == "auto" else request.device,
        "fp32" if is_graph else request.precision or "fp32",
        strict=request.strict_device,
    )
    loaded = load_detect(request.model, device=device, runtime=_graph_runtime(request))
    return Candidate(request, device, loaded, samples)


def _require_effect(request: InferenceRequest) -> None:
    model = request.model
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
