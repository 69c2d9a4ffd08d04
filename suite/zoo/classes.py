"""Which classes a detector's outputs stand for: their names and category ids.

Files of weights say how many there are, sometimes their names, never their ids. Without more, 80
classes are taken for COCO's; others are told apart by the annotations they were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.data.formats.coco import read_coco
from suite.errors import InputError
from suite.zoo.coco_classes import COCO_CLASSES


@dataclass(frozen=True)
class Classes:
    """The classes of a detector.

    Attributes:
        names, ids: by our label, ascending ids.
        slots: which of the file's outputs per anchor each label is.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    slots: tuple[int, ...]


def resolve_classes(
    num_slots: int,
    *,
    background: int,
    named: Sequence[str],
    annotations: Path | None,
    source: Path,
) -> Classes:
    """Find out what each of a file's outputs per anchor is.

    Args:
        num_slots: outputs per anchor, background included.
        background: how many of them, the first ones, are background: 0 or 1.
        named: the names of the classes in the file's order; empty where the file has none.
        annotations: COCO JSON with these classes; None for COCO itself.
        source: how messages name the file.

    Raises:
        InputError: the classes are not COCO's, or not those of the annotations.
    """
    table = _read_table(annotations)
    count = num_slots - background
    where = f"{annotations} has" if annotations else "COCO has"
    remedy = "give the annotations it was trained on: --annotations FILE (COCO JSON)"
    if named:
        slots = _locate_names(named, table)
        if slots is None or len(named) != count:
            raise InputError(
                f"{source}: its {count} classes ({', '.join(named[:3])}, ...) are not those that "
                f"{where}; {remedy}"
            )
    elif count == len(table):
        slots = list(range(len(table)))
    elif background and count == max(table):
        slots = [category_id - 1 for category_id in table]  # it calls classes by their id
    else:
        raise InputError(f"{source}: has {count} classes, {where} {len(table)}; {remedy}")
    return Classes(tuple(table.values()), tuple(table), tuple(slot + background for slot in slots))


def _read_table(annotations: Path | None) -> dict[int, str]:
    if annotations is None:
        return COCO_CLASSES
    return dict(read_coco(annotations, annotations.parent).category_names)


def _locate_names(named: Sequence[str], table: dict[int, str]) -> list[int] | None:
    """Return where each class of the table stands among the names; None where one is not there."""
    position: dict[Any, int] = {name: slot for slot, name in enumerate(named)}
    if len(position) != len(named) or set(position) != set(table.values()):
        return None
    return [position[name] for name in table.values()] if len(position) == len(table) else None
