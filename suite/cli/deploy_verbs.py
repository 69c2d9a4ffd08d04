"""The verbs that make a graph of a checkpoint and prove it: export, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.flags import BATCH, FILE, IMAGE_SIZE, print_json
from suite.errors import CheckFailed, MissingEnvironment

if TYPE_CHECKING:
    from suite.graph_metadata import GraphMetadata


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option(
    "--output", "-o", type=FILE, help="Name of the graph; by default CHECKPOINT with .onnx."
)
@click.option("--nms", type=click.Choice(["op", "none"]), default="op", show_default=True,
              help="op: postprocess inside; none: raw logits and deltas.")  # fmt: skip
@click.option("--size", type=IMAGE_SIZE, metavar="HxW",
              help="Fix the input, such as 800x1344; else RetinaNet's is free.")  # fmt: skip
@click.option("--batch", type=BATCH, metavar="N|dynamic", default="dynamic", show_default=True,
              help="Images at a time.")  # fmt: skip
@click.option("--preprocess", "prepare", is_flag=True,
              help="Take uint8 images of any size: resize and normalise inside.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32",
              show_default=True, help="Of the network; the postprocess stays fp32.")  # fmt: skip
@click.option("--score-threshold", type=click.FloatRange(0, 1, max_open=True),
              help="This and the next three replace the recipe's.")  # fmt: skip
@click.option("--iou-threshold", type=click.FloatRange(0, 1))
@click.option("--max-detections", type=click.IntRange(1, 700))
@click.option("--pre-topk", type=click.IntRange(1, 3840),
              help="Candidates that reach suppression.")  # fmt: skip
@click.option("--runtime-thresholds", is_flag=True,
              help="Make both thresholds inputs, with these as defaults.")  # fmt: skip
@click.option("--target", type=click.Choice(["ort", "openvino", "tensorrt", "cann"]),
              default="ort", show_default=True,
              help="Keep to the limits of this runtime.")  # fmt: skip
@click.option("--print-atc", "soc", metavar="SOC",
              help="Print the command that compiles it for a chip, as Ascend310P3.")  # fmt: skip
@click.option("--print-trtexec", is_flag=True,
              help="Print the command that builds a TensorRT engine of it.")  # fmt: skip
@click.option("--opset", type=click.IntRange(16, 20), default=18, show_default=True)
@click.option(
    "--images",
    multiple=True,
    metavar="SOURCE",
    help="Photos for the proof of parity, and for the ranges of int8.",
)
@click.option("--force", is_flag=True,
              help="Replace an existing file, once the new one is proven.")  # fmt: skip
@click.option("--web", type=FILE, metavar="DIR",
              help="Also write a page that detects in the browser.")  # fmt: skip
@click.option("--web-runtime", type=FILE, metavar="DIR",
              help="Unpacked npm package onnxruntime-web; by default npm fetches it.")  # fmt: skip
@click.option("--records", type=FILE, default=Path("runs"), show_default=True,
              help="Where the record's folder is made.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one document with the parity figures.")
def export(
    checkpoint: Path,
    output: Path | None,
    images: Sequence[str],
    force: bool,
    soc: str | None,
    print_trtexec: bool,
    web: Path | None,
    web_runtime: Path | None,
    records: Path,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Write CHECKPOINT as one ONNX file, after proving that it computes the same."""
    from suite.deploy.description import GraphRequest
    from suite.deploy.export import export as export_graph
    from suite.deploy.targets import format_handover
    from suite.deploy.web import require_detects, write_page
    from suite.predict import find_images

    request = GraphRequest(**wanted)
    if soc is not None and request.target != "cann":
        raise click.UsageError("--print-atc is for graphs of --target cann")
    if print_trtexec and request.target != "tensorrt":
        raise click.UsageError("--print-trtexec is for graphs of --target tensorrt")
    output = output or checkpoint.with_suffix(".onnx")
    _require_page(web, web_runtime, beside=(output, records))
    handover: list[str] = []

    def check(metadata: GraphMetadata) -> None:
        if soc is not None or print_trtexec:
            handover.append(format_handover(metadata, output, soc=soc or ""))
        if web is not None:
            require_detects(metadata, source=str(checkpoint))

    graph, parity = export_graph(
        checkpoint, request, output=output, images=find_images(images), force=force, check=check
    )
    _keep_parity("export", graph, parity, records)
    _show_parity(graph, parity, as_json, **({"handover": handover[0]} if handover else {}))
    if handover and not as_json:
        click.echo(handover[0], nl=False)
    if web is not None:
        page = write_page(graph, web, runtime_files=web_runtime)
        click.echo(f"{page}: serve its folder, for example with python -m http.server", err=True)


def _require_page(web: Path | None, runtime_files: Path | None, *, beside: Sequence[Path]) -> None:
    """Refuse what would keep a page from being written, before anything else is."""
    import shutil

    from suite.deploy.web import require_folder
    from suite.deploy.web.runtime_files import PACKAGE, read_runtime

    if web is None:
        if runtime_files is not None:
            raise click.UsageError("--web-runtime is for the page of --web DIR; pass that too")
        return
    require_folder(web)
    for path in beside:
        if web.absolute() in (path.absolute(), *path.absolute().parents):
            raise click.UsageError(f"{path}: is inside of --web {web}, which holds the page alone")
    if runtime_files is not None:
        read_runtime(runtime_files)
    elif shutil.which("npm") is None:
        raise MissingEnvironment(
            f"npm is not installed; install Node.js, or unpack {PACKAGE} elsewhere and give its "
            "folder with --web-runtime"
        )


@click.command()
@click.argument("model", type=FILE)
@click.option(
    "--against", "checkpoint", type=FILE, required=True, help="The checkpoint it must equal."
)
@click.option("--images", multiple=True, metavar="SOURCE", help="Photos to compare on.")
@click.option("--data", metavar="DIR", help="Also compare AP on the val split of a data set.")
@click.option("--recipe", help="Whose val split; by default the checkpoint's own recipe.")
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the parity figures.")
def verify(
    model: Path,
    checkpoint: Path,
    images: Sequence[str],
    data: str | None,
    recipe: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Prove that MODEL (.onnx) computes what a checkpoint computes; exit 3 if not."""
    from suite.deploy.verify import Comparison
    from suite.deploy.verify import verify as verify_graph
    from suite.predict import find_images
    from suite.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    on = Comparison(images=find_images(images), data=data, recipe=loaded)
    parity = verify_graph(model, checkpoint, on)
    _keep_parity("verify", model, parity, output)
    _show_parity(model, parity, as_json)
    if parity.failures():
        raise CheckFailed(f"{model}: not {checkpoint}: {'; '.join(parity.failures())}")


def _keep_parity(kind: str, graph: Path, parity: Any, output: Path) -> None:
    from suite.deploy.verify import build_parity_record
    from suite.records import write_record
    from suite.run_folder import new_record_path

    record = build_parity_record(kind, parity)
    write_record(record, new_record_path(output, f"{kind}-{graph.stem}"))


def _show_parity(graph: Path, parity: Any, as_json: bool, **more: Any) -> None:
    if as_json:
        failed = parity.first_failure()
        print_json(
            "suite.verify/1",
            graph=str(graph),
            parity=parity.as_dict(),
            stages=[asdict(stage) for stage in parity.stages()],
            first_difference=failed.name if failed else None,
            **more,
        )
        return
    from suite.deploy.parity import format_parity

    click.echo(format_parity(parity))
    click.echo(str(graph))


VERBS = (export, verify)
