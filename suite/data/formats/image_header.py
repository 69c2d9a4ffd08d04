"""What the first bytes of an image file say: its format, its size."""

from __future__ import annotations

from typing import Final

from suite.data.formats.annotated import Problem, Report
from suite.data.images import read_image_hw
from suite.data.sample import ImageFile
from suite.errors import InputError
from suite.files import is_file

_SIGNATURES: Final = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (8, b"WEBP", "webp"),
    (8, b"avif", "avif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
)
_ADD_IMAGE: Final = "add the image or remove its annotation"
_STATE_SIZE: Final = "repair the image or state its size in the annotation"
# Format -> the end of its files' names.
SUFFIXES: Final = {
    "jpeg": ".jpg",
    "tiff": ".tif",
    **{name: f".{name}" for name in ("png", "gif", "bmp", "webp", "avif")},
}


def find_image_format(content: bytes) -> str:
    """Return the format of an image from its first 12 bytes or more; empty: none of those known."""
    for offset, signature, name in _SIGNATURES:
        if content.startswith(signature, offset):
            return name
    return ""


def find_image_hw(
    file: ImageFile, *, report: Report, remedy: str = _STATE_SIZE
) -> tuple[int, int] | None:
    """Return height and width as seen, from the header; None: reported as missing or unreadable.

    Args:
        remedy: what to do about a file that cannot be read.
    """
    if not is_file(file.path):
        value = "no such image file"
        report(Problem("missing_image", str(file), "", value, _ADD_IMAGE))
        return None
    try:
        return read_image_hw(file)
    except InputError as error:
        value = str(error).removeprefix(f"{file}: ").partition(";")[0]
        report(Problem("undecodable_image", str(file), "", value, remedy))
        return None
