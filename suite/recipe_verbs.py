"""What `suite recipes list | show | copy | validate | diff` answer, as plain rows and text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from suite import schedule
from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.recipe import Recipe, find_recipe, list_shipped_recipes, load_recipe, recipe_to_dict
from suite.recipe_sections import NAME_LIMIT
from suite.strict_nodes import compose_nodes
from suite.strict_yaml import encode_yaml


class RecipeRow(NamedTuple):
    """One shipped recipe in the list."""

    name: str
    detector: str
    devices: str
    """Kind and count, such as "npu x 8"."""
    global_batch: int
    epochs: float
    summary: str
    """First line of the file's header."""


class DiffRow(NamedTuple):
    """One field in which two recipes differ."""

    key: str
    a: Any
    b: Any


def list_recipes() -> list[RecipeRow]:
    """Return a row for each shipped recipe, in order of name."""
    return [_build_row(name, path) for name, path in list_shipped_recipes().items()]


def show_recipe(recipe: Recipe, *, dataset_size: int | None = None) -> str:
    """Return a recipe with every default written out, and what follows from it as comments.

    Args:
        recipe: loaded, overrides included.
        dataset_size: images of the training set; without it, and without
            `schedule.nominal_epoch_images`, the numbers of steps are not known.
    """
    facts = derive_facts(recipe, dataset_size=dataset_size)
    width = max(len(name) for name in facts)
    lines = [f"# {name + ':':<{width + 1}} {value}\n" for name, value in facts.items()]
    return encode_yaml(recipe) + "\n# derived\n" + "".join(lines)


def derive_facts(recipe: Recipe, *, dataset_size: int | None = None) -> dict[str, str]:
    """Return what a recipe implies without saying it: steps, learning rate, images per device."""
    peak = schedule.peak_learning_rate(recipe.schedule, global_batch=recipe.global_batch)
    facts = {
        "images a step and device": f"{recipe.global_batch // recipe.devices}",
        "peak learning rate": f"{peak:.6g}",
    }
    images = recipe.schedule.nominal_epoch_images or dataset_size
    if images is None:
        return facts | {"steps": "depend on the number of training images"}
    of_run = {"global_batch": recipe.global_batch, "dataset_size": images}
    milestones = schedule.milestone_steps(recipe.schedule, **of_run)
    decay = (
        {"milestones at steps": ", ".join(f"{step:,}" for step in milestones)}
        if milestones
        else {"steps to the floor": f"{schedule.decay_steps(recipe.schedule, **of_run):,}"}
    )
    return facts | {
        "steps per epoch": f"{schedule.steps_per_epoch(recipe.schedule, **of_run):,}",
        "steps in total": f"{schedule.total_steps(recipe.schedule, **of_run):,}",
        "steps of warm-up": f"{schedule.warmup_steps(recipe.schedule, **of_run):,}",
        **decay,
    }


def learning_rate_at(recipe: Recipe, step: int, dataset_size: int) -> float:
    """Return the learning rate of one step, counted from 0."""
    return schedule.learning_rate(
        step, recipe.schedule, global_batch=recipe.global_batch, dataset_size=dataset_size
    )


def copy_recipe(name: str, target: Path, *, force: bool = False) -> Path:
    """Copy a recipe, comments included, as the start of one's own; return the file written.

    The copy's `name` is that of its file, so that its runs do not mix with the original's.

    Args:
        name: a shipped name, or a file.
        target: the new file, or an existing folder to put it into.
        force: whether an existing file is replaced.

    Raises:
        UsageError: no such recipe, the target exists, or its name cannot name a recipe.
        SuiteError: the target cannot be written.
    """
    source = find_recipe(name)
    path = target / source.name if target.is_dir() else target
    if path.exists() and not force:
        raise UsageError(f"{path}: exists; choose another name or pass --force")
    if not NAME_LIMIT.holds(path.stem):
        expected = f"expected {NAME_LIMIT.expected}"
        raise UsageError(f"{path}: {path.stem!r} cannot name a recipe; {expected}")
    load_recipe(str(source))
    text = _rename(source.read_text(encoding="utf-8-sig"), path.stem)
    try:
        write_text(path, text)
    except OSError as error:
        raise SuiteError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def validate_recipes(paths_or_names: Sequence[str] = ()) -> list[Recipe]:
    """Load recipes and return them; without arguments all shipped ones.

    Raises:
        UsageError: holds every mistake of every recipe, one line each.
    """
    recipes, mistakes = [], []
    for path_or_name in paths_or_names or list(list_shipped_recipes()):
        try:
            recipes.append(load_recipe(path_or_name))
        except UsageError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return recipes


def diff_recipes(a: Recipe, b: Recipe) -> list[DiffRow]:
    """Return the fields in which two recipes differ, in the order of the file."""
    pairs = zip(_flatten(recipe_to_dict(a)), _flatten(recipe_to_dict(b)), strict=True)
    return [DiffRow(key, left, right) for (key, left), (_, right) in pairs if left != right]


def _rename(text: str, name: str) -> str:
    """Give the text of a valid recipe another name; all other characters stay."""
    # The node's own place: a pattern could meet `name:` in another section, or quotes.
    root, _ = compose_nodes(text)
    assert isinstance(root, yaml.MappingNode)
    node = next(value for key, value in root.value if key.value == "name")
    spelled = yaml.safe_dump({"name": name}).strip().removeprefix("name: ")  # "null" needs quotes
    return text[: node.start_mark.index] + spelled + text[node.end_mark.index :]


def _build_row(name: str, path: Path) -> RecipeRow:
    recipe = load_recipe(str(path))
    return RecipeRow(
        name=name,
        detector=recipe.detector.name,
        devices=f"{recipe.device} x {recipe.devices}",
        global_batch=recipe.global_batch,
        epochs=recipe.schedule.epochs,
        summary=_read_summary(path),
    )


def _read_summary(path: Path) -> str:
    first = path.read_text(encoding="utf-8-sig").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _flatten(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
