"""The quick way through ordinary JPEGs; what it is not sure of it leaves to Pillow.

Needs the package simplejpeg, which is optional. Both are libjpeg-turbo with the same settings
(accurate DCT, smooth upsampling) and give the same pixels.
"""

from __future__ import annotations

import importlib.util
from typing import Final

import numpy as np
from numpy.typing import NDArray

INSTALLED: Final = importlib.util.find_spec("simplejpeg") is not None
if INSTALLED:
    import simplejpeg

VERSION: Final = simplejpeg.__version__ if INSTALLED else None
_PLAIN: Final = ("YCbCr", "Gray")


def decode_plain_jpeg(content: bytes, *, max_pixels: int) -> NDArray[np.uint8] | None:
    """Return the stored pixels of a JPEG, uint8 [H,W,3], RGB; None: let Pillow decide.

    That is what any other format, colour space, damage or size gets, and everything where
    simplejpeg is not installed.
    """
    if not INSTALLED or not content.startswith(b"\xff\xd8\xff"):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in _PLAIN or not 0 < height * width <= max_pixels:
            return None
        # Strict: what libjpeg only warns of, such as a file cut short, raises.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, strict=True)
    except (ValueError, KeyError):  # the latter where a header has an unknown chroma layout
        return None
    return pixels
