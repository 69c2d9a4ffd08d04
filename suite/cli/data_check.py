"""The command `suite data check`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from suite.cli.data_flags import find_source, name_splits, require_writable, source_flags
from suite.cli.flags import FILE, print_json, progress_of
from suite.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from suite.cli.data_flags import Source
    from suite.data.checking.checks import Check
    from suite.data.checking.findings import Findings

_SCHEMA: Final = "suite.data-check/2"


@click.command("check")
@source_flags
@click.option("--no-decode", is_flag=True, help="Look at annotations and file names only.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Processes that decode images; 0: none but this one.",
)
@click.option(
    "--fix",
    "output",
    type=FILE,
    metavar="OUT",
    help="Also write a corrected set: a new folder, or for one COCO file a new .json.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the findings, up to 10,000 of a kind, as one JSON document.",
)
def check(no_decode: bool, workers: int, output: Path | None, as_json: bool, **where: Any) -> None:
    """Check the data of RECIPE, or one split named by flags; exit 3 when something is an error."""
    from suite.data.checking.checks import check_splits
    from suite.data.checking.findings import Findings
    from suite.data.checking.fixing import require_new_output

    source = find_source(**where)
    if output is not None:
        require_new_output(source.splits, output)
        require_writable(output)
    findings = Findings()
    try:
        checked = check_splits(
            source.splits,
            findings=findings,
            recipe=source.recipe,
            decode=not no_decode,
            workers=workers,
            show=progress_of,
        )
    except InputError as error:
        if findings.kept:
            _print_unfinished(source, findings, error, as_json=as_json)
        raise
    _print_and_fix(checked, source, output, as_json=as_json)
    if findings.num_errors:
        remedy = "" if output is None else f"; without what can be mended: {output}"
        raise CheckFailed(f"{source.name}: {findings.num_errors} errors in the data{remedy}")


def _print_unfinished(
    source: Source, findings: Findings, error: InputError, *, as_json: bool
) -> None:
    """Print what was found before a reader could not go on."""
    from suite.data.checking.checks import Check, to_json
    from suite.data.checking.findings import format_findings
    from suite.data.checking.pictures import Unusable

    if as_json:
        so_far = to_json(Check(source.splits, {}, findings, Unusable()))
        print_json(_SCHEMA, **so_far, fixed=None, stopped_by=str(error))
    else:
        click.echo(f"{format_findings(findings)}\n")


def _print_and_fix(checked: Check, source: Source, output: Path | None, *, as_json: bool) -> None:
    """Print the findings, also where the corrected set cannot be written, and write that."""
    from suite.data.checking.checks import format_check, to_json

    if not as_json:
        click.echo(format_check(checked))
    fixed = None
    try:
        if output is not None:
            fixed = _fix(checked, source, output)
    finally:
        if as_json:
            print_json(_SCHEMA, **to_json(checked), fixed=fixed, stopped_by=None)
    if fixed and not as_json:
        click.echo(f"\n{output}: {_say_changes(fixed['changes'])}")
        if fixed["settings"]:
            settings = [f"{key}={value}" for key, value in fixed["settings"].items()]
            click.echo("use it with " + " ".join(f"--set {shlex.quote(one)}" for one in settings))


def _fix(checked: Check, source: Source, output: Path) -> dict[str, Any]:
    """Write the corrected set; return where it is, what was changed and how a recipe uses it."""
    from suite.data.checking.fixing import find_settings, write_corrected

    names = name_splits(source)
    changes = write_corrected(checked, output, names=names)
    recipe = source.recipe
    settings = {} if recipe is None else find_settings(recipe.data, output, names)
    return {"output": str(output), "changes": changes, "settings": settings}


def _say_changes(changes: Mapping[str, Counter[str]]) -> str:
    return "; ".join(
        f"{split}: " + (", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing")
        for split, counts in changes.items()
    )
