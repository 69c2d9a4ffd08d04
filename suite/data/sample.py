"""The one form that every annotation format is read into.

Boxes are `_xyxy` in pixels of the image as it is seen (EXIF orientation applied), x1 and y1
exclusive.
Shape letter: M boxes of one image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from suite.errors import InputError
from suite.files import is_file

MAX_IMAGE_BYTES: Final = 512 * 1024**2  # an encoded image; the largest decoded one has that size


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Where the bytes of an encoded image lie: a file, or a part of one.

    Attributes:
        offset, length: of the part, in bytes; None: all the rest of the file.
        name: of the part, for messages.
    """

    path: Path
    offset: int = 0
    length: int | None = None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            InputError: there is no such file, it is cut short or larger than `MAX_IMAGE_BYTES`.
        """
        if not is_file(self.path):
            raise InputError(f"{self}: no such image file; check the dataset's image folder")
        limit = MAX_IMAGE_BYTES if self.length is None else self.length
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                content = file.read(limit + 1 if self.length is None else limit)
        except OSError as error:
            raise InputError(f"{self}: cannot be read ({error.strerror})") from error
        if len(content) > MAX_IMAGE_BYTES:
            raise InputError(f"{self}: larger than {MAX_IMAGE_BYTES} bytes, no image we read is")
        if self.length is not None and len(content) < self.length:
            raise InputError(f"{self}: the file ends after {len(content)} of {self.length} bytes")
        return content


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Where the pixels of an image lie, decoded: uint8 [H,W,3] at an offset of a cache file.

    Attributes:
        token: of the file's content; two caches never have the same.
        original: what was decoded.
    """

    path: Path
    token: str
    offset: int
    image_hw: tuple[int, int]
    original: ImageFile

    def __str__(self) -> str:
        return str(self.original)


@dataclass(frozen=True)
class Sample:
    """One image and its ground truth, clipped to the image and free of degenerate boxes.

    Attributes:
        image_id: the dataset's own id.
        image: where its pixels come from.
        image_hw: height and width as annotated; what `read_image` must find.
        boxes_xyxy: float32 [M,4].
        labels: int64 [M], 0-based positions in `Dataset.category_ids`.
        crowd: bool [M], True for COCO crowd regions and VOC `difficult` objects.
    """

    image_id: int
    image: ImageFile | DecodedImage
    image_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BadSample:
    """An image that training could not read, and why."""

    image_id: int
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A split: its samples, the one map of labels to category ids, the referee's ground truth.

    Attributes:
        samples: in the order of the annotation file, images without boxes included.
        category_ids: label -> the dataset's own category id.
        class_names: label -> name.
        digest: sha256 (hex) over the annotation content; which data a number was measured on.
        coco: the ground truth as a COCO dictionary (images, annotations, categories), original
            boxes and ids untouched; what pycocotools evaluates against.
        repairs: how often each stated rule changed or dropped a box, by rule name.
    """

    samples: tuple[Sample, ...]
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    digest: str
    coco: dict[str, Any]
    repairs: Counter[str] = field(default_factory=Counter)
