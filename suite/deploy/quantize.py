"""The verb `quantize`: the int8 graph with the fewest float convolutions inside an AP budget.

AP is COCO's, a fraction. What is judged is the very file that is written.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tabulate import tabulate

from suite.data import build_workers, load_split
from suite.data.sample import Dataset
from suite.data.workers import Workers
from suite.deploy.graph import describe_in
from suite.deploy.quantization import (
    NUM_CALIBRATION_IMAGES,
    Feed,
    Quantise,
    calibrate,
    choose_images,
    describe_calibration,
    expand_blocks,
    list_blocks,
    prepare_feeds,
)
from suite.deploy.search import Block, find_fewest_float, rank_blocks
from suite.deploy.target_file import delete_graph, require_target, write_sidecar
from suite.device import build_device
from suite.errors import InputError, SuiteError, UsageError
from suite.evaluation import evaluate
from suite.evaluation.model import find_recipe_of, require_same_classes
from suite.files import replacing
from suite.graph_file import OUTPUT_NAMES, GraphFile, load_graph
from suite.graph_session import open_graph
from suite.progress import Progress
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.runtime import graph_subject, load_detect

_NUM_RANKING_IMAGES = 8
_WARMUP, _RUNS = 3, 20


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest:
    """What is wanted, and on what it is judged.

    Attributes:
        images: to calibrate on.
        num_images: how many of them at most.
        max_drop: of AP, a fraction.
        max_evaluations: of int8 graphs on the whole data set.
        recipe: whose val split; None for that of the run folder around the graph.
        data: overrides the recipe's `data.root`.
        batch: images a call of an evaluation.
        output: name of the int8 graph; None: the graph's with `.int8.onnx`.
        force: replace an existing file.
    """

    images: Sequence[Path]
    num_images: int = NUM_CALIBRATION_IMAGES
    max_drop: float = 0.005
    max_evaluations: int = 12
    recipe: Recipe | None = None
    data: str | None = None
    batch: int = 8
    output: Path | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """One graph of the frontier; `num_float` of its convolutions stay float."""

    num_float: int
    float_nodes: tuple[str, ...]
    size_bytes: int
    ap: float
    latency_ms: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """What a search found.

    Attributes:
        target: where the int8 graph stands, or would.
        before: the fp32 graph.
        points: int8 graphs, fewest float convolutions first.
        chosen: that which was written; None: no point keeps the budget.
        max_drop: the budget.
        num_convolutions: of the graph.
        record: of the measurement.
    """

    target: Path
    before: Point
    points: tuple[Point, ...]
    chosen: Point | None
    max_drop: float
    num_convolutions: int
    record: Record

    @property
    def best(self) -> Point:
        """The int8 graph of the highest AP."""
        return max(self.points, key=lambda point: point.ap)


def quantize(model: Path, request: QuantizeRequest) -> Frontier:
    """Write the int8 graph of a fp32 graph, and its sidecar, if it keeps the budget.

    Args:
        model: an exported graph with NMS inside.
        request: what is wanted.

    Returns:
        All points that were judged. Where none keeps the budget, no file stands at the target.

    Raises:
        InputError: the graph, an image or the data is unusable.
        UsageError: the graph is not fp32, the target exists, or the data are not of its classes.
        SuiteError: the target cannot be written.
    """
    target = request.output or model.with_suffix(".int8.onnx")
    require_target(target, model, kind="fp32 graph", force=request.force)
    graph = load_graph(model)
    blocks = list_blocks(graph.model)
    if graph.metadata.precision != "fp32":
        raise UsageError(f"{model}: is {graph.metadata.precision}; quantize the fp32 graph")
    _require_nameable(blocks, model)
    images = choose_images(request.images, request.num_images)
    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        judge = _open_judge(model, graph, images, request, Path(scratch))
        with closing(judge.progress):
            judge.judge_before()
            with calibrate(graph.model, prepare_feeds(images, graph.metadata)) as quantise:
                chosen = _search(judge, quantise, blocks, request)
        timed = _time_points(judge, next(prepare_feeds(images, graph.metadata)))
        frontier = _describe(judge, timed, chosen, target, request)
        _write(frontier, judge, chosen)
    return frontier


def format_frontier(frontier: Frontier) -> str:
    """Return the points as a table: size, latency and AP against those of the fp32 graph."""
    before = frontier.before
    rows = [
        (
            "fp32" if point is before else "int8",
            f"{point.num_float}/{frontier.num_convolutions}",
            f"{point.size_bytes / 1e6:.1f}",
            f"{point.latency_ms:.1f}",
            f"{before.latency_ms / point.latency_ms:.2f}x",
            f"{100 * point.ap:.2f}",
            f"{100 * (before.ap - point.ap):+.2f}",
            "written" if point is frontier.chosen else "",
        )
        for point in (before, *frontier.points)
    ]
    heads = ("", "float convs", "MB", "ms", "speed", "AP", "drop", "")
    return tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True)


@dataclass(frozen=True)
class _Judge:
    """Evaluates graphs; those of the search stand in `folder`, by their number of float blocks."""

    model: Path
    graph: GraphFile
    images: list[Path]
    recipe: Recipe
    dataset: Dataset
    workers: Workers
    batch: int
    folder: Path
    progress: Progress
    found: dict[int, Point]

    def judge_before(self) -> None:
        """Judge the fp32 graph, as number -1.

        Raises:
            UsageError: it finds nothing, or there is nothing to find.
        """
        before = self._judge(self.model, -1, ())
        if not before.ap > 0:
            raise UsageError(
                f"{self.model}: AP is {before.ap:g} on {len(self.dataset.samples)} images of "
                f"{self.recipe.data.name}; there is nothing to lose, so any budget would hold"
            )

    def judge(self, number: int, quantised: onnx.ModelProto, float_nodes: tuple[str, ...]) -> Point:
        """Judge an int8 graph as it would be written."""
        calibration = describe_calibration(self.images, float_nodes)
        described = replace(self.graph.metadata, precision="int8", calibration=calibration)
        describe_in(quantised, described)
        path = self.place(number)
        path.write_bytes(quantised.SerializeToString(deterministic=True))
        return self._judge(path, number, float_nodes)

    def place(self, number: int) -> Path:
        """Return where a point's graph stands."""
        return self.model if number < 0 else self.folder / f"{number}.onnx"

    def _judge(self, path: Path, number: int, float_nodes: tuple[str, ...]) -> Point:
        loaded = load_detect(path, device=build_device("cpu", "fp32"))
        require_same_classes(loaded, self.dataset, self.model)
        done = len(self.found) * len(self.dataset.samples)
        label = "fp32" if number < 0 else f"int8, {len(float_nodes)} float"
        evaluation, _ = evaluate(
            loaded.detect,
            self.dataset,
            sizing=loaded.sizing,
            batch_size=self.graph.metadata.batch or self.batch,
            workers=self.workers,
            progress=lambda images: self.progress.update(done + images, label),
        )
        point = Point(
            num_float=len(float_nodes),
            float_nodes=float_nodes,
            size_bytes=path.stat().st_size,
            ap=evaluation.ap or 0.0,
        )
        self.found[number] = point
        self.progress.print(f"{label} convolutions: AP {100 * point.ap:.2f}")
        return point


def _open_judge(
    model: Path, graph: GraphFile, images: list[Path], request: QuantizeRequest, folder: Path
) -> _Judge:
    recipe = request.recipe or find_recipe_of(model)
    section = recipe.data if request.data is None else replace(recipe.data, root=request.data)
    dataset = load_split(section, "val")
    most = (1 + request.max_evaluations) * len(dataset.samples)
    return _Judge(
        model,
        graph,
        images,
        recipe,
        dataset,
        build_workers(section),
        request.batch,
        folder,
        Progress(most, label="judge (at most)"),
        {},
    )


def _search(
    judge: _Judge, quantise: Quantise, blocks: list[Block], request: QuantizeRequest
) -> int | None:
    """Return the fewest float blocks that keep the budget, or None."""
    ranked: list[Block] = []

    def holds(number: int) -> bool:
        if number and not ranked:
            ranked.extend(_rank(judge, quantise, blocks))
        names = [name for block in ranked[:number] for name in block]
        float_nodes = expand_blocks(blocks, names)
        point = judge.judge(number, quantise(float_nodes), float_nodes)
        return judge.found[-1].ap - point.ap <= request.max_drop

    return find_fewest_float(len(blocks), holds, max_evaluations=request.max_evaluations)


def _rank(judge: _Judge, quantise: Quantise, blocks: list[Block]) -> list[Block]:
    metadata = judge.graph.metadata
    few = choose_images(judge.images, _NUM_RANKING_IMAGES)
    with closing(Progress(len(blocks), label="rank convolutions")) as progress:
        return rank_blocks(
            judge.graph.model,
            blocks,
            quantise=quantise,
            feeds=list(prepare_feeds(few, metadata)),
            background=metadata.num_logits > metadata.num_classes,
            progress=progress.update,
        )


def _time_points(judge: _Judge, feed: Feed) -> dict[int, Point]:
    """Time all graphs in turns on one input, so that a busy machine slows all of them alike."""
    paths = {number: judge.place(number) for number in sorted(judge.found)}
    runs = {
        number: open_graph(path.read_bytes(), source=str(path)) for number, path in paths.items()
    }
    seconds: dict[int, list[float]] = {number: [] for number in runs}
    for _ in range(_WARMUP + _RUNS):
        for number, run in runs.items():
            started = time.perf_counter()
            run(OUTPUT_NAMES, feed)
            seconds[number].append(time.perf_counter() - started)
    return {
        number: replace(judge.found[number], latency_ms=1000 * float(np.median(times[_WARMUP:])))
        for number, times in seconds.items()
    }


def _describe(
    judge: _Judge,
    timed: dict[int, Point],
    chosen: int | None,
    target: Path,
    request: QuantizeRequest,
) -> Frontier:
    before, *points = timed.values()
    frontier = Frontier(
        target=target,
        before=before,
        points=tuple(points),
        chosen=None if chosen is None else timed[chosen],
        max_drop=request.max_drop,
        num_convolutions=sum(len(block) for block in list_blocks(judge.graph.model)),
        record={},
    )
    record = _build_record(judge, frontier, request)
    return replace(frontier, record=record)


def _build_record(judge: _Judge, frontier: Frontier, request: QuantizeRequest) -> Record:
    before, point = frontier.before, frontier.chosen or frontier.best
    metadata = judge.graph.metadata
    calibration = describe_calibration(judge.images, point.float_nodes)
    return build_record(
        "quantize",
        metrics={
            "ap": point.ap,
            "ap_before": before.ap,
            "ap_drop": before.ap - point.ap,
            "latency_ms_p50": point.latency_ms,
            "latency_ms_p50_before": before.latency_ms,
            "speed_ratio": before.latency_ms / point.latency_ms,
            "size_bytes": point.size_bytes,
            "size_bytes_before": before.size_bytes,
        },
        subject={
            **graph_subject(judge.graph),
            "dataset": judge.recipe.data.name,
            "val_digest": judge.dataset.digest,
            "calibration": asdict(calibration),
        },
        conditions={
            **build_device("cpu", "fp32").describe(),
            "precision": "int8",
            "runtime": "onnxruntime CPUExecutionProvider",
            "batch": metadata.batch or 1,
            "image_hw": list(metadata.image_hw),
            "val_images": len(judge.dataset.samples),
            "max_drop": request.max_drop,
            "within_budget": frontier.chosen is not None,
            "n": _RUNS,
            "warmup": _WARMUP,
            "convolutions": frontier.num_convolutions,
            "frontier": [asdict(entry) for entry in (before, *frontier.points)],
        },
    )


def _write(frontier: Frontier, judge: _Judge, chosen: int | None) -> None:
    """Write the chosen graph; where there is none, no older one may be taken for it."""
    target = frontier.target
    if chosen is None:
        delete_graph(target)
        return
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(judge.place(chosen).read_bytes())
            measured = {"quantization": _describe_quantization(frontier, judge)}
            write_sidecar(target, load_graph(temporary), measured)
    except OSError as error:
        raise SuiteError(f"{target}: cannot be written: {error.strerror}") from error


def _describe_quantization(frontier: Frontier, judge: _Judge) -> dict[str, Any]:
    assert frontier.chosen is not None
    return {
        "fp32_sha256": judge.graph.sha256,
        "ap": frontier.chosen.ap,
        "ap_before": frontier.before.ap,
        "max_drop": frontier.max_drop,
        "dataset": judge.recipe.data.name,
        "val_digest": judge.dataset.digest,
        "val_images": len(judge.dataset.samples),
    }


def _require_nameable(blocks: Sequence[Block], model: Path) -> None:
    """Refuse a graph of which no convolution can be told to stay float while others do not."""
    names = [name for block in blocks for name in block]
    if len(blocks) < 2 or "" in names or len(set(names)) < len(names):
        raise InputError(
            f"{model}: its {len(names)} convolutions are too few or have no names of their own "
            "(rewritten by another tool?); export it again"
        )
