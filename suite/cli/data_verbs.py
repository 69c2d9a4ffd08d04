"""The group `suite data`: make, check, convert, count and fetch data sets."""

from __future__ import annotations

from pathlib import Path

import click

from suite.cli.data_check import check
from suite.cli.data_convert import convert
from suite.cli.data_download import download
from suite.cli.data_stats import stats
from suite.cli.flags import FILE, progress_of


@click.group()
def data() -> None:
    """Make, check, convert, count and fetch data sets."""


@data.command("synth")
@click.argument("folder", type=FILE)
@click.option("--train", "num_train", type=click.IntRange(min=1), default=1200, show_default=True)
@click.option("--val", "num_val", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def synth(folder: Path, num_train: int, num_val: int, seed: int) -> None:
    """Write a generated COCO-format set to FOLDER: the same seed gives the same bytes."""
    from suite.data.synthetic import write_synthetic

    with progress_of(num_train + num_val, "generate") as update:
        write_synthetic(folder, num_train=num_train, num_val=num_val, seed=seed, progress=update)
    click.echo(str(folder))


for command in (check, convert, stats, download):
    data.add_command(command)

VERBS = (data,)
