"""Flags and output that several verbs share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from suite.recipe import Recipe

FILE = click.Path(path_type=Path)
DEVICES = click.Choice(["auto", "cpu", "cuda", "npu"])


class _ImageSize(click.ParamType[tuple[int, int]]):
    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
        if found is None:
            self.fail(f"{value!r}: expected height x width, such as 800x1344", param, ctx)
        return int(found[1]), int(found[2])


IMAGE_SIZE = _ImageSize()


def recipe_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say where a recipe runs."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Override one field of the recipe, such as schedule.epochs=2."),
        click.option("--devices", type=int, help="Override the number of devices."),
        click.option("--device", type=DEVICES, help="Override the recipe's device."),
        click.option("--data", metavar="DIR", help="Override where the data is (data.root)."),
    ):  # fmt: skip
        function = option(function)
    return function


CACHE = click.option(
    "--cache",
    type=click.Choice(["none", "ram", "disk"]),
    help="Keep training images decoded (data.cache).",
)


def load_recipe_with(
    recipe: str,
    *,
    data: str | None,
    device: str | None,
    devices: int | None,
    assignments: Sequence[str],
    cache: str | None = None,
) -> tuple[Recipe, list[str]]:
    """Load a recipe with what the flags override; also return what that changed, as sentences."""
    from suite.placement import place_recipe
    from suite.recipe import load_recipe, parse_overrides

    overrides, notes = place_recipe(load_recipe(recipe), device=device, devices=devices)
    if data is not None:
        overrides["data.root"] = data
    if cache is not None:
        overrides["data.cache"] = cache
    for note in notes:
        click.echo(note, err=True)
    return load_recipe(recipe, overrides | parse_overrides(assignments)), notes


def print_json(schema: str, **content: Any) -> None:
    """Print one JSON document with its schema."""
    click.echo(json.dumps({"schema": schema, **content}, indent=2))


@contextmanager
def progress_of(total: int, label: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress; yields the function to call with the work done and the total."""
    from suite.progress import Progress

    progress = Progress(total, label=label)
    try:
        yield lambda done, _: progress.update(done)
    finally:
        progress.close()
