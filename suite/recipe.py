"""What one run is: which detector, on which data, trained how, on what; read from YAML, strictly.

Anything that changes a published number has no default. Ranges stand with each field; `load_recipe`
reports every mistake of a file at once. An epoch is one pass over the data, a step one update.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.recipe_rules import RULES
from suite.recipe_sections import (
    Augment,
    Count,
    Data,
    Detector,
    Launch,
    Name,
    Optimizer,
    Positive,
    Postprocess,
    Precision,
    Resize,
    Schedule,
    Seed,
)
from suite.shipped import shipped_folder
from suite.strict_nodes import MAX_CHARACTERS, suggest
from suite.strict_yaml import (
    encode_plain,
    encode_yaml,
    list_keys,
    read_plain,
    read_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: Name
    """Names the run folders, `runs/<name>-<n>`."""
    detector: Detector
    """Which network."""
    resize: Resize = Resize()  # noqa: RUF009 - frozen, so it can be shared
    """How an image becomes the network's input."""
    data: Data
    """Which images and boxes."""
    augment: Augment
    """How training images are varied."""
    optimizer: Optimizer
    """How weights are updated."""
    schedule: Schedule
    """How long, at which learning rate."""
    postprocess: Postprocess
    """From scores to detections, in evaluation and as the default of an export."""
    global_batch: Count
    """Images a step over all devices."""
    precision: Precision
    """Of the forward pass; O0 is read as fp32, O1 and O2 as fp16."""
    device: Literal["auto", "cpu", "cuda", "npu"]
    """`--device` overrides it."""
    devices: Count
    """How many of them, on all machines together; `--devices` overrides it."""
    static_shapes: bool = False
    """Whether boxes are padded to the most of any image, so that all batches of one canvas have one
    shape, for devices that compile each. Never changes a result."""
    launch: Launch = Launch()  # noqa: RUF009 - frozen, so it can be shared
    """How long their processes wait for each other."""
    seed: Seed
    """Of weights, order and augmentation."""
    eval_every_epochs: Positive | None = None
    """null: once, at the end."""
    checkpoint_every_epochs: Positive = 1.0
    """Training state is saved this often."""
    log_every_steps: Count = 10
    """Losses are read from the device and written this often."""
    reference: tuple[str, ...] = ()
    """`row_id`s of reports/reference that this run is compared with."""


def load_recipe(path_or_name: str, overrides: Mapping[str, str] = {}) -> Recipe:
    """Load a recipe from a file, or one of the shipped ones by name.

    Args:
        path_or_name: an existing file, else a shipped name with or without `.yaml`.
        overrides: dotted key -> text, as `--set key=text` gives them.

    Raises:
        UsageError: there is no such recipe, or it has mistakes; all of them, one line each.
    """
    path = find_recipe(path_or_name)
    text = _read_text(path)
    return read_yaml(text, Recipe, source=str(path), overrides=overrides, rules=RULES)


def find_recipe(path_or_name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        UsageError: neither a file nor a shipped name.
    """
    # os.path: a name too long or with a NUL is no file there; pathlib raises.
    if os.path.isfile(path_or_name):  # noqa: PTH113
        return Path(path_or_name)
    shipped = list_shipped_recipes()
    name = path_or_name.removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    known = f"; shipped are {', '.join(shipped)}" if shipped else ""
    close = suggest(Path(name).name, shipped)
    raise UsageError(f"{path_or_name!r}: no such file and no shipped recipe{close}{known}")


def list_shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name, in order of name."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def parse_overrides(assignments: Sequence[str]) -> dict[str, str]:
    """Split the values of `--set key=value` into dotted key and text.

    Raises:
        UsageError: no "=", or a key twice.
    """
    overrides: dict[str, str] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: expected key=value, such as seed=1")
        if key.strip() in overrides:
            raise UsageError(f"--set {key.strip()}: given twice")
        overrides[key.strip()] = text
    return overrides


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as dictionaries, lists and scalars, what checkpoints hold."""
    plain: dict[str, Any] = encode_plain(recipe)
    return plain


def recipe_from_dict(plain: Mapping[str, Any], *, source: str) -> Recipe:
    """Build a recipe from `recipe_to_dict`'s dictionary through all checks of a file.

    Args:
        plain: may come from a file of others.
        source: how messages name where it comes from.

    Raises:
        UsageError: holds all mistakes, one line each.
    """
    return read_plain(plain, Recipe, source=source, rules=RULES)


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML that `load_recipe` reads back equal, all or nothing.

    Raises:
        SuiteError: the place cannot be written.
    """
    try:
        write_text(path, encode_yaml(recipe))
    except OSError as error:
        raise SuiteError(f"{path}: cannot be written: {error.strerror}") from None


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """Return the dotted keys of the fields that are not equal, in the order of the file."""
    return [key for key in list_keys(Recipe) if attrgetter(key)(a) != attrgetter(key)(b)]


def recipe_fields(recipe: Recipe) -> dict[str, str]:
    """Return every field of a recipe as text, by its dotted key."""
    return {key: str(attrgetter(key)(recipe)) for key in list_keys(Recipe)}


def recipe_digest(recipe: Recipe) -> str:
    """Return the sha256 (hex) of a recipe's canonical JSON; which recipe a number belongs to.

    Fields at their default are left out, so that a field which comes later changes no digest.
    """
    plain = _without_defaults(recipe)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _without_defaults(section: Any) -> dict[str, Any]:
    changed = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if value != field.default:
            nested = dataclasses.is_dataclass(value)
            changed[field.name] = _without_defaults(value) if nested else encode_plain(value)
    return changed


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CHARACTERS + 1)
        if len(content) > MAX_CHARACTERS:
            raise UsageError(f"{path}: larger than {MAX_CHARACTERS:,} bytes, no recipe is")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text, wrong at byte {error.start}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
