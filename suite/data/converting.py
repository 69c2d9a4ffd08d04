"""Converting annotations among COCO, Pascal VOC, YOLO and TFRecord, every direction, as a stream.

Ids and names are kept. Where a target numbers its classes itself (YOLO, from 0) or the caller asks
for other ids, the map stands in the result and in ``conversion.json`` in the output, with what
could not be carried, by reason, and the rounding of reading and of writing. Which id is which class
is only ever read from a file: 1..90 is never taken for 0..79.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NoReturn

from suite.data.formats import Format, Location
from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet, Problem
from suite.data.formats.destination import Destination
from suite.data.formats.label_map import load_label_map
from suite.data.formats.streaming import stream_annotated
from suite.data.formats.writing import write_annotated
from suite.errors import InputError, UsageError
from suite.files import completing

SCHEMA: Final = "suite.conversion/1"
SUMMARY_NAME: Final = "conversion.json"

_READING: Final[dict[Format, str]] = {
    "coco": "no rounding",
    "voc": "boxes to within 1e-8 pixels",
    "yolo": "boxes to 1e-6 pixels",
    "tfrecord": "boxes to 0.001 pixels, areas to six digits",
}
_WRITING: Final[dict[Format, str]] = {
    "coco": "no rounding",
    "voc": "boxes to within 1e-8 pixels",
    "yolo": "boxes to within 1e-6 pixels",
    "tfrecord": "corners to within 0.001 pixels in images up to 8,000 pixels, areas to six digits",
}
# Beyond these a number is infinite in the target: TFRecord has float32.
_LARGEST: Final[dict[Format, float]] = {"tfrecord": (2 - 2**-23) * 2.0**127}
_SPLIT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """How to convert.

    Attributes:
        images: see `Destination`.
        num_shards: of a TFRecord split.
        map_ids: a label map; each class gets the id that its name has there.
        progress: called with (split, images done, images) after each image.
    """

    images: Literal["copy", "link", "leave"] = "copy"
    num_shards: int = 32
    map_ids: Path | None = None
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True)
class MappedCategory:
    """A class, its id in the source and in the target; YOLO's ids are its indices."""

    source_id: int
    target_id: int
    name: str


@dataclass(frozen=True, kw_only=True)
class ConvertedSplit:
    """What became of one split.

    Attributes:
        source: its annotations.
        digest: sha256 (hex) over the content of those.
        num_boxes: in the source; those that were left out stand in `not_carried`.
        images_left_in: the folder that the file names start from, where images were left; else "".
        not_carried: what -> how often.
    """

    source_format: Format
    source: str
    digest: str
    num_images: int
    num_boxes: int
    images_left_in: str
    not_carried: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What `convert` did; also the content of ``conversion.json``."""

    target_format: Format
    rounding: str
    categories: tuple[MappedCategory, ...]
    splits: Mapping[str, ConvertedSplit]


def convert(
    sources: Mapping[str, Location], *, to: Format, output: Path, options: ConversionOptions
) -> Conversion:
    """Write splits in another format: all of it or, on any failure, nothing.

    Memory does not grow with the number of images.

    Args:
        sources: name of the split in the target -> where it lies.
        output: a folder that is not there yet.

    Raises:
        UsageError: the output is there, or the options do not fit the formats or each other.
        InputError: something in the source cannot be used, or the output cannot be written.
    """
    _require_options(sources, to=to, output=output, options=options)
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(stream_annotated(location, report=_stop))
            for name, location in sources.items()
        }
        names = _require_same_categories(opened)
        new_ids = _find_new_ids(names, options.map_ids)
        folder = stack.enter_context(completing(output))
        splits = {}
        for name, annotated in opened.items():
            tally = _Tally(name, annotated, new_ids, to=to, progress=options.progress)
            destination = Destination(
                folder=folder, split=name, images=options.images, num_shards=options.num_shards
            )
            not_carried = write_annotated(tally.passing(), to, destination)
            splits[name] = _tell_split(sources[name], tally, not_carried, options)
        conversion = Conversion(
            target_format=to,
            rounding=_tell_rounding(sources.values(), to),
            categories=_map_categories(names, new_ids, to),
            splits=splits,
        )
        _write_summary(folder / SUMMARY_NAME, conversion)
    return conversion


def _require_options(
    sources: Mapping[str, Location], *, to: Format, output: Path, options: ConversionOptions
) -> None:
    if output.exists() or output.is_symlink():
        raise UsageError(f"{output}: is there already; name a new folder")
    for name, location in sources.items():
        if not _SPLIT_NAME.fullmatch(name):
            raise UsageError(
                f"split {name!r}: names are at most 64 letters, digits, '.', '_' and '-', a letter "
                "or digit first; give one with --split"
            )
        if options.images == "leave" and location.format == "tfrecord":
            raise UsageError("images cannot be left: the records hold them; copy them")
    if options.images == "leave" and to != "coco":
        raise UsageError(f"images cannot be left: {to} has them in its own folders; copy or link")


def _tell_rounding(sources: Iterable[Location], to: Format) -> str:
    formats = sorted({location.format for location in sources})
    reading = " and ".join(f"read from {name}: {_READING[name]}" for name in formats)
    return f"{reading}; written to {to}: {_WRITING[to]}"


def _stop(problem: Problem) -> NoReturn:
    raise InputError(
        f"{problem}. Nothing was written; `suite data check` lists all such places, and its --fix "
        "writes annotations without them"
    )


def _require_same_categories(opened: Mapping[str, AnnotatedSet]) -> Mapping[int, str]:
    (first, names), *others = ((name, dict(split.category_names)) for name, split in opened.items())
    for other, other_names in others:
        if other_names != names:
            differing = sorted(set(names.items()) ^ set(other_names.items()))
            shown = ", ".join(f"{category_id} {name!a}" for category_id, name in differing[:5])
            raise InputError(
                f"{first} and {other} do not have the same categories: {shown}; one data set has "
                "one map of ids to names"
            )
    return names


def _find_new_ids(names: Mapping[int, str], label_map: Path | None) -> Mapping[int, int]:
    """Return source id -> target id."""
    if label_map is None:
        return {category_id: category_id for category_id in names}
    id_of = load_label_map(label_map).id_of
    missing = [name for name in names.values() if name not in id_of]
    if missing:
        raise UsageError(
            f"{label_map}: has no id for {', '.join(map(ascii, missing[:5]))}"
            f"{' and others' if len(missing) > 5 else ''}; add all classes of the source"
        )
    new_ids = {category_id: id_of[name] for category_id, name in names.items()}
    if len(set(new_ids.values())) < len(new_ids):
        raise UsageError(f"{label_map}: gives two classes of the source one id; give each its own")
    return new_ids


class _Tally:
    """Counts what passes through a split on its way to a writer, and gives it its new ids."""

    def __init__(
        self,
        name: str,
        annotated: AnnotatedSet,
        new_ids: Mapping[int, int],
        *,
        to: Format,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._name, self._new_ids, self._progress = name, new_ids, progress
        self._largest = _LARGEST.get(to, sys.float_info.max)
        self.annotated = annotated
        self.num_images = self.num_boxes = self.num_not_finite = 0
        self.image_folder: Path | None = None

    def passing(self) -> AnnotatedSet:
        """Return the split, with the target's ids; it is to be read once."""
        names = self.annotated.category_names
        renamed = {self._new_ids[category_id]: name for category_id, name in names.items()}
        return replace(
            self.annotated, category_names=dict(sorted(renamed.items())), images=self._pass_images
        )

    def _pass_images(self) -> Iterator[AnnotatedImage]:
        for image in self.annotated.images():
            if self.image_folder is None:
                depth = len(PurePosixPath(image.file_name).parts) - 1
                self.image_folder = image.image.path.parents[depth]
            boxes = tuple(
                self._renumber(box) for box in image.boxes if _is_finite(box, self._largest)
            )
            yield replace(image, boxes=boxes)
            self.num_images += 1
            self.num_boxes += len(image.boxes)
            self.num_not_finite += len(image.boxes) - len(boxes)
            if self._progress:
                self._progress(self._name, self.num_images, self.annotated.num_images)

    def _renumber(self, box: AnnotatedBox) -> AnnotatedBox:
        new_id = self._new_ids[box.category_id]
        return box if new_id == box.category_id else replace(box, category_id=new_id)


def _is_finite(box: AnnotatedBox, largest: float) -> bool:
    """Whether all numbers that may be written of a box are finite and not above `largest`."""
    x, y, width, height = box.box_xywh
    numbers = (x, y, width, height, x + width, y + height, width * height, box.area or 0)
    return all(-largest <= number <= largest for number in numbers)


def _tell_split(
    location: Location, tally: _Tally, not_carried: Counter[str], options: ConversionOptions
) -> ConvertedSplit:
    if tally.num_not_finite:
        not_carried["box with a coordinate that is not finite"] += tally.num_not_finite
    not_carried += tally.annotated.dropped
    left_in = location.images or tally.image_folder if options.images == "leave" else None
    return ConvertedSplit(
        source_format=location.format,
        source=str(location.annotations),
        digest=tally.annotated.digest,
        num_images=tally.num_images,
        num_boxes=tally.num_boxes,
        images_left_in=str(left_in.absolute()) if left_in else "",
        not_carried=dict(sorted(not_carried.items())),
    )


def _map_categories(
    names: Mapping[int, str], new_ids: Mapping[int, int], to: Format
) -> tuple[MappedCategory, ...]:
    index_of = {new_id: index for index, new_id in enumerate(sorted(new_ids.values()))}
    return tuple(
        MappedCategory(source_id, index_of[new_id] if to == "yolo" else new_id, names[source_id])
        for source_id, new_id in new_ids.items()
    )


def _write_summary(path: Path, conversion: Conversion) -> None:
    text = json.dumps({"schema": SCHEMA, **asdict(conversion)}, indent=2)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
