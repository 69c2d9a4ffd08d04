"""The verbs that prove a property of runs: resume-check, repeat."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from suite.cli.flags import FILE, load_recipe_with, print_json, recipe_flags
from suite.errors import CheckFailed


@click.command("resume-check")
@click.argument("recipe")
@recipe_flags
@click.option(
    "--steps", type=click.IntRange(min=3), default=12, show_default=True, help="Of each run."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the step that is killed.")
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def resume_check(
    recipe: str, steps: int, seed: int, output: Path, as_json: bool, **where: Any
) -> None:
    """Prove that RECIPE, killed and resumed, goes on as if nothing had happened; exit 3 if not."""
    from suite.resume_check import format_resume_check
    from suite.resume_check import resume_check as check

    loaded, _ = load_recipe_with(recipe, **where)
    done = check(loaded, num_steps=steps, seed=seed, output=output)
    if as_json:
        exact = done.difference is None
        folder = None if exact else str(done.folder)  # it is gone where there is nothing to see
        answer = asdict(done) | {"folder": folder, "exact": exact}
        print_json("suite.resume-check/1", **answer)
    else:
        click.echo(format_resume_check(done))
    if done.difference is not None:
        raise CheckFailed(f"recipe {loaded.name}: a resumed run differs at {done.difference}")


@click.command("repeat")
@click.argument("manifest", type=FILE)
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def repeat(manifest: Path, output: Path, as_json: bool) -> None:
    """Run the run of MANIFEST (manifest.json) again; exit 3 if something else comes out."""
    from suite.repeat import format_repeated
    from suite.repeat import repeat as run_again

    done = run_again(manifest, output=output)
    if as_json:
        answer = asdict(done) | {"folder": str(done.folder), "matched": done.matched}
        print_json("suite.repeat/1", **answer)
    else:
        click.echo(format_repeated(done))
        click.echo(str(done.folder))
    if not done.matched:
        raise CheckFailed(f"{manifest}: the run again differs at {done.difference}")


VERBS = (resume_check, repeat)
