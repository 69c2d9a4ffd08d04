"""Image files to pixels: RGB, uint8, [H,W,3], as a person sees the photo.

Stated rules, the same for every format:

- The EXIF orientation is applied; without one, that of XMP. Damaged EXIF counts as none.
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

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from suite.data.jpeg import VERSION as JPEG_VERSION
from suite.data.jpeg import decode_plain_jpeg
from suite.data.sample import DecodedImage, ImageFile
from suite.errors import InputError
from suite.files import is_file

Pixels = NDArray[np.uint8]

_RULES_VERSION: Final = 1  # goes up with every change of what the pixels of some file are

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

# EXIF orientation -> how the stored pixels become those that a person sees.
_TURN: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
_QUARTER_TURNS: Final = (5, 6, 7, 8)
# Without one of these in a JPEG, Pillow finds no orientation in it.
_ORIENTATION_MARKS: Final = (b"Exif\0\0", b"tiff:Orientation")


class ImageSizeError(InputError):
    """An image is intact but not of the size that its annotations were made on."""


def read_image(
    source: Path | ImageFile | DecodedImage,
    *,
    content: bytes | None = None,
    expected_hw: tuple[int, int] | None = None,
) -> Pixels:
    """Decode an image by the rules of this module, or take it from where it is kept decoded.

    Args:
        source: a file, a part of one, or pixels in a cache.
        content: the bytes of the file, where they have been read.
        expected_hw: the annotated size. Where only the pixels before the EXIF orientation have it,
            the annotations were made on those, and those are returned.

    Returns:
        uint8 [H,W,3], RGB; of a cache it is read-only.

    Raises:
        ImageSizeError: neither form of the image has the annotated size.
        InputError: the file is missing, damaged, too large or of no known format.
    """
    if isinstance(source, DecodedImage):
        return _cached_pixels(source)
    file = ImageFile(source) if isinstance(source, Path) else source
    stored, orientation = decode_stored(file, content)
    stored_hw = stored.shape[0], stored.shape[1]
    seen_hw = turned_hw(stored_hw, orientation)
    if expected_hw in (None, seen_hw):
        turn = _TURN.get(orientation)
        return stored if turn is None else np.ascontiguousarray(turn(stored))
    if expected_hw == stored_hw:
        return stored
    raise ImageSizeError(
        f"{file}: the image is {describe_hw(seen_hw)} but annotated as {describe_hw(expected_hw)} "
        "(width x height); restore the annotated image or correct its size in the annotations"
    )


def decode_stored(file: ImageFile, content: bytes | None = None) -> tuple[Pixels, int]:
    """Return the pixels as they are stored, uint8 [H,W,3], and the EXIF orientation.

    Args:
        file: where the image lies.
        content: its bytes, where they have been read.

    Raises:
        InputError: as `read_image`.
    """
    content = file.read() if content is None else content
    pixels = decode_plain_jpeg(content, max_pixels=MAX_PIXELS)
    if pixels is not None and not any(mark in content for mark in _ORIENTATION_MARKS):
        return pixels, 1
    with _opened(file, content) as image:
        if pixels is None:
            image.load()
            # The orientation is asked for first: `convert` may drop it.
            orientation = _orientation(image)
            return np.array(_convert_to_rgb(image)), orientation
        return pixels, _orientation(image)


def describe_decoders() -> str:
    """Return what decides about pixels: where it changes, decoded images are other ones."""
    versions = f"Pillow {PIL.__version__}, simplejpeg {JPEG_VERSION}"
    return f"rules {_RULES_VERSION}, {versions}"


def read_image_hw(source: Path | ImageFile) -> tuple[int, int]:
    """Return height and width, EXIF orientation applied, from the file's header.

    Raises:
        InputError: the file is missing, too large or of no known format.
    """
    file = ImageFile(source) if isinstance(source, Path) else source
    with _opened(file) as image:
        return turned_hw((image.height, image.width), _orientation(image))


def _cached_pixels(source: DecodedImage) -> Pixels:
    height, width = source.image_hw
    end = source.offset + height * width * 3
    try:
        return _mapped(source.path, source.token)[source.offset : end].reshape(height, width, 3)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source.path}: the cache of decoded images cannot be read ({error}); start again"
        ) from error


@lru_cache(maxsize=2)
def _mapped(path: Path, _token: str) -> Pixels:
    # Kept, as mapping it anew costs more than reading an image. Read-only, which does not count
    # against memory. By its token: another cache may come to stand under the same name.
    return np.memmap(path, np.uint8, mode="r")


@contextmanager
def _opened(file: ImageFile, content: bytes | None = None) -> Iterator[Image.Image]:
    """Yield the opened image; without `content` no more than the header of a file is read."""
    if content is None and (file.length is not None or not is_file(file.path)):
        content = file.read()
    source = file.path if content is None else io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source, formats=FORMATS) as image:
                _refuse_size(file, image)
                yield image
    except UnidentifiedImageError as error:
        raise InputError(
            f"{file}: not an image of a known format ({', '.join(FORMATS)})"
        ) from error
    except _DECODER_ERRORS as error:
        cause = str(error) or type(error).__name__
        raise InputError(
            f"{file}: cannot be decoded ({cause}); replace the file or remove its annotations"
        ) from error


def _refuse_size(file: ImageFile, image: Image.Image) -> None:
    num_pixels = image.width * image.height
    if not 0 < num_pixels <= MAX_PIXELS:
        raise InputError(
            f"{file}: {image.width} x {image.height} pixels; from 1 to {MAX_PIXELS} can be read"
        )


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow itself turns these, in the header's size as in the pixels
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) else 1


def turned_hw(stored_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the height and width that a person sees of stored pixels."""
    return (stored_hw[1], stored_hw[0]) if orientation in _QUARTER_TURNS else stored_hw


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips integers wider than a byte at 255, which leaves such an image white.
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    return image.convert("RGB")


def describe_hw(image_hw: tuple[int, int]) -> str:
    """Return a size as people write it, width first."""
    return f"{image_hw[1]} x {image_hw[0]}"
