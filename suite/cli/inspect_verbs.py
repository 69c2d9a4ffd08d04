"""The verb that shows a model file's card: inspect."""

from __future__ import annotations

from pathlib import Path

import click

from suite.cli.flags import FILE, print_json


@click.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print all of it, nothing shortened.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what FILE (.pth or .onnx) is, what it takes and answers, and what is known of it."""
    from suite.deploy.card import inspect as inspect_model
    from suite.deploy.card_text import format_card

    card = inspect_model(file)
    if as_json:
        print_json("suite.inspect/1", **card.as_dict())
    else:
        click.echo(format_card(card))


VERBS = (inspect,)
