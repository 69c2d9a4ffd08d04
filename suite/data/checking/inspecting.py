"""Looking at one image file: readable, decodable, and of the size that its annotations state."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from suite.data.images import decode_stored
from suite.data.sample import ImageFile
from suite.errors import InputError

_QUARTER_TURNS: Final = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What the decoders say, and the rule it falls under; the first that fits.
_CAUSES: Final = (
    ("truncated", "truncated_image"),
    ("the file ends after", "truncated_image"),
    ("exceeds limit", "bomb_image"),
    ("pixels; from 1 to", "bomb_image"),
    ("cannot be read (", "unreadable_image"),
    ("bytes, no image we read is", "unreadable_image"),
)


class Picture(NamedTuple):
    """What is looked at; `image_hw` as annotated, `split` the name of its split."""

    split: str
    image_id: int
    file: ImageFile
    image_hw: tuple[int, int]


class Task(NamedTuple):
    """What a worker is to do with a picture."""

    picture: Picture
    decode: bool
    digest: bool


class Seen(NamedTuple):
    """What a worker saw: the rule that the picture falls under, if any, and its sha256 if asked."""

    rule: str
    value: str
    digest: bytes


def inspect(task: Task) -> Seen:
    """Look at one picture."""
    picture = task.picture
    file = picture.file
    if not file.path.is_file():
        return Seen("missing_image", "no such file", b"")
    digest, content = b"", None
    try:
        if task.digest:
            content = file.read()
            digest = hashlib.sha256(content).digest()
        if not task.decode:
            return Seen("", "", digest)
        stored, orientation = decode_stored(file, content)
    except InputError as error:
        cause = str(error).removeprefix(f"{file}: ")
        rule = next((rule for part, rule in _CAUSES if part in cause), "undecodable_image")
        return Seen(rule, cause.partition("; ")[0], digest)
    rule, value = _compare_sizes(picture.image_hw, (stored.shape[0], stored.shape[1]), orientation)
    return Seen(rule, value, digest)


def _compare_sizes(
    annotated_hw: tuple[int, int], stored_hw: tuple[int, int], orientation: int
) -> tuple[str, str]:
    seen_hw = stored_hw[::-1] if orientation in _QUARTER_TURNS else stored_hw
    if annotated_hw not in (seen_hw, stored_hw):
        turned = f", stored as {_as_text(stored_hw)}" if seen_hw != stored_hw else ""
        value = f"the image is {_as_text(seen_hw)}{turned} but annotated as"
        return "size_mismatch", f"{value} {_as_text(annotated_hw)}"
    if not 2 <= orientation <= 8:
        return "", ""
    value = f"EXIF orientation {orientation}, annotated as {_as_text(annotated_hw)}"
    if seen_hw == stored_hw:
        return "exif_unclear", value
    return ("exif_as_seen" if annotated_hw == seen_hw else "exif_as_stored"), value


def _as_text(image_hw: tuple[int, int]) -> str:
    return f"{image_hw[1]} x {image_hw[0]}"
