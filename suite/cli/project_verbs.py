"""The verbs around recipes and the machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from suite.cli.flags import FILE, load_recipe_with, print_json, recipe_flags

_PROGRAM = "suite"


@click.group()
def recipes() -> None:
    """List, show, copy, validate and compare recipes."""


@recipes.command("list")
@click.option("--json", "as_json", is_flag=True)
def recipes_list(as_json: bool) -> None:
    """List the shipped recipes."""
    from tabulate import tabulate

    from suite.recipe_verbs import list_recipes

    rows = [row._asdict() for row in list_recipes()]
    if as_json:
        print_json("suite.recipes/1", recipes=rows)
    else:
        click.echo(
            tabulate(rows, headers="keys", tablefmt="simple", maxcolwidths=[None] * 5 + [40])
        )


@recipes.command("show")
@click.argument("recipe")
@recipe_flags
@click.option(
    "--dataset-size",
    type=click.IntRange(min=1),
    help="Training images, where the recipe has no nominal_epoch_images.",
)
@click.option(
    "--lr-at",
    type=click.IntRange(min=0),
    metavar="STEP",
    help="Print the learning rate of one step, from 0.",
)
def recipes_show(recipe: str, dataset_size: int | None, lr_at: int | None, **where: Any) -> None:
    """Print RECIPE with every default written out and what follows from it."""
    from suite.recipe_verbs import learning_rate_at, show_recipe

    loaded, _ = load_recipe_with(recipe, **where)
    if lr_at is None:
        click.echo(show_recipe(loaded, dataset_size=dataset_size), nl=False)
        return
    size = loaded.schedule.nominal_epoch_images or dataset_size
    if size is None:
        raise click.UsageError(
            "--lr-at needs --dataset-size: the recipe has no schedule.nominal_epoch_images"
        )
    click.echo(f"{learning_rate_at(loaded, lr_at, size):.8f}")


@recipes.command("copy")
@click.argument("recipe")
@click.argument("target", type=FILE)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def recipes_copy(recipe: str, target: Path, force: bool) -> None:
    """Copy RECIPE, comments included, to TARGET."""
    from suite.recipe_verbs import copy_recipe

    click.echo(str(copy_recipe(recipe, target, force=force)))


@recipes.command("validate")
@click.argument("names", nargs=-1)
def recipes_validate(names: Sequence[str]) -> None:
    """Check recipes, all shipped ones by default; all mistakes at once, exit 2."""
    from suite.recipe_verbs import validate_recipes

    for recipe in validate_recipes(names):
        click.echo(f"{recipe.name}: valid")


@recipes.command("diff")
@click.argument("first")
@click.argument("second")
def recipes_diff(first: str, second: str) -> None:
    """Print the fields in which two recipes differ."""
    from tabulate import tabulate

    from suite.recipe import load_recipe
    from suite.recipe_verbs import diff_recipes

    rows = [
        (row.key, row.a, row.b) for row in diff_recipes(load_recipe(first), load_recipe(second))
    ]
    click.echo(
        tabulate(rows, headers=["key", first, second], tablefmt="simple", disable_numparse=True)
    )


@click.command()
@click.option("--recipe", metavar="RECIPE",
              help="Hold this machine against what a recipe asks for, a file or a shipped name; "
                   "the flags below override it.")  # fmt: skip
@recipe_flags
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def doctor(recipe: str | None, as_json: bool, **where: Any) -> None:
    """Show what this machine has and what is missing.

    Ends in 4 where the device that --device or else the recipe names is not usable.
    """
    from suite.doctor import doctor as examine
    from suite.doctor import format_checks, require_device

    if recipe is None:
        _refuse_overrides(where)
        checks = examine(where["device"] or "auto")
    else:
        loaded, _ = load_recipe_with(recipe, **where)
        checks = examine(loaded.device, recipe=loaded, typed=_retype(recipe, where))
    if as_json:
        print_json("suite.doctor/1", checks=[asdict(check) for check in checks])
    else:
        click.echo(format_checks(checks))
    require_device(checks)


def _refuse_overrides(where: Mapping[str, Any]) -> None:
    """Refuse flags that override a recipe where there is none; a device needs none."""
    given = [name for name, value in where.items() if name != "device" and value not in (None, ())]
    if given:
        flag = "--set" if given[0] == "assignments" else f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"{flag} overrides a recipe: add --recipe RECIPE")


def _retype(recipe: str, where: Mapping[str, Any]) -> str:
    """Return what was typed about a recipe, but for its devices, which a remedy says anew."""
    words = [recipe] if where["data"] is None else [recipe, "--data", where["data"]]
    for assignment in where["assignments"]:
        if assignment.partition("=")[0].strip() not in ("device", "devices"):
            words += ["--set", assignment]
    return shlex.join(words)


@click.command()
@click.option(
    "--output", type=FILE, default=Path("demo"), show_default=True, help="Where data and runs go."
)
def demo(output: Path) -> None:
    """Walk the whole road on generated images: train, evaluate, export, verify, bench, report."""
    from suite.demo import demo as run_demo

    run_demo(output)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; for bash: source <(suite completion bash)."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(root, {}, _PROGRAM, "_SUITE_COMPLETE").source())


VERBS = (recipes, doctor, demo, completion)
