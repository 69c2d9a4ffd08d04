"""The one form that every annotation format is read into.

Boxes are `_xyxy` in pixels of the image as it is seen (EXIF orientation applied), x1 and y1
exclusive.
Shape letter: M boxes of one image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sample:
    """One image and its ground truth, clipped to the image and free of degenerate boxes.

    Attributes:
        image_id: the dataset's own id.
        path: the image file.
        image_hw: height and width as annotated; what `read_image` must find.
        boxes_xyxy: float32 [M,4].
        labels: int64 [M], 0-based positions in `Dataset.category_ids`.
        crowd: bool [M], True for COCO crowd regions and VOC `difficult` objects.
    """

    image_id: int
    path: Path
    image_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


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
