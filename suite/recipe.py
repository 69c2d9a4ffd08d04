"""What one run is: which detector, on which data, trained how, on what; read from YAML, strictly.

Anything that changes a published number has no default. Ranges stand with each field; `load_recipe`
reports every mistake of a file at once. An epoch is one pass over the data, a step one update.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, ge, gt
from pathlib import Path
from typing import Annotated, Any, Literal

from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.shipped import shipped_folder
from suite.strict_nodes import MAX_CHARACTERS, suggest
from suite.strict_yaml import (
    Aliases,
    Limit,
    Rule,
    encode_plain,
    encode_yaml,
    list_keys,
    read_plain,
    read_yaml,
)

Count = Annotated[int, Limit("at least 1", lambda value: value >= 1)]
CountOrZero = Annotated[int, Limit("at least 0", lambda value: value >= 0)]
Positive = Annotated[float, Limit("more than 0", lambda value: value > 0)]
PositiveOrZero = Annotated[float, Limit("at least 0", lambda value: value >= 0)]
Share = Annotated[float, Limit("a number from 0 to 1", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Limit("from 0 to below 1", lambda value: 0 <= value < 1)]
Seed = Annotated[int, Limit("from 0 to 4294967295", lambda value: 0 <= value < 2**32)]
# It names run folders: safe on every file system, and no flag on a command line.
NAME_LIMIT = Limit(
    "at most 64 ASCII letters, digits, '-' and '_', a letter or digit first",
    lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", value) is not None,
)
Name = Annotated[str, NAME_LIMIT]
PathOrUrl = Annotated[
    str,
    Limit(
        "a path or an https URL", lambda value: value.startswith("https://") or "://" not in value
    ),
]
DatasetName = Annotated[
    str, Limit("a name such as COCO2017", lambda value: value.strip() == value != "")
]
# What the graph's operators take: 3840 is TensorRT's limit for one TopK, 700 that of CANN's
# NonMaxSuppression.
Candidates = Annotated[int, Limit("from 1 to 3840", lambda value: 1 <= value <= 3840)]
Kept = Annotated[int, Limit("from 1 to 700", lambda value: 1 <= value <= 700)]
# The names that Ascend's tools give to mixed precision.
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], Aliases({"O0": "fp32", "O1": "fp16", "O2": "fp16"})
]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Which network."""

    name: Literal["ssd_r34"]
    """A key of `models.DETECTORS`."""
    num_classes: Count
    """Classes of the data, background not counted."""
    backbone_weights: PathOrUrl | None
    """ImageNet weights to start from; null: random initialisation."""
    width: Positive = 1.0
    """Channel multiplier; 1.0 is the published detector."""
    padding: Literal["torch", "same"] = "torch"
    """Of strided layers: `torch` goes with torchvision's weights, `same` with TensorFlow's."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Where one part of the data lies, relative to `data.root`."""

    annotations: str
    """coco: the JSON file. voc: the image set, such as `train` for ImageSets/Main/train.txt."""
    images: str | None = None
    """coco: folder of the images. voc: left out, they always lie in JPEGImages."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images and boxes."""

    name: DatasetName
    """As in published tables, such as COCO2017; only numbers on data of one name are compared."""
    format: Literal["coco", "voc"]
    """COCO JSON, or Pascal VOC XML."""
    root: str
    """Folder that holds all of it; `--data` overrides it."""
    train: Split
    """Trained on."""
    val: Split
    """Evaluated on."""
    use_crowd: bool
    """Whether COCO crowd boxes and VOC `difficult` objects are training targets."""
    workers: CountOrZero = 2
    """Loader processes a device; never changes a result."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How training images are varied."""

    crop: Literal["none", "all_boxes", "any_box"]
    """Which boxes must overlap a random crop enough: `all_boxes` as published for SSD-ResNet34, or
    `any_box`, which crowded images can satisfy."""
    crop_factor: Share = 1.0
    """Multiplies the overlaps asked for (0, 0.1, ... 0.9); small objects need less than 1."""
    flip: Share
    """Probability of a horizontal flip."""
    jitter: bool
    """Whether brightness, contrast, saturation and hue are varied."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Stochastic gradient descent with momentum."""

    momentum: BelowOne
    """0.9 in every published SSD."""
    weight_decay: PositiveOrZero
    """L2 penalty, on every parameter."""
    clip_norm: Positive | None = None
    """Largest L2 norm of the whole gradient; null: not clipped."""
    ema_decay: BelowOne | None = None
    """Decay per step of averaged weights; null: none are kept."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and the learning rate on the way: linear warm-up, cosine, floor."""

    epochs: Positive
    """Length of the run; fractions are meant."""
    nominal_epoch_images: Count | None = None
    """Nominal images per epoch; null: the size of the training set."""
    base_lr: Positive
    """Peak learning rate at `base_batch` images a step; scaled linearly to the global batch."""
    base_batch: Count
    """Images a step that `base_lr` is stated for."""
    warmup_epochs: PositiveOrZero
    """Linear from 0 over these."""
    decay_epochs: Positive
    """The cosine's length, counted from the first step, not from the end of the warm-up."""
    final_lr_factor: Share
    """The cosine ends at this part of the peak and stays there."""


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """From scores to detections."""

    score_threshold: BelowOne
    """Detections score strictly more."""
    iou_threshold: Share
    """A box goes when it overlaps a better one of its class strictly more."""
    max_detections: Kept
    """Kept per image."""
    pre_topk: Candidates
    """Candidates per image that reach suppression."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: Name
    """Names the run folders, `runs/<name>-<n>`."""
    detector: Detector
    """Which network."""
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
    """How many of them; `--devices` overrides it."""
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


def _build_images_rules(split: str) -> tuple[Rule, Rule]:
    keys = (f"data.{split}.images", "data.format")
    return (
        Rule(
            keys,
            lambda images, form: form != "coco" or images is not None,
            f"format coco needs data.{split}.images, the folder of the images",
        ),
        Rule(
            keys,
            lambda images, form: form != "voc" or images is None,
            f"format voc has all images in JPEGImages; leave data.{split}.images out",
        ),
    )


RULES = (
    *_build_images_rules("train"),
    *_build_images_rules("val"),
    Rule(
        ("global_batch", "devices"),
        lambda batch, devices: batch % devices == 0,
        "{0} images a step (global_batch) cannot be shared evenly by {1} devices",
    ),
    Rule(
        ("schedule.nominal_epoch_images", "global_batch"),
        lambda images, batch: images is None or images >= batch,
        "{0} images an epoch (nominal_epoch_images) are fewer than {1} a step (global_batch)",
    ),
    Rule(
        ("schedule.decay_epochs", "schedule.warmup_epochs"),
        gt,
        "a decay of {0:g} epochs has to be longer than a warm-up of {1:g}",
    ),
    Rule(
        ("postprocess.pre_topk", "postprocess.max_detections"),
        ge,
        "{0} candidates (pre_topk) are fewer than {1} detections (max_detections)",
    ),
)


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


def recipe_digest(recipe: Recipe) -> str:
    """Return the sha256 (hex) of a recipe's canonical JSON; which recipe a number belongs to."""
    plain = recipe_to_dict(recipe)
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


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
