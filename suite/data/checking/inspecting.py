"""Looking at one image file: readable, decodable, and of the size that its annotations state."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from suite.data.images import decode_stored, describe_hw, turned_hw
from suite.data.sample import ImageFile
from suite.errors import InputError
from suite.files import is_file

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
    if not is_file(file.path):
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
    seen_hw = turned_hw(stored_hw, orientation)
    if annotated_hw not in (seen_hw, stored_hw):
        turned = f", stored as {describe_hw(stored_hw)}" if seen_hw != stored_hw else ""
        value = f"the image is {describe_hw(seen_hw)}{turned} but annotated as"
        return "size_mismatch", f"{value} {describe_hw(annotated_hw)}"
    if not 2 <= orientation <= 8:
        return "", ""
    value = f"EXIF orientation {orientation}, annotated as {describe_hw(annotated_hw)}"
    if seen_hw == stored_hw:
        return "exif_unclear", value
    return ("exif_as_seen" if annotated_hw == seen_hw else "exif_as_stored"), value
