"""The verbs that take a recipe or a model: train, eval, predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.flags import (
    CACHE,
    DEVICES,
    FILE,
    STRICT_DEVICE,
    load_request,
    print_json,
    recipe_flags,
)
from suite.cli.ranks import RESTARTS, Placement, on_devices, placement_of

if TYPE_CHECKING:
    from suite.launch.worker import Worker

_SEED_FLAGS = "The flags of the Ascend ModelZoo's scripts work too: see recipes/FROM_MODELZOO.md."


@click.command(epilog=_SEED_FLAGS)
@click.argument("recipe")
@recipe_flags
@CACHE
@click.option(
    "--output",
    type=FILE,
    default=Path("runs"),
    show_default=True,
    help="Where the run folder is made.",
)
@click.option("--resume", type=FILE, help="A run folder to continue at the exact sample.")
@click.option("--allow-changed", multiple=True, metavar="KEY",
              help="A key of the recipe in which a resumed run may differ.")  # fmt: skip
@RESTARTS
@STRICT_DEVICE
@click.option("--no-eval", is_flag=True, help="Do not evaluate the final weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's record.")
def train(
    recipe: str,
    output: Path,
    restarts: int,
    no_eval: bool,
    as_json: bool,
    **request: Any,
) -> None:
    """Train a detector by RECIPE, a file or a shipped name; prints the run folder."""
    from suite.records import load_record

    loaded, notes, request = load_request(recipe, request)

    def run(worker: Worker) -> None:
        from suite.training import train as run_training

        folder = run_training(
            loaded,
            output=output,
            evaluate_at_end=not no_eval,
            notes=notes,
            worker=worker,
            **request,
        )
        if worker.rank != 0:
            return
        if as_json:
            print_json("suite.train/1", run=str(folder), record=load_record(folder / "record.json"))
        else:
            click.echo(str(folder))

    on_devices(placement_of(loaded, output=output, restarts=restarts), run)


@click.command("eval")
@click.argument("model", type=FILE, required=False)
@click.option("--recipe", help="Whose val split to use; by default the model's own.")
@click.option("--data", metavar="DIR", help="Override where the data is (data.root).")
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many of them share the images.")  # fmt: skip
@STRICT_DEVICE
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images a call."
)
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--as-published", is_flag=True,
              help="Postprocess exactly as the published code does, not as the graph.")  # fmt: skip
@click.option("--runtime", type=click.Choice(["ort", "openvino"]), default="ort",
              show_default=True, help="What runs a graph.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32",
              show_default=True, help="What OpenVINO computes a graph in.")  # fmt: skip
@click.option("--results", type=FILE, help="Judge saved COCO results instead of a model.")
@click.option("--annotations", type=FILE, help="Ground truth of --results.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON document.")
def eval_(
    model: Path | None,
    recipe: str | None,
    results: Path | None,
    annotations: Path | None,
    devices: int,
    as_json: bool,
    **request: Any,
) -> None:
    """Judge MODEL (.pth or .onnx), or saved results, by COCO's twelve numbers."""
    if results is not None and annotations is not None and model is None:
        evaluation, folder = _judge_results(results, annotations, request["output"])
        _show_evaluation(evaluation, folder, as_json)
        return
    if model is None or results is not None or annotations is not None:
        raise click.UsageError("give either MODEL, or --results together with --annotations")

    def run(worker: Worker) -> None:
        evaluation, folder = _judge_model(model, recipe, request | {"worker": worker})
        if worker.rank == 0:
            _show_evaluation(evaluation, folder, as_json)

    place = Placement(device=request["device"], num_devices=devices, output=request["output"])
    on_devices(place, run)


def _show_evaluation(evaluation: Any, folder: Path, as_json: bool) -> None:
    if as_json:
        figures = evaluation.numbers() | {"per_class_ap": evaluation.per_class_ap}
        print_json("suite.eval/1", folder=str(folder), **figures)
        return
    from suite.evaluation.coco import format_evaluation, modelzoo_line

    click.echo(format_evaluation(evaluation))
    click.echo(modelzoo_line(evaluation))
    click.echo(str(folder))


def _judge_results(results: Path, annotations: Path, output: Path) -> Any:
    from suite.evaluation.model import evaluate_results

    return evaluate_results(results, annotations, output=output)


def _judge_model(model: Path, recipe: str | None, request: dict[str, Any]) -> Any:
    from suite.evaluation.model import EvaluationRequest, evaluate_model
    from suite.graph_session import GraphRuntime
    from suite.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    runtime = GraphRuntime(name=request.pop("runtime"), precision=request.pop("precision"))
    if model.suffix != ".onnx" and runtime != GraphRuntime():
        raise click.UsageError(f"--runtime and --precision are for graphs; {model} is none")
    return evaluate_model(model, EvaluationRequest(recipe=loaded, runtime=runtime, **request))


@click.command()
@click.argument("model", type=FILE)
@click.argument("sources", nargs=-1, required=True)
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--draw-threshold", type=click.FloatRange(0, 1), default=0.3, show_default=True,
              help="Lowest score that is drawn; results.json holds all.")  # fmt: skip
def predict(
    model: Path, sources: Sequence[str], output: Path, device: str, draw_threshold: float
) -> None:
    """Detect with MODEL on SOURCES: files, folders or glob patterns."""
    from suite.predict import predict as run_prediction

    done = run_prediction(
        model, sources, output=output, device=device, draw_threshold=draw_threshold
    )
    for message in done.skipped:
        click.echo(f"skipped: {message}", err=True)
    click.echo(f"{done.num_detections} detections on {done.num_images} images")
    click.echo(str(done.folder))


VERBS = (train, eval_, predict)
