"""What the features of a detection example mean: the keys of the TF Object Detection API.

Boxes are float32, normalised to the image's sides. Times the sides they are pixels with an error of
up to width / 2^25, which rounding to 1/1000 pixel undoes: boxes of whole pixels or of two decimals
come back as they were in images up to 8,000 pixels wide. Areas become the shortest decimal number
of the same float32, so that six digits come back.

Keys that are not named here become `extra`: of an object, where there is one value for each; of the
image, where there is one. Binary values (masks) and lists of other lengths (captions, points) have
no place there and are counted. ``image/format`` and ``image/key/sha256`` are written but not read:
the format is that of the bytes, and the record's own checksum covers them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import numpy as np

from suite.data.formats.coco_items import MAX_SIDE
from suite.data.formats.tf_example import BadExample, Values

ENCODED: Final = "image/encoded"
# Key -> kind of its values, for all keys that the suite reads or writes.
KINDS: Final[Mapping[str, Literal["bytes", "float", "int64"]]] = {
    "image/height": "int64",
    "image/width": "int64",
    "image/filename": "bytes",
    "image/source_id": "bytes",
    "image/key/sha256": "bytes",
    ENCODED: "bytes",
    "image/format": "bytes",
    "image/object/bbox/xmin": "float",
    "image/object/bbox/xmax": "float",
    "image/object/bbox/ymin": "float",
    "image/object/bbox/ymax": "float",
    "image/object/class/text": "bytes",
    "image/object/class/label": "int64",
    "image/object/is_crowd": "int64",
    "image/object/difficult": "int64",
    "image/object/area": "float",
}
_OBJECT: Final = "image/object/"
_DECIMALS: Final = 3  # of a pixel

_Value = TypeVar("_Value", bytes, float, int)


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One object, as its record states it.

    Attributes:
        label: ``class/label``; None: not stated.
        text: ``class/text``; empty: not stated.
        corners: xmin, ymin, xmax, ymax, normalised.
        area: in square pixels; None: not stated.
        extra: what else its lists say of it, by the end of their key.
    """

    label: int | None
    text: str
    corners: tuple[float, float, float, float]
    crowd: bool
    area: float | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def box_xywh(self, image_hw: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the box in pixels, rounded as this module says."""
        height, width = image_hw
        xmin, ymin, xmax, ymax = self.corners
        x, y = xmin * width, ymin * height
        sides = xmax * width - x, ymax * height - y
        left, top, right, bottom = (round(value, _DECIMALS) for value in (x, y, *sides))
        return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Detection:
    """An example but for its image; texts are empty and sizes None where it does not say.

    Attributes:
        extra: what other keys say of the image, by their name without ``image/``.
        dropped: what has no place here, by name, and how often.
    """

    image_hw: tuple[int, int] | None
    file_name: str
    source_id: str
    objects: tuple[DetectedObject, ...]
    extra: Mapping[str, Any]
    dropped: Counter[str]


def read_detection(features: Mapping[str, Values]) -> Detection:
    """Read the features of an example; any may be absent.

    Raises:
        BadExample: one has values of another type, or their numbers do not agree.
    """
    dropped: Counter[str] = Counter()
    return Detection(
        image_hw=_read_hw(features),
        file_name=_read_text(features, "image/filename"),
        source_id=_read_text(features, "image/source_id"),
        objects=tuple(_read_objects(features, dropped)),
        extra=_read_image_extra(features, dropped),
        dropped=dropped,
    )


def _read_objects(
    features: Mapping[str, Values], dropped: Counter[str]
) -> Iterator[DetectedObject]:
    sides = [f"{_OBJECT}bbox/{name}" for name in ("xmin", "ymin", "xmax", "ymax")]
    counts = {key: len(values) for key, values in features.items() if key.startswith(_OBJECT)}
    count = max((counts.get(key, 0) for key in sides), default=0)
    for key in (*sides, *(key for key in KINDS if key.startswith(_OBJECT))):
        stated = counts.get(key, 0)
        if stated != count and (stated or key in sides):
            raise BadExample(f"{key} has {stated} values for {count} boxes")
    absent: list[None] = [None] * count
    columns = zip(
        zip(*(_read(features, key, float) for key in sides), strict=True),
        _read(features, f"{_OBJECT}class/label", int) or absent,
        _read_texts(features, f"{_OBJECT}class/text") or absent,
        _read(features, f"{_OBJECT}is_crowd", int) or absent,
        _read(features, f"{_OBJECT}difficult", int) or absent,
        _read(features, f"{_OBJECT}area", float) or absent,
        _read_others(features, count, dropped),
        strict=True,
    )
    for (xmin, ymin, xmax, ymax), label, text, is_crowd, difficult, area, extra in columns:
        yield DetectedObject(
            label=label,
            text=text or "",
            corners=(xmin, ymin, xmax, ymax),
            crowd=bool(is_crowd or difficult),
            area=None if area is None else float(str(np.float32(area))),
            extra=extra,
        )


def _read_others(
    features: Mapping[str, Values], count: int, dropped: Counter[str]
) -> list[dict[str, Any]]:
    """Return what the lists of other keys say of each object; count what is left out."""
    extras: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in features.items():
        if key in KINDS or not key.startswith(_OBJECT) or not values:
            continue
        name, plain = key.removeprefix(_OBJECT), _as_plain(values)
        if len(values) != count:
            dropped[f"{name} of an image, not one for each box"] += 1
        elif not plain:
            dropped[f"{name} of a box"] += count
        else:
            for extra, value in zip(extras, plain, strict=True):
                extra[name] = value
    return extras


def _read_image_extra(features: Mapping[str, Values], dropped: Counter[str]) -> dict[str, Any]:
    """Return what other keys say of the image; count what is left out."""
    extra = {}
    for key, values in features.items():
        if key in KINDS or key.startswith(_OBJECT) or not values:
            continue
        name, plain = key.removeprefix("image/"), _as_plain(values)
        if len(plain) == 1:
            extra[name] = plain[0]
        else:
            dropped[f"{name} of an image"] += 1
    return extra


def _as_plain(values: Values) -> list[Any]:
    """Return texts decoded and numbers as they are; nothing where one of them is not text."""
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        return []


def _read_hw(features: Mapping[str, Values]) -> tuple[int, int] | None:
    sides = []
    for key in ("image/height", "image/width"):
        values = _read(features, key, int)
        if not values:
            return None
        if len(values) != 1 or not 0 < values[0] <= MAX_SIDE:
            stated = values[0] if len(values) == 1 else f"{len(values)} values"
            raise BadExample(
                f"{key} must be one integer from 1 to {MAX_SIDE}, got {stated}",
                rule="invalid_image",
            )
        sides.append(values[0])
    return sides[0], sides[1]


def _read_text(features: Mapping[str, Values], key: str) -> str:
    texts = _read_texts(features, key)
    if len(texts) > 1:
        raise BadExample(f"{key} must be one text, got {len(texts)}")
    return texts[0] if texts else ""


def _read_texts(features: Mapping[str, Values], key: str) -> list[str]:
    try:
        return [value.decode() for value in _read(features, key, bytes)]
    except UnicodeDecodeError as error:
        raise BadExample(f"{key} is not UTF-8 text") from error


def _read(features: Mapping[str, Values], key: str, kind: type[_Value]) -> list[_Value]:
    values = features.get(key, [])
    found: list[_Value] = [value for value in values if isinstance(value, kind)]
    if len(found) != len(values):
        names = {bytes: "byte strings", float: "floats", int: "integers"}
        raise BadExample(f"{key} must hold {names[kind]}, holds {names[type(values[0])]}")
    return found
