"""The verb that brings published data sets and weights."""

from __future__ import annotations

from pathlib import Path

import click

from suite.cli.flags import FILE


@click.command("download")
@click.argument("name", type=click.Choice(["coco2017", "voc2012", "resnet34", "resnet50"]))
@click.option(
    "--output",
    type=FILE,
    metavar="DIR",
    help="Folder to fill; by default data/NAME, and for weights the cache that training uses.",
)
def download(name: str, output: Path | None) -> None:
    """Bring the data set or the ImageNet weights NAME, and print where they are.

    What was interrupted goes on where it stopped, what is complete is left alone. Without a
    network, the message says where to place a copy of which file: the same command then goes on
    from there. An archive, also one that was placed there, is
    deleted once it is unpacked.
    """
    from suite.data.downloading import BACKBONES, DATA_SETS, download_set
    from suite.progress import transfer_progress
    from suite.weights import fetch_weights

    if name in DATA_SETS:
        folder = output or Path("data") / name
        download_set(DATA_SETS[name], folder)
        click.echo(str(folder))
        return
    with transfer_progress(name) as bar:
        path = fetch_weights(BACKBONES[name], output, progress=bar.update, say=bar.say)
    click.echo(str(path))
