"""Where writers of annotation formats put a split, and how they place its image files.

Every writer is a function `write_<format>(annotated, destination) -> Counter[str]`: it takes one
pass over the images, and returns what the format could not carry, by name, and how often. It writes
into an empty folder that its caller made and will rename, so it need not clean up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from suite.data.formats.annotated import AnnotatedImage


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where and how to write one split.

    Attributes:
        folder: root of the new data set.
        split: its name, such as train2017; names files and folders.
        images: copy them, link them (hard links; copies where the file system has none) or leave
            them where they are, which only COCO can, whose file names lead to them.
        num_shards: files of a TFRecord split.
    """

    folder: Path
    split: str
    images: Literal["copy", "link", "leave"] = "copy"
    num_shards: int = 32


def place_image(image: AnnotatedImage, target: Path, *, destination: Destination) -> None:
    """Put an image's file at `target`, bytes unchanged; its folder is made.

    Raises:
        InputError: the image cannot be read.
        OSError: the place cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    file = image.image
    if destination.images == "link" and file.length is None and _linked(file.path, target):
        return
    with target.open("xb") as copy:  # never through a link that is there already
        copy.write(file.read())


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path.resolve(), target)  # a link to a link would lead nowhere from there
    except OSError:  # another file system, or one without links
        return False
    return True
