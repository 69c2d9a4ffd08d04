"""The command `suite data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from suite.cli.data_flags import find_source, source_flags
from suite.cli.flags import FILE, print_json, progress_of
from suite.errors import CheckFailed


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
@click.option("--json", "as_json", is_flag=True, help="Print every finding as one JSON document.")
def check(no_decode: bool, workers: int, output: Path | None, as_json: bool, **where: Any) -> None:
    """Check the data of RECIPE, or one split named by flags; exit 3 when something is an error."""
    from suite.data.checking.checks import check_splits, format_check, to_json
    from suite.data.checking.fixing import require_new_output, write_corrected

    source = find_source(**where)
    if output is not None:
        require_new_output(source.splits, output)
    checked = check_splits(
        source.splits,
        recipe=source.recipe,
        decode=not no_decode,
        workers=workers,
        show=progress_of,
    )
    changes = None if output is None else write_corrected(checked, output)
    if as_json:
        fixed = None if changes is None else {"output": str(output), "changes": changes}
        print_json("suite.data-check/2", **to_json(checked), fixed=fixed)
    else:
        click.echo(format_check(checked))
        if changes is not None:
            click.echo(f"\n{output}: {_say_changes(changes)}")
    num_errors = checked.findings.num_errors
    if num_errors:
        remedy = "" if output is None else f"; without what can be mended: {output}"
        raise CheckFailed(f"{source.name}: {num_errors} errors in the data{remedy}")


def _say_changes(changes: Mapping[str, Counter[str]]) -> str:
    return "; ".join(
        f"{split}: " + (", ".join(f"{name} {n}" for name, n in sorted(counts.items())) or "nothing")
        for split, counts in changes.items()
    )
