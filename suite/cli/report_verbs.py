"""The verb around records: report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from suite.cli.flags import FILE

if TYPE_CHECKING:
    from suite.report import Format

_FORMATS = ["table", "markdown", "html", "json", "csv"]


@click.command()
@click.argument("records", nargs=-1)
@click.option("--compare", metavar="reference|RECORD|GLOB",
              help="Put published results, or other records, beside ours.")  # fmt: skip
@click.option("--model", "models", multiple=True, metavar="PATTERN",
              help="Only records of such detectors.")  # fmt: skip
@click.option("--device", "devices", multiple=True, metavar="PATTERN",
              help="Only records of cpu, cuda, npu or such device names.")  # fmt: skip
@click.option("--metric", "metrics", multiple=True, metavar="NAME",
              help="Only these figures, such as ap or latency_ms_p99.")  # fmt: skip
@click.option("--fail-on", metavar="CONDITIONS",
              help="End in 3 if one holds, as ap<0.36,images_per_second.global<112, or if no "
                   "selected record can answer it.")  # fmt: skip
@click.option("--output", type=FILE,
              help="Also write the report, in the form its name ends in: .html, .md, .json, .csv. "
                   "Nothing is written without it.")  # fmt: skip
@click.option("--format", "output_format", type=click.Choice(_FORMATS), default="table",
              show_default=True, help="Form of what is printed.")  # fmt: skip
def report(
    records: Sequence[str],
    compare: str | None,
    fail_on: str | None,
    output: Path | None,
    output_format: Format,
    **selected: Sequence[str],
) -> None:
    """Tabulate RECORDS (files, folders, patterns; by default all of runs/ and reports/records/)."""
    from suite.report import collect, format_of, render, require, write_report
    from suite.report.conditions import parse_conditions
    from suite.report.entries import Selection
    from suite.shipped import shipped_folder

    if output is not None:
        format_of(output)
    findings = collect(
        records,
        compare=compare,
        reference_folder=shipped_folder("reference"),
        selection=Selection(**selected),
    )
    if fail_on is not None:
        parse_conditions(fail_on, findings.found)  # a mistake shows before anything is printed
    text = render(findings, output_format)
    click.echo(text, nl=not text.endswith("\n"))
    if output is not None:
        write_report(findings, output)
        click.echo(f"Written: {output}", err=True)
    if fail_on is not None:
        require(findings, fail_on)


VERBS = (report,)
