"""The verb that makes an int8 graph of a fp32 graph: quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from suite.cli.flags import FILE, print_json
from suite.errors import CheckFailed


@click.command()
@click.argument("model", type=FILE)
@click.option("--calibrate", "source", metavar="DIR", required=True,
              help="Images to measure ranges on; best of the training data.")  # fmt: skip
@click.option("--calibration-images", "num_images", type=click.IntRange(min=1),
              show_default="as many as export takes", help="How many of them at most.")  # fmt: skip
@click.option("--max-drop", type=click.FloatRange(0, 1),
              show_default="what verify allows int8",
              help="How much AP may be lost; 0.01 is a point of 100.")  # fmt: skip
@click.option("--max-evaluations", type=click.IntRange(min=1), default=12, show_default=True,
              help="How many int8 graphs are judged at most.")  # fmt: skip
@click.option("--recipe", help="Whose val split to judge on; by default the model's own.")
@click.option("--data", metavar="DIR", help="Override where the data is (data.root).")
@click.option(
    "--batch", type=click.IntRange(min=1), default=8, show_default=True, help="Images a call."
)
@click.option(
    "--output", "-o", type=FILE, help="Name of the graph; by default MODEL with .int8.onnx."
)
@click.option(
    "--force", is_flag=True, help="Replace an existing file, once a graph keeps the budget."
)
@click.option("--records", type=FILE, default=Path("runs"), show_default=True,
              help="Where the record's folder is made.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def quantize(
    model: Path, source: str, recipe: str | None, records: Path, as_json: bool, **wanted: Any
) -> None:
    """Write MODEL (.onnx, fp32) as int8, as fast as an AP budget allows; exit 3 if it does not."""
    from suite.deploy.quantize import QuantizeRequest, format_frontier, format_refusal
    from suite.deploy.quantize import quantize as quantize_graph
    from suite.predict import find_images
    from suite.recipe import load_recipe
    from suite.records import write_record
    from suite.run_folder import new_record_path

    loaded = load_recipe(recipe) if recipe else None
    given = {name: value for name, value in wanted.items() if value is not None}
    request = QuantizeRequest(images=find_images([source]), recipe=loaded, **given)
    frontier = quantize_graph(model, request)
    write_record(frontier.record, new_record_path(records, f"quantize-{model.stem}"))
    if as_json:
        print_json("suite.quantize/1", record=frontier.record)
    else:
        click.echo(format_frontier(frontier))
    if frontier.chosen is None:
        raise CheckFailed(format_refusal(model, frontier))
    if not as_json:
        click.echo(str(frontier.target))


VERBS = (quantize,)
