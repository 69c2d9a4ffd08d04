"""The verb `quantize`: the fastest int8 graph that was found inside an AP budget.

AP is COCO's, a fraction. What is judged is the very file that is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from suite.data import build_workers, load_split
from suite.deploy.judge import Judge, Point
from suite.deploy.parity import MAX_AP_DIFFERENCE
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
from suite.deploy.target_file import require_target, write_sidecar
from suite.deploy.targets import require_int8
from suite.deploy.timing import ROUNDS, RUNS, WARMUP, find_fastest, time_graphs
from suite.device import build_device
from suite.errors import InputError, SuiteError, UsageError
from suite.evaluation.model import find_recipe_of
from suite.files import replacing
from suite.graph_file import INPUT_NAME, GraphFile, load_graph
from suite.progress import Progress
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.runtime import graph_subject, size_for

_NUM_RANKING_IMAGES = 8


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
        force: replace an existing file, once there is a graph inside the budget.
    """

    images: Sequence[Path]
    num_images: int = NUM_CALIBRATION_IMAGES
    max_drop: float = MAX_AP_DIFFERENCE["int8"]
    max_evaluations: int = 12
    recipe: Recipe | None = None
    data: str | None = None
    batch: int = 8
    output: Path | None = None
    force: bool = False


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
        cut_short: whether no point keeps the budget, but those of more float convolutions were not
            judged, because there were no evaluations left.
        record: of the measurement.
    """

    target: Path
    before: Point
    points: tuple[Point, ...]
    chosen: Point | None
    max_drop: float
    num_convolutions: int
    cut_short: bool
    record: Record

    @property
    def best(self) -> Point:
        """The int8 graph of the highest AP."""
        return max(self.points, key=lambda point: point.ap)


def quantize(model: Path, request: QuantizeRequest) -> Frontier:
    """Write the int8 graph of a fp32 graph, and its sidecar, if it keeps the budget.

    Of the graphs that do, it is the fastest; where the timing cannot tell some apart, the smallest
    of them.

    Args:
        model: an exported graph with NMS inside.
        request: what is wanted.

    Returns:
        All points that were judged. Where none keeps the budget, nothing is written.

    Raises:
        InputError: the graph, an image or the data is unusable.
        UsageError: the graph is not fp32, is made for a runtime without int8, the target exists, or
            the data are not of its classes.
        SuiteError: the target cannot be written.
    """
    target = request.output or model.with_suffix(".int8.onnx")
    require_target(target, model, kind="fp32 graph", force=request.force)
    graph = load_graph(model)
    if graph.metadata.precision != "fp32":
        raise UsageError(f"{model}: is {graph.metadata.precision}; quantize the fp32 graph")
    require_int8(graph.metadata, source=str(model))
    blocks = list_blocks(graph.model)
    _require_nameable(blocks, model)
    images = choose_images(request.images, request.num_images)
    with tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        judge = _open_judge(model, graph, images, request, Path(scratch))
        with closing(judge.progress):
            before = judge.judge_before()
            search = _Search(judge=judge, before=before, blocks=blocks, request=request)
            feeds = prepare_feeds(images, graph.metadata)
            with calibrate(graph.model, feeds) as quantise:
                points = search.run(quantise, images)
        feed = next(prepare_feeds(images, graph.metadata))
        frontier = _choose(search, points, feed, target)
        frontier = replace(frontier, record=_build_record(judge, frontier, feed))
        _write(frontier, judge)
    return frontier


def format_frontier(frontier: Frontier) -> str:
    """Return the points as a table: size, latency and AP against those of the fp32 graph."""
    before = frontier.before
    rows = [
        (
            "fp32" if point is before else "int8",
            f"{point.num_float}/{frontier.num_convolutions}",
            f"{point.size_bytes / 1e6:.1f}",
            _show(point.latency_ms, ".1f"),
            _show(_speed(before, point), ".2f", "x"),
            f"{100 * point.ap:.2f}",
            f"{100 * (before.ap - point.ap):+.2f}",
            "written" if point is frontier.chosen else "",
        )
        for point in (before, *frontier.points)
    ]
    heads = ("", "float convs", "MB", "ms", "speed", "AP", "drop", "")
    return tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True)


def format_refusal(model: Path, frontier: Frontier) -> str:
    """Return why nothing was written, and what may help, as a sentence."""
    best = frontier.best
    remedy = "pass more --calibration-images or a larger --max-drop"
    if frontier.cut_short:
        most = max(point.num_float for point in frontier.points)
        remedy = (
            f"--max-evaluations {len(frontier.points)} ended the search at {most} float "
            f"convolutions: raise it, or {remedy}"
        )
    kept = f"; {frontier.target} is an older one, and stays" if frontier.target.exists() else ""
    return (
        f"{model}: none of {len(frontier.points)} int8 graphs keeps --max-drop "
        f"{frontier.max_drop:g}; the best loses {frontier.before.ap - best.ap:.4f} AP with "
        f"{best.num_float} of {frontier.num_convolutions} convolutions float; nothing is "
        f"written{kept}; {remedy}"
    )


def _show(value: float | None, spec: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{spec}}{unit}"


def _speed(before: Point, point: Point) -> float | None:
    """Return how many times as fast as the fp32 graph it is; None where it was not timed."""
    if before.latency_ms is None or point.latency_ms is None:
        return None
    return before.latency_ms / point.latency_ms


def _open_judge(
    model: Path, graph: GraphFile, images: list[Path], request: QuantizeRequest, folder: Path
) -> Judge:
    recipe = request.recipe or find_recipe_of(model)
    section = recipe.data if request.data is None else replace(recipe.data, root=request.data)
    dataset = load_split(section, "val")
    most = (1 + request.max_evaluations) * len(dataset.samples)
    return Judge(
        model=model,
        graph=graph,
        recipe=recipe,
        dataset=dataset,
        workers=build_workers(section),
        batch=request.batch,
        calibration=describe_calibration(images, ()),
        folder=folder,
        progress=Progress(most, label="judge (at most)"),
    )


@dataclass(frozen=True, kw_only=True)
class _Search:
    """For int8 graphs that keep the budget."""

    judge: Judge
    before: Point
    blocks: list[Block]
    request: QuantizeRequest

    def run(self, quantise: Quantise, images: list[Path]) -> list[Point]:
        """Return all that were judged, fewest float convolutions first."""
        points: list[Point] = []
        ranked: list[Block] = []

        def holds(number: int) -> bool:
            if number and not ranked:
                ranked.extend(self._rank(quantise, images))
            names = [name for block in ranked[:number] for name in block]
            float_nodes = expand_blocks(self.blocks, names)
            quantised = quantise(float_nodes)
            points.append(self.judge.judge(quantised, float_nodes, number=len(points) + 1))
            return self.keeps(points[-1])

        most = self.request.max_evaluations
        find_fewest_float(len(self.blocks), holds, max_evaluations=most)
        return sorted(points, key=lambda point: point.num_float)

    def keeps(self, point: Point) -> bool:
        """Whether a graph is inside the budget."""
        return self.before.ap - point.ap <= self.request.max_drop

    def count_quantised(self, point: Point) -> int:
        """Return how many blocks are not float in a graph; the search ends where there is one."""
        return sum(block[0] not in point.float_nodes for block in self.blocks)

    def _rank(self, quantise: Quantise, images: list[Path]) -> list[Block]:
        graph = self.judge.graph
        few = choose_images(images, _NUM_RANKING_IMAGES)
        with closing(Progress(len(self.blocks), label="rank convolutions")) as progress:
            return rank_blocks(
                graph.model,
                self.blocks,
                quantise=quantise,
                feeds=list(prepare_feeds(few, graph.metadata)),
                background=graph.metadata.num_logits > graph.metadata.num_classes,
                progress=progress.update,
            )


def _choose(search: _Search, points: list[Point], feed: Feed, target: Path) -> Frontier:
    """Time what is inside the budget, or only the best where nothing is, and take the fastest."""
    holding = [point for point in points if search.keeps(point)]
    timed = [search.before, *(holding or [max(points, key=lambda point: point.ap)])]
    timings = time_graphs([point.path for point in timed], feed)
    latency = {point.path: timing.latency_ms for point, timing in zip(timed, timings, strict=True)}
    before, *done = (
        replace(point, latency_ms=latency.get(point.path)) for point in (search.before, *points)
    )
    chosen = None
    if holding:
        fastest = {holding[place].path for place in find_fastest(timings[1:])}
        chosen = min(
            (point for point in done if point.path in fastest), key=lambda point: point.size_bytes
        )
    return Frontier(
        target=target,
        before=before,
        points=tuple(done),
        chosen=chosen,
        max_drop=search.request.max_drop,
        num_convolutions=sum(len(block) for block in search.blocks),
        cut_short=not holding and min(search.count_quantised(point) for point in points) > 1,
        record={},
    )


def _build_record(judge: Judge, frontier: Frontier, feed: Feed) -> Record:
    before, point = frontier.before, frontier.chosen or frontier.best
    metadata = judge.graph.metadata
    return build_record(
        "quantize",
        metrics={
            "ap": point.ap,
            "ap_before": before.ap,
            "ap_drop": before.ap - point.ap,
            "latency_ms_p50": point.latency_ms,
            "latency_ms_p50_before": before.latency_ms,
            "speed_ratio": _speed(before, point),
            "size_bytes": point.size_bytes,
            "size_bytes_before": before.size_bytes,
        },
        subject={
            **graph_subject(judge.graph),
            "graph_sha256": point.sha256,
            "fp32_sha256": before.sha256,
            "dataset": judge.recipe.data.name,
            "val_digest": judge.dataset.digest,
            "calibration": asdict(judge.calibration_of(point.float_nodes)),
        },
        conditions={
            **build_device("cpu", "fp32").describe(),
            "precision": "int8",
            "runtime": "onnxruntime CPUExecutionProvider",
            "batch": len(feed[INPUT_NAME]),
            "image_hw": list(size_for(metadata).nominal_hw),
            "input_shape": list(feed[INPUT_NAME].shape),
            "val_images": len(judge.dataset.samples),
            "max_drop": frontier.max_drop,
            "within_budget": frontier.chosen is not None,
            "cut_short": frontier.cut_short,
            "n": ROUNDS * RUNS,
            "rounds": ROUNDS,
            "warmup": WARMUP,
            "convolutions": frontier.num_convolutions,
            "frontier": [entry.describe() for entry in (before, *frontier.points)],
        },
    )


def _write(frontier: Frontier, judge: Judge) -> None:
    """Write the chosen graph; where there is none, what stands there stays."""
    target = frontier.target
    if frontier.chosen is None:
        return
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(frontier.chosen.path.read_bytes())
            measured = {"quantization": _describe_quantization(frontier, judge)}
            write_sidecar(target, load_graph(temporary), measured)
    except OSError as error:
        raise SuiteError(f"{target}: cannot be written: {error.strerror}") from error


def _describe_quantization(frontier: Frontier, judge: Judge) -> dict[str, Any]:
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
