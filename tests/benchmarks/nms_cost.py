"""What the postprocess costs inside a graph: the graph with NMS against raw heads, in one run.

    python tests/benchmarks/nms_cost.py CHECKPOINT --size 800x1344 --batch 1 --runs 10

Both are exported from the same checkpoint and take turns on the same images in ONNX Runtime on the
CPU, one thread; the time is that thread's own, which other load on the machine hardly moves.
Without --images the input is noise: few detections, the same work but for the suppression.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime

from suite.checkpoint import load_detector
from suite.cli.flags import FILE, IMAGE_SIZE
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES
from suite.predict import find_images
from suite.sizing import build_sizing


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--size", "image_hw", type=IMAGE_SIZE, default="800x1344", show_default=True)
@click.option("--batch", type=int, default=1, show_default=True)
@click.option("--runs", type=int, default=10, show_default=True)
@click.option("--images", multiple=True, help="Photos, of which the first of a batch are taken.")
def main(
    checkpoint: Path, image_hw: tuple[int, int], batch: int, runs: int, images: tuple[str, ...]
) -> None:
    """Print both medians and their ratio as one JSON line."""
    trained = load_detector(checkpoint)
    pixels = np.random.default_rng(0).standard_normal((batch, 3, *image_hw)).astype(np.float32)
    if images:
        sizing = build_sizing(trained.recipe.resize, canvas_hw=image_hw)
        photos = [read_image(path) for path in find_images(images)[:batch]]
        prepared = collate([prepare_image(photo, sizing) for photo in photos])
        pixels = prepared.images.normalised().numpy()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for nms in ("op", "none"):
            path = Path(folder, f"{nms}.onnx")
            path.write_bytes(build_graph(trained, GraphRequest(nms=nms)).SerializeToString())
            sessions[nms] = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
    names = {"op": OUTPUT_NAMES, "none": HEAD_NAMES}
    seconds: dict[str, list[float]] = {"op": [], "none": []}
    for _ in range(runs + 1):  # the first one warms up
        for nms, session in sessions.items():
            started = time.thread_time()
            outputs = session.run(list(names[nms]), {INPUT_NAME: pixels})
            seconds[nms].append(time.thread_time() - started)
            if nms == "op":
                num_detections = int(outputs[3].sum())
    medians = {nms: float(np.median(values[1:])) for nms, values in seconds.items()}
    minima = {nms: min(values[1:]) for nms, values in seconds.items()}
    print(
        json.dumps(
            {
                "detector": trained.recipe.detector.name,
                "image_hw": list(pixels.shape[2:]),
                "batch": len(pixels),
                "runs": runs,
                "detections": num_detections,
                "median_s": medians,
                "ratio_of_medians": medians["op"] / medians["none"],
                "ratio_of_minima": minima["op"] / minima["none"],
            }
        )
    )


if __name__ == "__main__":
    main()
