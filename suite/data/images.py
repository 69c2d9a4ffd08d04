"""Image files to pixels: RGB, uint8, [H,W,3], as a person sees the photo.

Stated rules, the same for every format:

- The EXIF orientation is applied. Damaged EXIF counts as none.
- Grayscale becomes three equal channels; palettes, CMYK and YCCK become RGB by Pillow's `convert`
  (JPEGs by Adobe, whose CMYK is inverted, included). Embedded colour profiles are not applied.
- Alpha is dropped, not blended: a transparent pixel shows the colour stored under it, as in
  mmdetection and torchvision (`convert("RGB")`).
- 16-bit grayscale keeps its upper byte. 32-bit integers are read as 16-bit values, floats as
  0..255; both are clipped to that range.
- Of an animation or a multi-picture file, the first frame.
- At most `MAX_PIXELS` pixels, and only the formats of `FORMATS`.

Warnings of the decoder are silenced, which is process-wide in Python: read in worker processes, not
in threads.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from suite.errors import InputError

MAX_PIXELS: Final = 178_956_970  # where Pillow itself stops by default; 0.5 GB as RGB
# An allow-list, because Pillow also knows formats that start other programs (EPS runs Ghostscript).
FORMATS: Final = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
# How files of these formats are called; what a folder of images is searched for.
IMAGE_SUFFIXES: Final = frozenset(
    f".{name}"
    for name in ("jpg", "jpeg", "mpo", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "ppm")
)

# What Pillow's decoders raise on damaged bytes; they share no base class.
_DECODER_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS: Final = (5, 6, 7, 8)


class ImageSizeError(InputError):
    """An image is intact but not of the size that its annotations were made on."""


def read_image(path: Path, *, expected_hw: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image file by the rules of this module.

    Args:
        path: the file.
        expected_hw: the annotated size. Where only the pixels before the EXIF orientation have it,
            the annotations were made on those, and those are returned.

    Returns:
        uint8 [H,W,3], RGB, contiguous.

    Raises:
        ImageSizeError: neither form of the image has the annotated size.
        InputError: the file is missing, damaged, too large or of no known format.
    """
    with _opened(path) as image:
        image.load()
        orientation = _orientation(image)
        stored_hw = (image.height, image.width)
        seen_hw = _turned(stored_hw, orientation)
        rgb = _convert_to_rgb(image)
    if expected_hw in (None, seen_hw):
        method = _TRANSPOSE.get(orientation)
        return np.array(rgb if method is None else rgb.transpose(method))
    if expected_hw == stored_hw:
        return np.array(rgb)
    raise ImageSizeError(
        f"{path}: the image is {_as_text(seen_hw)} but annotated as {_as_text(expected_hw)} "
        "(width x height); restore the annotated image or correct its size in the annotations"
    )


def read_image_hw(path: Path) -> tuple[int, int]:
    """Return height and width, EXIF orientation applied, from the file's header.

    Raises:
        InputError: the file is missing, too large or of no known format.
    """
    with _opened(path) as image:
        return _turned((image.height, image.width), _orientation(image))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise InputError(f"{path}: no such image file; check the dataset's image folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                _refuse_size(path, image)
                yield image
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not an image of a known format ({', '.join(FORMATS)})"
        ) from error
    except _DECODER_ERRORS as error:
        cause = str(error) or type(error).__name__
        raise InputError(
            f"{path}: cannot be decoded ({cause}); replace the file or remove its annotations"
        ) from error


def _refuse_size(path: Path, image: Image.Image) -> None:
    num_pixels = image.width * image.height
    if not 0 < num_pixels <= MAX_PIXELS:
        raise InputError(
            f"{path}: {image.width} x {image.height} pixels; from 1 to {MAX_PIXELS} can be read"
        )


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow itself turns these, in the header's size as in the pixels
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def _turned(stored_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (stored_hw[1], stored_hw[0]) if orientation in _QUARTER_TURNS else stored_hw


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips integers wider than a byte at 255, which leaves such an image white.
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


def _as_text(image_hw: tuple[int, int] | None) -> str:
    assert image_hw is not None
    return f"{image_hw[1]} x {image_hw[0]}"
