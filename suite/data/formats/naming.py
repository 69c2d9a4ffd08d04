"""Names of image files in a data set that is written: no two images under one.

An image keeps its name. Where another image has it already, `_<image id>` follows the stem, and
`_2`, `_3`, ... that one. What is taken is asked of the folder itself, so that nothing is remembered
and file systems that ignore case are right too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from suite.data.formats.annotated import AnnotatedImage


def plain_name(image: AnnotatedImage) -> str:
    """Return an image's name without its folders, what cannot be printed or is no letter of a name
    on every system ('\\', ':') made '_'; for lists with one name a line.
    """
    name = image.file_name.rpartition("/")[2].strip()
    letters = (letter if letter.isprintable() and letter not in "\\:" else "_" for letter in name)
    name = "".join(letters)
    return name if name.strip(".") else str(image.image_id)


def find_free_name(name: str, image_id: int, is_taken: Callable[[str], bool]) -> str:
    """Return `name`, or by the rule of this module another that is not taken."""
    return next(free for free in _candidates(name, image_id) if not is_taken(free))


def _candidates(name: str, image_id: int) -> Iterator[str]:
    yield name
    path = PurePosixPath(name)
    yield str(path.with_stem(f"{path.stem}_{image_id}"))
    for number in itertools.count(2):
        yield str(path.with_stem(f"{path.stem}_{image_id}_{number}"))
