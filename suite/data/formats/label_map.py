"""Label maps: which category id is which name, in TensorFlow's text format (.pbtxt).

A file holds ``item { id: 1 name: "/m/01g317" display_name: "person" }`` for each category
(object_detection/protos/string_int_label_map.proto); other fields are allowed and not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from suite.errors import InputError
from suite.files import read_bounded, write_text

MAX_LABEL_MAP_BYTES: Final = 4 * 1024**2
FILE_NAME: Final = "label_map.pbtxt"


@dataclass(frozen=True)
class LabelMap:
    """A label map.

    Attributes:
        category_names: category id -> what people read (``display_name``, else ``name``), ids
            ascending.
        id_of: both kinds of name -> category id; files may use either.
    """

    category_names: Mapping[int, str]
    id_of: Mapping[str, int]


def load_label_map(path: Path) -> LabelMap:
    """Read a label map.

    Raises:
        InputError: it is missing, not a label map, empty, or states an id or name twice.
    """
    remedy = "give a label map, such as label_map.pbtxt"
    content = read_bounded(path, limit=MAX_LABEL_MAP_BYTES, remedy=remedy)
    items = _parse(content, path).item
    if not items:
        raise InputError(f"{path}: no item in it; a label map needs at least one")
    names: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        place = f"{path}: item {number}"
        if not item.HasField("id"):
            raise InputError(f"{place}: has no id; add it")
        if not (item.name or item.display_name):
            raise InputError(f"{place}: has no name; add it")
        if item.id in names:
            raise InputError(f"{place}: id {item.id} stands there twice; give each item its own")
        names[item.id] = item.display_name or item.name
        for name in {item.name, item.display_name} - {""}:
            if name in id_of:
                raise InputError(f"{place}: name {name!r} stands there twice; give each its own")
            id_of[name] = item.id
    return LabelMap(dict(sorted(names.items())), id_of)


def write_label_map(path: Path, category_names: Mapping[int, str]) -> None:
    """Write a label map; one that is there must say the same.

    Args:
        path: the file.
        category_names: category id -> name.

    Raises:
        InputError: the categories do not fit into a label map, or the one that is there differs.
        OSError: the place cannot be written.
    """
    if path.exists():
        if load_label_map(path).category_names != category_names:
            raise InputError(
                f"{path}: holds other categories than this split; write the split elsewhere"
            )
        return
    document = _LABEL_MAP()
    written: set[str] = set()
    for category_id, name in sorted(category_names.items()):
        if not name or name in written:
            raise InputError(
                f"category {category_id}: a label map needs a name for each category, and each "
                f"once, got {name!r}; rename it"
            )
        written.add(name)
        try:
            document.item.add(id=category_id, name=name)
        except ValueError as error:  # a UnicodeEncodeError is one
            raise InputError(
                f"category {category_id} ({name!a}) does not fit into a label map, whose ids have "
                "32 bits and whose names are Unicode; change it"
            ) from error
    write_text(path, text_format.MessageToString(document, as_utf8=True))


def _parse(content: bytes, path: Path) -> Any:
    try:
        return text_format.Parse(content.decode(), _LABEL_MAP(), allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        # Its own text repeats the whole line, which may be the whole file.
        line = error.GetLine() if isinstance(error, text_format.ParseError) else None
        place = f"{path}:{line}" if line else str(path)
        raise InputError(
            f"{place}: not a label map; its items must look like item {{ id: 1 name: 'cat' }}"
        ) from error


def _build_label_map_type() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="suite_label_map.proto", package="object_detection.protos", syntax="proto2"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    item = file.message_type.add(name="StringIntLabelMapItem")
    for name, number, kind in (
        ("name", 1, kinds.TYPE_STRING),
        ("id", 2, kinds.TYPE_INT32),
        ("display_name", 3, kinds.TYPE_STRING),
    ):
        item.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    file.message_type.add(name="StringIntLabelMap").field.add(
        name="item",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".object_detection.protos.StringIntLabelMapItem",
        label=kinds.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()  # not the common one: TensorFlow's own may be there
    pool.Add(file)
    found = pool.FindMessageTypeByName("object_detection.protos.StringIntLabelMap")
    return message_factory.GetMessageClass(found)


_LABEL_MAP: Final = _build_label_map_type()
