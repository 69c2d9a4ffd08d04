"""The verbs that make a graph of a checkpoint and prove it: export, verify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from suite.cli.flags import FILE, IMAGE_SIZE, print_json
from suite.errors import CheckFailed


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


VERBS = (export, verify)
