"""The verb `demo`: the whole road on generated images, from recipe to report, in a few minutes.

It trains a narrow variant of the published detector (the recipe's `detector.width`), because the
full one does not learn from scratch in the time that a demo may take on two cores.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click
from PIL import Image

from suite.bench.candidate import InferenceRequest
from suite.bench.infer import bench_infer
from suite.checkpoint import list_checkpoints
from suite.data.synthetic import write_synthetic
from suite.deploy.export import export
from suite.deploy.parity import format_parity
from suite.device import cpu_has_bf16
from suite.drawing import tile_images
from suite.errors import CheckFailed
from suite.evaluation.coco import Evaluation
from suite.evaluation.judging import Judging
from suite.evaluation.model import EvaluationRequest, evaluate_model
from suite.files import replacing
from suite.predict import predict
from suite.recipe import Recipe, load_recipe
from suite.records import write_record
from suite.report import report
from suite.run_folder import new_record_path
from suite.shipped import shipped_folder
from suite.training import train

NUM_TRAIN, NUM_VAL, SEED = 1200, 200, 0
MIN_AP50 = 0.30
MAX_AP_DIFFERENCE = 1e-3
_NUM_PHOTOS = 8


def demo(folder: Path) -> Path:
    """Generate data, train, export, verify, evaluate, benchmark and report; return the page.

    Args:
        folder: for data and runs; a generated set that stands there already is used again.

    Raises:
        CheckFailed: the detector did not learn, or the graph does not reach the checkpoint's AP.
    """
    started = time.perf_counter()
    data, runs, target = folder / "data", folder / "runs", folder / "report.html"
    if not data.exists():
        click.echo(f"1/6 generate {NUM_TRAIN} + {NUM_VAL} images (seed {SEED}) in {data}")
        write_synthetic(data, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=SEED)
    recipe = _load_recipe(data)
    click.echo(
        f"2/6 train {recipe.detector.name}, {recipe.schedule.epochs:g} epochs, at width "
        f"{recipe.detector.width} (narrow: the full network needs more time than a demo has)"
    )
    run = train(recipe, output=runs, evaluate_at_end=False)
    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    click.echo("3/6 export to one ONNX file with NMS inside, and verify it")
    photos = sorted((data / "val").glob("*.jpg"))[:_NUM_PHOTOS]
    graph, parity = export(checkpoint, images=photos)
    click.echo(format_parity(parity))
    click.echo("4/6 evaluate checkpoint and graph on the same images")
    request = EvaluationRequest(
        recipe=recipe, output=runs, device="cpu", judging=Judging(analyse=True)
    )
    ours, theirs = (evaluate_model(model, request)[0] for model in (checkpoint, graph))
    click.echo(f"PyTorch AP {ours.ap:.4f}, AP50 {ours.ap50:.4f}; ONNX Runtime AP {theirs.ap:.4f}")
    click.echo("5/6 benchmark inference, PyTorch and ONNX Runtime, and draw predictions")
    for model in (checkpoint, graph):
        record = bench_infer(InferenceRequest(model=model, images=photos, device="cpu", runs=20))
        write_record(record, new_record_path(runs, f"bench-{model.suffix[1:]}"))
    # In the run's folder, where the page looks for pictures.
    predictions = predict(graph, [str(path) for path in photos], output=run, device="cpu")
    picture = folder / "predictions.jpg"
    _write_sheet(sorted(predictions.folder.glob("*.jpg")), picture)
    click.echo(f"drawn: {picture}")
    click.echo("6/6 report")
    click.echo(_report(runs, target))
    _require_learnt(ours, theirs)
    click.echo(f"done in {time.perf_counter() - started:.0f} s; the report: {target}")
    return target


def _load_recipe(data: Path) -> Recipe:
    overrides = {"data.root": str(data)}
    if not cpu_has_bf16():
        # Emulated bf16 is slower than fp32.
        overrides["precision"] = "fp32"
    return load_recipe("demo", overrides)


def _write_sheet(drawings: list[Path], target: Path) -> None:
    with ExitStack() as opened, replacing(target) as temporary:
        images = [opened.enter_context(Image.open(path)) for path in drawings]
        tile_images(images, columns=4).save(temporary, quality=88)


def _report(runs: Path, target: Path) -> str:
    return report(
        [runs],
        compare="reference",
        reference_folder=shipped_folder("reference"),
        output=target,
        output_format="table",
    )


def _require_learnt(ours: Evaluation, theirs: Evaluation) -> None:
    if (ours.ap50 or 0) < MIN_AP50:
        raise CheckFailed(f"AP50 is {ours.ap50}, a detector that learnt reaches {MIN_AP50}")
    if abs((ours.ap or 0) - (theirs.ap or 0)) > MAX_AP_DIFFERENCE:
        raise CheckFailed(f"AP is {ours.ap} in PyTorch and {theirs.ap} in ONNX Runtime")
