"""The verbs that take a recipe or a model: train, eval, predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

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
    from suite.evaluation.judging import Judging
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
@click.option("--log-format", type=click.Choice(["plain", "modelzoo"]), default="plain",
              show_default=True,
              help="modelzoo: also log steps as the Ascend ModelZoo's SSD does.")  # fmt: skip
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
@click.option("--annotations", type=FILE, help="Ground truth of --results or --compare.")
@click.option("--compare", type=(FILE, FILE), metavar="A B",
              help="Compare two files of saved results on the same images.")  # fmt: skip
@click.option("--referee", type=click.Choice(["pycocotools", "hotcoco"]),
              help="Who judges; hotcoco, the fast one, where it is installed.")  # fmt: skip
@click.option("--analyse", is_flag=True,
              help="Say what AP is lost by; writes eval/analysis.json too.")  # fmt: skip
@click.option("--bootstrap", "resamples", type=click.IntRange(100, 100_000), metavar="N",
              help="95 % interval of AP from N resamples of the images.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the resamples.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON document.")
def eval_(
    model: Path | None,
    recipe: str | None,
    results: Path | None,
    annotations: Path | None,
    compare: tuple[Path, Path] | None,
    devices: int,
    as_json: bool,
    **request: Any,
) -> None:
    """Judge MODEL (.pth or .onnx), or saved results, by COCO's twelve numbers."""
    num_given = sum(source is not None for source in (model, results, compare))
    if num_given != 1 or (annotations is None) != (model is not None):
        raise click.UsageError("give MODEL, or --results or --compare together with --annotations")
    if model is None:
        _refuse_flags_of_models()
    asked = {key: request.pop(key) for key in ("referee", "analyse", "resamples", "seed")}
    if compare is not None and annotations is not None:
        _compare_results(compare, annotations, asked, as_json)
        return
    judging = _build_judging(asked)
    if results is not None and annotations is not None:
        evaluation, folder = _judge_results(results, annotations, request["output"], judging)
        _show_evaluation(evaluation, folder, as_json)
        return
    assert model is not None

    def run(worker: Worker) -> None:
        own = request | {"worker": worker, "judging": judging}
        evaluation, folder = _judge_model(model, recipe, own)
        if worker.rank == 0:
            _show_evaluation(evaluation, folder, as_json)

    place = Placement(device=request["device"], num_devices=devices, output=request["output"])
    on_devices(place, run)


_OF_MODELS = (
    "recipe", "data", "device", "devices", "strict_device", "batch", "as_published", "runtime",
    "precision",
)  # fmt: skip


def _refuse_flags_of_models() -> None:
    """Refuse what has no effect on saved results."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if option.name in _OF_MODELS and given:
            raise click.UsageError(
                f"{option.opts[0]}: is for MODEL; saved results are what they are"
            )


def _show_evaluation(evaluation: Any, folder: Path, as_json: bool) -> None:
    from suite.records import load_record

    record = load_record(folder / "record.json")
    metrics, conditions = record["metrics"], record["conditions"]
    if as_json:
        judged = {key: conditions[key] for key in ("referee", "analysis") if key in conditions}
        figures = metrics | {"per_class_ap": evaluation.per_class_ap} | judged
        print_json("suite.eval/1", folder=str(folder), **figures)
        return
    from suite.evaluation.coco import format_evaluation, modelzoo_line

    click.echo(format_evaluation(evaluation))
    if "ap_low" in metrics and metrics["ap_low"] is None:
        click.echo("AP has no interval: too few images or no true boxes")
    elif "ap_low" in metrics:
        low, high = 100 * metrics["ap_low"], 100 * metrics["ap_high"]
        click.echo(f"AP, 95 % interval: {low:.2f} to {high:.2f}")
    if "analysis" in conditions:
        _show_analysis(folder / conditions["analysis"])
    click.echo(modelzoo_line(evaluation))
    click.echo(str(folder))


def _show_analysis(path: Path) -> None:
    from suite.evaluation.analysis import format_analysis

    click.echo(f"\n{format_analysis(json.loads(path.read_text(encoding='utf-8')))}\n")


def _build_judging(asked: dict[str, Any]) -> Judging:
    from suite.evaluation.judging import Judging

    return Judging(**asked | {"resamples": asked["resamples"] or 0})


def _compare_results(
    results: tuple[Path, Path], annotations: Path, asked: dict[str, Any], as_json: bool
) -> None:
    from suite.evaluation.bootstrap import DEFAULT_RESAMPLES
    from suite.evaluation.comparison import compare_results, format_comparison

    if asked["analyse"]:
        raise click.UsageError("--analyse is for one set of results; give it with --results")
    judging = _build_judging(asked | {"resamples": asked["resamples"] or DEFAULT_RESAMPLES})
    comparison = compare_results(*results, annotations, judging=judging)
    if as_json:
        print_json("suite.eval-compare/1", **comparison.as_dict())
    else:
        click.echo(format_comparison(comparison))


def _judge_results(results: Path, annotations: Path, output: Path, judging: Judging) -> Any:
    from suite.evaluation.model import evaluate_results

    return evaluate_results(results, annotations, output=output, judging=judging)


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
