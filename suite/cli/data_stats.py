"""The command `suite data stats`."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.data_flags import find_source, require_writable, source_flags
from suite.cli.flags import FILE, print_json, progress_of
from suite.errors import InputError, UsageError

if TYPE_CHECKING:
    from suite.data.formats import Location
    from suite.data.formats.annotated import Problem
    from suite.data_stats.page import CountedSplit


@click.command("stats")
@source_flags
@click.option(
    "--html",
    "page",
    type=FILE,
    metavar="FILE",
    help="Also write one page with charts and example images.",
)
@click.option(
    "--examples",
    "num_examples",
    type=click.IntRange(0, 500),
    default=12,
    show_default=True,
    help="Images of each split on the page.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as one JSON document.")
def stats(
    recipe: str | None, page: Path | None, num_examples: int, as_json: bool, **where: Any
) -> None:  # fmt: skip
    """Count the data of RECIPE, or what the flags describe: images, boxes, sizes, classes."""
    from suite.data_stats.page import render_page
    from suite.data_stats.tables import format_statistics

    source = find_source(recipe, **where)
    if page is not None:
        _require_new(page)
    splits = {
        name: _count(name, location, num_examples if page else 0)
        for name, location in source.splits.items()
    }
    if page is not None:
        _write_page(page, render_page(source.name, splits))
    if as_json:
        counted = {name: asdict(split.statistics) for name, split in splits.items()}
        print_json("suite.data-stats/1", splits=counted)
    else:
        tables = [format_statistics(name, split.statistics) for name, split in splits.items()]
        click.echo("\n\n".join(tables))


def _require_new(page: Path) -> None:
    if page.exists() or page.is_symlink():
        raise UsageError(f"{page}: is there already; name a new file")
    require_writable(page)


def _write_page(page: Path, text: str) -> None:
    from suite.files import write_text

    try:
        write_text(page, text)
    except OSError as error:
        raise InputError(f"{page}: cannot be written ({error.strerror or error})") from error


def _count(name: str, location: Location, num_examples: int) -> CountedSplit:
    from suite.data.formats.streaming import stream_annotated
    from suite.data.stats import count_split
    from suite.data_stats.page import CountedSplit

    problems: Counter[str] = Counter()

    def report(problem: Problem) -> None:
        problems[problem.rule] += 1

    with (
        stream_annotated(location, report=report) as annotated,
        progress_of(annotated.num_images, name) as progress,
    ):
        statistics, examples = count_split(
            annotated, num_examples=num_examples, problems=problems, progress=progress
        )
        return CountedSplit(statistics, examples, annotated.category_names)
