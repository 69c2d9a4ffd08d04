"""The verbs that take a recipe or a model: train, eval, export, verify, predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.flags import (
    CACHE,
    DEVICES,
    FILE,
    IMAGE_SIZE,
    STRICT_DEVICE,
    load_request,
    print_json,
    recipe_flags,
)
from suite.cli.ranks import RESTARTS, Placement, on_devices, placement_of
from suite.errors import CheckFailed

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
    from suite.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    return evaluate_model(model, EvaluationRequest(recipe=loaded, **request))


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--output", "-o", type=FILE, help="Name of the graph; by default CHECKPOINT with .onnx."
)
@click.option("--nms", type=click.Choice(["op", "none"]), default="op", show_default=True,
              help="op: postprocess inside; none: raw logits and deltas.")  # fmt: skip
@click.option("--size", type=IMAGE_SIZE, metavar="HxW",
              help="Fix the input, such as 800x1344; else RetinaNet's is free.")  # fmt: skip
@click.option("--images", multiple=True, metavar="SOURCE", help="Photos for the proof of parity.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--records", type=FILE, default=Path("runs"), show_default=True,
              help="Where the record's folder is made.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the parity figures.")
def export(
    checkpoint: Path, images: Sequence[str], records: Path, as_json: bool, **target: Any
) -> None:
    """Write CHECKPOINT as one ONNX file, after proving that it computes the same."""
    from suite.deploy.export import export as export_graph
    from suite.predict import find_images

    graph, parity = export_graph(checkpoint, images=find_images(images), **target)
    _keep_parity("export", graph, parity, records)
    _show_parity(graph, parity, as_json)


@click.command()
@click.argument("model", type=FILE)
@click.option(
    "--against", "checkpoint", type=FILE, required=True, help="The checkpoint it must equal."
)
@click.option("--images", multiple=True, metavar="SOURCE", help="Photos to compare on.")
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the parity figures.")
def verify(
    model: Path, checkpoint: Path, images: Sequence[str], output: Path, as_json: bool
) -> None:
    """Prove that MODEL (.onnx) computes what a checkpoint computes; exit 3 if not."""
    from suite.deploy.verify import verify as verify_graph
    from suite.predict import find_images

    parity = verify_graph(model, checkpoint, images=find_images(images))
    _keep_parity("verify", model, parity, output)
    _show_parity(model, parity, as_json)
    if parity.failures():
        raise CheckFailed(f"{model}: not {checkpoint}: {'; '.join(parity.failures())}")


def _keep_parity(kind: str, graph: Path, parity: Any, output: Path) -> None:
    from suite.deploy.verify import build_parity_record
    from suite.records import write_record
    from suite.run_folder import new_record_path

    record = build_parity_record(kind, graph, parity)
    write_record(record, new_record_path(output, f"{kind}-{graph.stem}"))


def _show_parity(graph: Path, parity: Any, as_json: bool) -> None:
    if as_json:
        print_json("suite.verify/1", graph=str(graph), parity=parity.as_dict())
        return
    from suite.deploy.parity import format_parity

    click.echo(format_parity(parity))
    click.echo(str(graph))


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


VERBS = (train, eval_, export, verify, predict)
