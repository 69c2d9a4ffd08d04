"""What an annotation format says, as it stands in its files: the one form between all formats.

Readers turn files into an `AnnotatedSet`, writers turn one into files; nothing is repaired, clipped
or renumbered on the way. Boxes are `_xywh` in pixels of the annotated image, x and y from its upper
left corner, as the data set states them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from suite.data.sample import ImageFile
from suite.errors import InputError


@dataclass(frozen=True, slots=True)
class AnnotatedBox:
    """One object.

    Attributes:
        box_id: the data set's own, 0 where the format has none.
        category_id: the data set's own, a key of `AnnotatedSet.category_names`.
        box_xywh: may be anything a file can state, NaN and negative sides included.
        crowd: COCO's `iscrowd`, VOC's `difficult`.
        area: as stated; None: width x height.
        extra: what else the file says of it, by its key in the file.
    """

    box_id: int
    category_id: int
    box_xywh: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image.

    Attributes:
        image_id: the data set's own, else a position from 1.
        file_name: within the data set's image folder, parts separated by "/".
        image: where its bytes lie; not opened, may be missing.
        image_hw: height and width as annotated, or of the file where the format does not say.
        extra: what else the file says of it, by its key in the file.
    """

    image_id: int
    file_name: str
    image: ImageFile
    image_hw: tuple[int, int]
    boxes: tuple[AnnotatedBox, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedSet:
    """One split.

    Attributes:
        category_names: category id -> name, ids ascending.
        num_images: how many `images` yields, if it meets no problem.
        images: starts a pass over the images, in the order of the file; any number of times.
        digest: sha256 (hex) over the annotation content.
        dropped: what the files say that this form has no place for, by name, and how often;
            complete when `images` has been read.
    """

    category_names: Mapping[int, str]
    num_images: int
    images: Callable[[], Iterator[AnnotatedImage]]
    digest: str
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Problem:
    """Something in an annotation file that cannot be used.

    Attributes:
        rule: its short name, such as ``unknown_category``.
        file: where it stands.
        item: what it is about, such as ``annotation 17``; may be empty.
        value: what is wrong, with the value.
        remedy: what to do.
    """

    rule: str
    file: str
    item: str
    value: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.item}" if self.item else self.file
        return f"{place}: {self.value}; {self.remedy}"


Report = Callable[[Problem], None]
"""What a reader calls with a problem; where that returns, the reader leaves the item out."""


def refuse(problem: Problem) -> None:
    """Raise InputError: the way of everything but `data check`."""
    raise InputError(str(problem))
