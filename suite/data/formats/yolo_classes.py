"""A YOLO data set's ``data.yaml``: its classes, and where its splits lie.

``names`` lists the classes, or maps their indices, 0 and on without a gap, to names. The suite adds
``category_ids``, a list of the data set's own ids in the same order; other programs do not read it.
Without it the indices are the ids. The file that is written has no ``path``: without it, the splits
lie beside the file, wherever the folder is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from suite.data.formats.naming import is_plain, require_names
from suite.errors import InputError
from suite.files import read_bounded, write_text
from suite.strict_nodes import Mistake, compose_nodes, describe, line_of, read_scalar

FILE_NAME: Final = "data.yaml"
_MAX_YAML_BYTES: Final = 1024**2
_TEXT: Final = "tag:yaml.org,2002:str"
_REMEDY: Final = "give the data.yaml of the data set, which names its classes"


@dataclass(frozen=True)
class YoloClasses:
    """The classes.

    Attributes:
        category_names: category id -> name, ids ascending.
        category_ids: index in the label files -> category id.
        splits: the keys that hold a text, which is where the images of a split lie.
    """

    category_names: Mapping[int, str]
    category_ids: tuple[int, ...]
    splits: Mapping[str, str] = field(default_factory=dict)


def find_classes(labels: Path) -> Path:
    """Return the data.yaml in a folder of labels, its parent or the parent of that.

    Raises:
        InputError: there is none.
    """
    whole = labels.absolute()  # a relative path does not have all of its parents
    folders = (whole, whole.parent, whole.parent.parent)
    for path in (folder / FILE_NAME for folder in folders):
        if path.is_file():
            return path
    raise InputError(f"{labels}: no {FILE_NAME} there or in the two folders above it; {_REMEDY}")


def load_classes(path: Path) -> YoloClasses:
    """Read a data.yaml.

    Raises:
        InputError: it is missing, not YAML, or its classes are not stated as this module says.
    """
    content = read_bounded(path, limit=_MAX_YAML_BYTES, remedy=_REMEDY)
    try:
        root, problems = compose_nodes(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; {_REMEDY}") from error
    for line, value in problems:
        raise InputError(f"{path}:{line}: {value}; {_REMEDY}")
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: holds no keys; {_REMEDY}")
    nodes = {key.value: node for key, node in root.value if isinstance(key, yaml.ScalarNode)}
    if "names" not in nodes:
        raise InputError(f"{path}: has no 'names'; {_REMEDY}")
    try:
        names = _read_names(nodes["names"])
        ids = _read_ids(nodes.get("category_ids"), len(names))
        _require_count(nodes.get("nc"), len(names))
    except Mistake as error:
        raise InputError(f"{path}: {error}; correct it") from error
    splits = {key: node.value for key, node in nodes.items() if isinstance(node, yaml.ScalarNode)}
    by_id = dict(sorted(zip(ids, names, strict=True)))
    return YoloClasses(by_id, ids, splits)


def write_classes(path: Path, category_names: Mapping[int, str], *, split: str) -> None:
    """Write a data.yaml; to one that is there, which must name the same classes, add the split.

    Args:
        path: the file.
        category_names: category id -> name, ids ascending; the order becomes that of the indices.
        split: name of a folder in ``images``; its key is ``train``, ``val`` or ``test`` where it
            begins with that and no other split has the key, else the name itself.

    Raises:
        InputError: the file that is there names other classes, or a name cannot stand in such a
            file.
        OSError: the place cannot be written.
    """
    require_names(
        category_names, is_plain, "YOLO names its classes by text without control characters"
    )
    splits: Mapping[str, str] = {}
    if path.exists():
        present = load_classes(path)
        if present.category_names != category_names:
            raise InputError(
                f"{path}: names other classes than this split; write the split elsewhere"
            )
        splits = present.splits
    customary = (key for key in ("train", "val", "test") if split.startswith(key))
    key = next((key for key in customary if key not in splits), split)
    document = {
        **splits,
        key: f"images/{split}",
        "names": dict(enumerate(category_names.values())),
        "category_ids": list(category_names),
    }
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _read_names(node: yaml.Node) -> list[str]:
    """Return the names by index."""
    if isinstance(node, yaml.SequenceNode):
        names = dict(enumerate(_read_name(child) for child in node.value))
    elif isinstance(node, yaml.MappingNode):
        names = {int(read_scalar(key, int)): _read_name(child) for key, child in node.value}
        if len(names) < len(node.value):
            raise Mistake("'names' states an index twice")
    else:
        raise Mistake(f"'names' must be a list or map indices to names, got {describe(node)}")
    if sorted(names) != list(range(len(names))) or not names:
        raise Mistake("'names' must have every index from 0 to the last, at least one")
    return [names[index] for index in range(len(names))]


def _read_name(node: yaml.Node) -> str:
    try:
        return str(read_scalar(node, str))
    except Mistake as error:
        raise Mistake(f"line {line_of(node)}: 'names': {error}") from error


def _read_ids(node: yaml.Node | None, count: int) -> tuple[int, ...]:
    if node is None:
        return tuple(range(count))
    if not isinstance(node, yaml.SequenceNode) or len(node.value) != count:
        raise Mistake(f"'category_ids' must list {count} ids, one for each of 'names'")
    ids = tuple(int(read_scalar(child, int)) for child in node.value)
    if len(set(ids)) < count:
        raise Mistake("'category_ids' states an id twice")
    return ids


def _require_count(node: yaml.Node | None, count: int) -> None:
    if node is not None and read_scalar(node, int) != count:
        raise Mistake(f"'nc' is {describe(node)}, but 'names' has {count} classes")
