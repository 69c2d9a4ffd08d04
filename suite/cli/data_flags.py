"""Which splits a verb on data works on: both of a recipe, or the one that four flags describe."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from suite.cli.flags import FILE
from suite.errors import InputError, UsageError

if TYPE_CHECKING:
    from suite.data.formats import Format, Location
    from suite.recipe import Recipe

FORMATS = ("coco", "voc", "yolo", "tfrecord")


@dataclass(frozen=True)
class Source:
    """What a verb works on.

    Attributes:
        splits: name -> place. Of a recipe `train` and `val`, else one by the name of its file.
        recipe: None where flags describe the data.
        name: for messages and headings.
    """

    splits: Mapping[str, Location]
    recipe: Recipe | None
    name: str


def source_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Add RECIPE, and the flags that may stand in its place; their values go to `find_source`."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Override one field of the recipe, such as data.format=voc."),
        click.option("--data", metavar="DIR", help="Override the recipe's data.root."),
        click.option("--label-map", type=FILE, metavar="FILE",
                     help="Names of the category ids: label_map.pbtxt; yolo: data.yaml."),
        click.option("--images", type=FILE, metavar="DIR", help="coco, yolo: the image folder."),
        click.option("--annotations", type=FILE, metavar="PATH",
                     help="coco: the JSON file; voc: ROOT/ImageSets/Main/NAME.txt; "
                          "yolo: the folder of label files; tfrecord: a pattern ('DIR/train*')."),
        click.option("--format", "data_format", type=click.Choice(FORMATS),
                     help="Without a recipe: how the annotations are written."),
        click.argument("recipe", required=False),
    ):  # fmt: skip
        function = option(function)
    return function


def find_source(
    recipe: str | None,
    *,
    data_format: str | None,
    annotations: Path | None,
    images: Path | None,
    label_map: Path | None,
    data: str | None,
    assignments: Sequence[str],
) -> Source:
    """Turn the values of `source_flags` into places; nothing of the data is opened.

    Raises:
        UsageError: neither a recipe nor a format and its annotations are given, or both are.
    """
    of_flags = {"--format": data_format, "--annotations": annotations, "--images": images,
                "--label-map": label_map}  # fmt: skip
    if recipe is not None:
        _refuse_given(of_flags, "a recipe says this itself; leave it out, or use --set data.KEY=")
        return _find_in_recipe(recipe, data=data, assignments=assignments)
    _refuse_given({"--data": data, "--set": assignments or None}, "it changes a recipe; name one")
    if data_format is None or annotations is None:
        raise UsageError("name a recipe, or the data: --format FORMAT --annotations PATH")
    location = _build_location(cast("Format", data_format), annotations, images, label_map)
    return Source({name_split(location): location}, None, str(annotations))


def name_split(location: Location) -> str:
    """Return what a split is called by its file or folder, such as train2017."""
    name = location.annotations.name
    if location.format == "tfrecord":
        name = name.partition("*")[0].partition("-")[0]
    elif location.format != "yolo":
        name = Path(name).stem
    name = name.removeprefix("instances_").removesuffix(".tfrecord").removesuffix(".record")
    return name.strip("._-?[]") or "data"


def name_splits(source: Source) -> Mapping[str, str]:
    """Return split -> the name of its file or folder; where two have one name, the splits' own."""
    named = {split: name_split(place) for split, place in source.splits.items()}
    return named if len(set(named.values())) == len(named) else {split: split for split in named}


def require_writable(path: Path) -> None:
    """Raise InputError where no file can be made at `path`; nothing is left there."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _find_in_recipe(recipe: str, *, data: str | None, assignments: Sequence[str]) -> Source:
    from suite.cli.flags import load_recipe_with
    from suite.data import locate_split

    loaded, _ = load_recipe_with(
        recipe, data=data, device=None, devices=None, device_ids=None, assignments=assignments
    )
    splits = {"train": locate_split(loaded.data, "train"), "val": locate_split(loaded.data, "val")}
    return Source(splits, loaded, loaded.name)


def _build_location(
    data_format: Format, annotations: Path, images: Path | None, label_map: Path | None
) -> Location:
    from suite.data.formats import Location

    if images is None and data_format in ("coco", "yolo"):
        raise UsageError(f"--format {data_format} needs the folder of the images: --images DIR")
    if images is not None and data_format == "tfrecord":
        raise UsageError("--images: the files of --format tfrecord hold the images; leave it out")
    if label_map is not None and data_format == "coco":
        raise UsageError("--label-map: a COCO file holds its names itself; leave it out")
    found = label_map or _find_customary(data_format, annotations)
    return Location(format=data_format, annotations=annotations, images=images, label_map=found)


def _find_customary(data_format: Format, annotations: Path) -> Path | None:
    """Return the label map of the data set's root, as `locate_split` does for a recipe."""
    from suite.data import LABEL_MAPS

    depth = {"voc": 2, "tfrecord": 0}.get(data_format)  # the reader of YOLO finds its own
    parents = annotations.absolute().parents
    if depth is None or depth >= len(parents):
        return None
    place = parents[depth] / LABEL_MAPS[data_format]
    return place if place.is_file() else None


def _refuse_given(flags: Mapping[str, object], reason: str) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise UsageError(f"{flag}: {reason}")
