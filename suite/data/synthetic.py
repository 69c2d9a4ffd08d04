"""Write a small COCO detection set that is generated, not photographed: lit still-lifes of six shapes.

Everything about an image follows from (seed, split, index), so the same seed and the same versions
of numpy and Pillow give the same bytes, and a longer set begins with the images of a shorter one.

The box of an object is the box of all its visible pixels: later objects hide earlier ones and the
image border cuts, and pieces that are apart still belong to one box. A place that would leave less
than `MIN_VISIBLE` of any object in sight is not taken, so every object that is drawn is annotated.
"""

from __future__ import annotations

import colorsys
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from suite.data import synthetic_drawing as drawing
from suite.data.synthetic_drawing import Floats, Light, Relief, Rng, Sprite
from suite.errors import UsageError

GENERATOR_VERSION = "1"
MIN_VISIBLE = 0.4

# label -> name, shape, category id. The ids have gaps, as those of COCO do.
CLASSES: tuple[tuple[str, Callable[[Floats, Floats, Rng], Relief], int], ...] = (
    ("ball", drawing.ball, 1),
    ("brick", drawing.brick, 2),
    ("ring", drawing.ring, 3),
    ("star", drawing.star, 5),
    ("leaf", drawing.leaf, 7),
    ("cone", drawing.cone, 11),
)

_SPLITS = ("train", "val")
_MIN_SIDE = 8  # pixels; a visible box is never thinner
_NUM_TRIES = 12


@dataclass(frozen=True)
class Scene:
    """One drawn image and its ground truth; M objects.

    Attributes:
        image: uint8 RGB [H,W,3].
        owner: int16 [H,W], which object is seen at a pixel; -1 is the ground.
        boxes_xyxy: int64 [M,4], x1 and y1 exclusive, tight around the pixels of `owner`.
        labels: int64 [M], positions in `CLASSES`.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    boxes_xyxy: NDArray[np.int64]
    labels: NDArray[np.int64]


def write_synthetic(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a generated training and validation set in COCO's format.

    `folder` appears complete or not at all: annotations/instances_{train,val}.json, train/, val/.

    Args:
        folder: new, or empty.
        num_train: images of the training split.
        num_val: images of the validation split.
        seed: 0 or more.
        progress: called after each image with the images done and the images in all.

    Raises:
        UsageError: something is already at `folder`.
    """
    target = folder.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{folder}: already holds something; name a new or an empty folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    total, done = num_train + num_val, 0
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        build = Path(scratch) / "set"
        for split, num_images in zip(_SPLITS, (num_train, num_val), strict=True):
            for _ in _write_split(build, split, num_images=num_images, seed=seed):
                done += 1
                if progress is not None:
                    progress(done, total)
        build.replace(target)
