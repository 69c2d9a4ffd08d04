"""The verb `demo`: the whole road on generated images, from recipe to report, in a few minutes.

It trains a narrow variant of the published detector (the recipe's `detector.width`), because the
full one does not learn from scratch in the time that a demo may take on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from suite.bench.infer import InferenceRequest, bench_infer
from suite.checkpoint import list_checkpoints
from suite.data.images import IMAGE_SUFFIXES
from suite.data.synthetic import write_synthetic
from suite.deploy.export import export
from suite.errors import CheckFailed
from suite.evaluation.model import EvaluationRequest, evaluate_model
from suite.predict import predict
from suite.recipe import load_recipe
from suite.records import write_record
from suite.report import report
from suite.run_folder import new_record_path
from suite.shipped import shipped_folder
from suite.training import train

NUM_TRAIN, NUM_VAL, SEED = 1200, 200, 0
MAX_AP_DIFFERENCE = 1e-3


def demo(folder: Path, *, say: Callable[[str], None] = click.echo) -> Path:
    """Generate data, train, evaluate, export, verify, benchmark and report; return the report.

    Args:
        folder: for data and runs; generated data that stands there already is used again.
        say: receives one line per stage.

    Raises:
        CheckFailed: the exported graph does not reach the checkpoint's AP.
    """
    started = time.perf_counter()
    data, runs = folder / "data", folder / "runs"
    if not data.exists():
        say(f"1/6 generate {NUM_TRAIN} + {NUM_VAL} images (seed {SEED}) in {data}")
        write_synthetic(data, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=SEED)
    recipe = load_recipe("demo")
    recipe = replace(recipe, data=replace(recipe.data, root=str(data)))
    say(
        f"2/6 train {recipe.detector.name}, {recipe.schedule.epochs:g} epochs, at width "
        f"{recipe.detector.width} (narrow: the full network needs more time than a demo has)"
    )
    run = train(recipe, output=runs)
    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    say("3/6 export to one ONNX file with NMS inside, and verify it")
    photos = sorted(p for p in (data / "val").iterdir() if p.suffix in IMAGE_SUFFIXES)[:8]
    graph, parity = export(checkpoint, images=photos)
    say(
        f"    {parity.paired} of {parity.detections} detections paired, "
        f"{parity.borderline} borderline, logits within {parity.logits:.1e}"
    )
    say("4/6 evaluate checkpoint and graph on the same images")
    request = EvaluationRequest(recipe=recipe, output=runs, device="cpu")
    ours, _ = evaluate_model(checkpoint, request)
    theirs, _ = evaluate_model(graph, request)
    _require_same_ap(ours.ap or 0.0, theirs.ap or 0.0)
    say(f"    PyTorch AP {ours.ap:.3f}, AP50 {ours.ap50:.3f}; ONNX Runtime AP {theirs.ap:.3f}")
    say("5/6 benchmark inference, PyTorch against ONNX Runtime, and draw predictions")
    for model in (checkpoint, graph):
        record = bench_infer(
            model, InferenceRequest(images=photos, device="cpu", runs=20, warmup=3)
        )
        write_record(record, new_record_path(runs, f"bench-{model.suffix[1:]}"))
    predictions = predict(graph, [str(path) for path in photos], output=runs, device="cpu")
    say(f"    drawn in {predictions.folder}")
    say("6/6 report")
    target = folder / "report.md"
    say(
        report(
            [runs],
            compare=None,
            reference_folder=shipped_folder("reference"),
            output=target,
            output_format="table",
        )
    )
    say(f"done in {time.perf_counter() - started:.0f} s: {target}")
    return target


def _require_same_ap(ours: float, theirs: float) -> None:
    if abs(ours - theirs) > MAX_AP_DIFFERENCE:
        raise CheckFailed(f"AP is {ours:.4f} in PyTorch and {theirs:.4f} in ONNX Runtime")
