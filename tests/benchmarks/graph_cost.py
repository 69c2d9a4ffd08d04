"""What the graph with NMS costs over raw heads, and our way to run it over plain ONNX Runtime.

    PYTHONPATH=. python tests/benchmarks/graph_cost.py CHECKPOINT --size 300x300 --images PHOTOS

Three candidates take turns in blocks, on the same images, in ONNX Runtime on the CPU: the raw graph
in a session of its own (`plain`), the graph with NMS in such a session (`nms`), and the graph with
NMS as `suite predict` opens it (`ours`). Prints the ratio of each to `plain`, with its interval.
Without --images the input is noise: few detections, the same work but for the suppression.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from suite.bench.calm import Watch
from suite.bench.stable import interleave, judge
from suite.checkpoint import TrainedDetector, load_detector
from suite.cli.flags import FILE, IMAGE_SIZE
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES
from suite.graph_session import GraphRuntime, open_graph
from suite.predict import find_images
from suite.sizing import build_sizing

Pixels = NDArray[np.float32]
Run = Callable[[], list[Any]]


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--size", "image_hw", type=IMAGE_SIZE, default="800x1344", show_default=True)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--runs", type=int, default=4, show_default=True, help="In each of 15 blocks.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--images", multiple=True, help="Photos, of which the first of a batch are taken.")
def main(
    checkpoint: Path,
    image_hw: tuple[int, int],
    batch: int,
    runs: int,
    threads: int,
    images: tuple[str, ...],
) -> None:
    """Print the ratios as one JSON line."""
    trained = load_detector(checkpoint)
    pixels = _load_pixels(trained, image_hw, batch, images)
    candidates = _open_candidates(trained, pixels, threads)
    num_detections = int(candidates["ours"]()[3].sum())
    watch = Watch()

    def block(run: Run) -> float:
        watch.look()
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    found = interleave([lambda run=run: block(run) for run in candidates.values()])  # type: ignore[misc]  # mypy infers no lambda with a default
    calm = watch.finish()
    seconds = dict(zip(candidates, found, strict=True))
    ratios = {name: judge(seconds[name], seconds["plain"]).ratio for name in ("nms", "ours")}
    print(
        json.dumps(
            {
                "detector": trained.recipe.detector.name,
                "image_hw": list(pixels.shape[2:]),
                "batch": len(pixels),
                "threads": threads,
                "detections": num_detections,
                "plain_ms": 1000 * float(np.median(seconds["plain"])),
                "over_plain": {
                    name: [round(value, 4) for value in (ratio.median, ratio.low, ratio.high)]
                    for name, ratio in ratios.items()
                },
                **calm.as_conditions(),
            }
        )
    )


def _load_pixels(
    trained: TrainedDetector, image_hw: tuple[int, int], batch: int, images: tuple[str, ...]
) -> Pixels:
    if not images:
        return np.random.default_rng(0).standard_normal((batch, 3, *image_hw)).astype(np.float32)
    sizing = build_sizing(trained.recipe.resize, canvas_hw=image_hw)
    photos = [read_image(path) for path in find_images(images)[:batch]]
    prepared = collate([prepare_image(photo, sizing) for photo in photos])
    return prepared.images.normalised().numpy()


def _open_candidates(trained: TrainedDetector, pixels: Pixels, threads: int) -> dict[str, Run]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Three sessions in one process: idle ones would go on turning on the cores of the one measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    feed = {INPUT_NAME: pixels}
    raw, whole = (
        build_graph(trained, GraphRequest(nms=nms)).SerializeToString() for nms in ("none", "op")
    )
    provider = ["CPUExecutionProvider"]
    plain = onnxruntime.InferenceSession(raw, options, providers=provider)
    nms = onnxruntime.InferenceSession(whole, options, providers=provider)
    ours = open_graph(whole, source="ours", runtime=GraphRuntime(threads=threads))
    return {
        "plain": lambda: plain.run(list(HEAD_NAMES), feed),
        "nms": lambda: nms.run(list(OUTPUT_NAMES), feed),
        "ours": lambda: ours(OUTPUT_NAMES, feed),
    }


if __name__ == "__main__":
    main()
