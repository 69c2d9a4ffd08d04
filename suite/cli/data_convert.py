"""The command `suite data convert`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from suite.cli.data_flags import FORMATS, find_source, name_splits, source_flags
from suite.cli.flags import FILE, print_json
from suite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from suite.cli.data_flags import Source
    from suite.data.converting import Conversion
    from suite.data.formats import Format, Location
    from suite.progress import Progress


@click.command("convert")
@source_flags
@click.option("--to", "target", required=True, type=click.Choice(FORMATS), help="What to write.")
@click.option("--output", required=True, type=FILE, metavar="DIR", help="A new folder.")
@click.option("--split", metavar="NAME", help="What to call the split; without a recipe only.")
@click.option(
    "--images-as",
    type=click.Choice(["copy", "link", "leave"]),
    default="copy",
    show_default=True,
    help="link: hard links; leave: only with --to coco.",
)
@click.option(
    "--map-ids",
    type=FILE,
    metavar="FILE",
    help="A label map (.pbtxt): give each class the id that its name has there.",
)
@click.option(
    "--shards",
    "num_shards",
    type=click.IntRange(1, 512),
    default=32,
    show_default=True,
    help="Files of a TFRecord split.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON document.")
def convert(
    recipe: str | None,
    target: str,
    output: Path,
    split: str | None,
    images_as: Any,
    map_ids: Path | None,
    num_shards: int,
    as_json: bool,
    **where: Any,
) -> None:  # fmt: skip
    """Write the data of RECIPE, both splits, or what the flags describe, in another format.

    Ids and names are kept; what the target cannot hold is counted, and the counts, the map of ids
    and the rounding stand in DIR/conversion.json. DIR appears when all of it is done.
    """
    from suite.data.converting import SCHEMA, ConversionOptions
    from suite.data.converting import convert as convert_splits

    source = find_source(recipe, **where)
    with _showing_progress() as progress:
        done = convert_splits(
            _name_splits(source, split),
            to=cast("Format", target),
            output=output,
            options=ConversionOptions(
                images=images_as, num_shards=num_shards, map_ids=map_ids, progress=progress
            ),
        )
    if as_json:
        print_json(SCHEMA, output=str(output), **asdict(done))
    else:
        click.echo(_format_conversion(done, output))


def _name_splits(source: Source, name: str | None) -> Mapping[str, Location]:
    """Return the splits by the names of their files, such as train2017, or the given one."""
    if source.recipe is not None and name is not None:
        raise UsageError("--split: a recipe has two; leave it out")
    names = name_splits(source)
    return {name or names[split]: place for split, place in source.splits.items()}


@contextmanager
def _showing_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress, split by split; yields the function to call after each image."""
    from suite.progress import Progress

    shown: dict[str, Progress] = {}

    def update(split: str, done: int, total: int) -> None:
        if split not in shown:
            for finished in shown.values():
                finished.close()
            shown[split] = Progress(total, label=split)
        shown[split].update(done)

    try:
        yield update
    finally:
        for progress in list(shown.values())[-1:]:
            progress.close()


def _format_conversion(done: Conversion, output: Path) -> str:
    from tabulate import tabulate

    from suite.report.layout import clean

    rows = [[item.source_id, item.target_id, clean(item.name)] for item in done.categories]
    head = ["source id", f"{done.target_format} id", "name"]
    lines = []
    for name, split in done.splits.items():
        lines.append(f"{name}: {split.num_images} images, {split.num_boxes} boxes")
        lines += [f"  not carried: {what}: {count}" for what, count in split.not_carried.items()]
        if split.images_left_in:
            lines.append(f"  images left in {split.images_left_in}")
    lines += [f"rounding: {done.rounding}", str(output)]
    table = tabulate(rows, headers=head, disable_numparse=True, colalign=["right", "right", "left"])
    return "\n".join([table, "", *map(clean, lines)])
