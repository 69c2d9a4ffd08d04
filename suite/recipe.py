"""What one run is: which detector, on which data, trained how, on what; read from YAML, strictly.

Anything that changes a published number has no default. Ranges stand with each field; `load_recipe`
reports every mistake of a file at once. An epoch is one pass over the data, a step one update.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.recipe_rules import RULES
from suite.shipped import shipped_folder
from suite.strict_nodes import MAX_CHARACTERS, suggest
from suite.strict_yaml import (
    Aliases,
    Limit,
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
MAX_SIDE = 16384
Pixels = Annotated[int, Limit(f"from 1 to {MAX_SIDE}", lambda value: 1 <= value <= MAX_SIDE)]
Stages = Annotated[int, Limit("from 0 to 4", lambda value: 0 <= value <= 4)]
# The names that Ascend's tools give to mixed precision.
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], Aliases({"O0": "fp32", "O1": "fp16", "O2": "fp16"})
]


@dataclass(frozen=True, kw_only=True)
class RetinaNetVariant:
    """Where published RetinaNets differ; the defaults are mmdetection's.

    Imported weights bring the right values along.
    """

    caffe_stride: bool = False
    """Stride 2 in the 1x1 convolution of a bottleneck, as in Caffe's ResNets, not in the 3x3."""
    p6_from: Literal["c5", "p5"] = "c5"
    """What P6 is computed from: the backbone's last stage, or the finished P5 (torchvision)."""
    relu_before_p7: bool = False
    """Whether P7 is computed from the rectified P6 (torchvision, Detectron2)."""
    anchors: Literal["exact", "torchvision"] = "exact"
    """`torchvision` rounds the anchors' sides, and their distance where a map is not a whole
    fraction of the image."""
    normaliser: Literal["batch", "image"] = "batch"
    """Losses are divided by the positive anchors of the device's batch, or of each image."""
    low_quality: Literal["forced", "own_best"] = "forced"
    """What the best anchors of a box learn: this box, or the box that they overlap most."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Which network."""

    name: Literal[
        "ssd_r34",
        "retinanet_r18_fpn",
        "retinanet_r34_fpn",
        "retinanet_r50_fpn",
        "retinanet_r101_fpn",
    ]
    """A key of `models.DETECTORS`."""
    num_classes: Count
    """Classes of the data, background not counted."""
    backbone_weights: PathOrUrl | None
    """ImageNet weights to start from; null: random initialisation."""
    width: Positive = 1.0
    """Channel multiplier; 1.0 is the published detector."""
    padding: Literal["torch", "same"] = "torch"
    """Of strided layers: `torch` goes with torchvision's weights, `same` with TensorFlow's."""
    weights: str | None = None
    """A checkpoint of this suite to start from, such as one that `suite weights import` wrote; the
    class head starts afresh where it has another number of classes."""
    frozen_stages: Stages | None = None
    """Stages of the backbone that are not trained, its stem with the first of them; null: as
    published, 1 in RetinaNet and 0 in SSD."""
    variant: RetinaNetVariant = RetinaNetVariant()
    """RetinaNet's alone."""


@dataclass(frozen=True, kw_only=True)
class Resize:
    """How an image becomes the network's input; the defaults are SSD's, which knows no other."""

    mode: Literal["stretch", "pad", "fixed"] = "stretch"
    """stretch: to `short_side` x `short_side`, whatever the image's shape. pad: the image keeps its
    shape, and the input ends at multiples of 32 pixels. fixed: so too, but there are only two
    inputs, lying and standing, which compilers want."""
    short_side: Pixels = 300
    """The image's shorter side becomes this ..."""
    long_side: Pixels = 300
    """... unless the longer one would become more than this."""


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
    """0.9 in every published SSD and RetinaNet."""
    weight_decay: PositiveOrZero
    """L2 penalty, on every parameter that is trained."""
    clip_norm: Positive | None = None
    """Largest L2 norm of the whole gradient; null: not clipped."""
    ema_decay: BelowOne | None = None
    """Decay per step of averaged weights; null: none are kept."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and the learning rate on the way: linear warm-up, then a cosine or steps."""

    epochs: Positive
    """Length of the run; fractions are meant."""
    nominal_epoch_images: Count | None = None
    """Nominal images per epoch; null: the size of the training set."""
    base_lr: Positive
    """Peak learning rate at `base_batch` images a step; scaled linearly to the global batch."""
    base_batch: Count
    """Images a step that `base_lr` is stated for."""
    warmup_epochs: PositiveOrZero | None = None
    """Linear over these, or ..."""
    warmup_steps: CountOrZero | None = None
    """... over these."""
    warmup_start: Share = 0.0
    """The warm-up's first rate is this part of the rate it leads to."""
    decay_epochs: Positive | None = None
    """The cosine's length, counted from the first step, not from the end of the warm-up."""
    final_lr_factor: Share | None = None
    """The cosine ends at this part of the peak and stays there."""
    milestones: tuple[Positive, ...] = ()
    """Instead of a cosine: the rate is divided by 10 at the end of each of these epochs."""


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
    """Candidates that reach suppression, per image (SSD) or per pyramid level (RetinaNet)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run."""

    name: Name
    """Names the run folders, `runs/<name>-<n>`."""
    detector: Detector
    """Which network."""
    resize: Resize = Resize()
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
