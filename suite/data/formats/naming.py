"""Names in a data set that is written: of image files, no two under one, and of classes.

An image keeps its name. Where another image has it already, `_<image id>` follows the stem, and
`_2`, `_3`, ... that one. What is taken is asked of the folder itself, so that nothing is remembered
and file systems that ignore case are right too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from suite.data.formats.annotated import AnnotatedImage
from suite.errors import InputError

# Control characters, line ends among them, and what XML 1.0 cannot hold.
_NOT_PLAIN: Final = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_plain(text: str) -> bool:
    """Whether a text is without control characters and such that every format can hold it."""
    return not _NOT_PLAIN.search(text)


def require_names(names: Mapping[int, str], is_usable: Callable[[str], bool], rule: str) -> None:
    """Refuse the first class whose name a format cannot hold.

    Args:
        names: category id -> name.
        rule: what names of the format are, as a clause.

    Raises:
        InputError: `is_usable` is false of a name.
    """
    for category_id, name in names.items():
        if not is_usable(name):
            raise InputError(f"category {category_id} ({name!a}): {rule}; rename it in the source")


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
