"""The verbs around weights of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from suite.cli.flags import FILE, print_json


@click.group()
def weights() -> None:
    """Bring in weights that others trained."""


@weights.command("import")
@click.argument("file", type=FILE)
@click.option(
    "--from",
    "source",
    type=click.Choice(["torchvision", "mmdet", "mlperf-ssd", "tf-resnet34"]),
    required=True,
    help="Whose weights they are.",
)
@click.option("--output", type=FILE, required=True, help="File to write, such as ours.pth.")
@click.option("--recipe", help="Recipe a detector goes on with; by default the source's own.")
@click.option(
    "--style",
    type=click.Choice(["pytorch", "caffe"]),
    default="pytorch",
    show_default=True,
    help="mmdet: which input the model had, and where a bottleneck's stride is.",
)
@click.option(
    "--annotations", type=FILE, help="COCO JSON with the classes, where they are not COCO's 80."
)
@click.option(
    "--batch-norm-eps",
    type=float,
    help="Epsilon the network was run with, else 1e-5; torchvision's own COCO RetinaNet: 0.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON document.")
def weights_import(
    file: Path,
    *,
    source: Literal["torchvision", "mmdet", "mlperf-ssd", "tf-resnet34"],
    output: Path,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Translate FILE, a detector or a backbone, and account for every key in it.

    A detector becomes a checkpoint (suite eval, export, predict; a recipe's detector.weights), a
    backbone a file for the recipe's detector.backbone_weights. FILE is read without running
    anything in it. For tf-resnet34 it is the name of a TensorFlow checkpoint, such as
    model.ckpt-28152.
    """
    from suite.zoo import Mismatch, Options, format_account, import_weights

    try:
        imported = import_weights(
            file, source=source, output=output, options=Options(**options), force=force
        )
    except Mismatch as mismatch:
        click.echo(format_account(mismatch.account), err=as_json)
        raise
    if as_json:
        print_json("suite.weights-import/1", **imported.to_plain())
        return
    click.echo(format_account(imported.account))
    click.echo(str(imported.path))


VERBS = (weights,)
