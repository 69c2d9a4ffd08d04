"""Ways to damage a file: bytes of any, fields of a protobuf message, values of a JSON document."""

from __future__ import annotations

import copy
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_PIECES = [b"", b"\x00", b"\xff", b"\x7f" * 4, b"-1", b"1e999", b"NaN", b"\xc3\x28", b"[" * 200]
_NUMBERS = [0, 1, -1, 2, 7, 127, 2**31 - 1, -(2**31)]
_LARGE = [2**40, 2**63 - 1, -(2**63)]
_TEXTS = ["", "x", "images", "scores", "rows", "If", "Loop", "Range", "ConstantOfShape", "\x1b[2J"]
_FLOATS = [0.0, -1.0, 1e38, float("nan"), float("inf"), float("-inf")]
_JSON = [None, True, -1, 0, 2**70, 1e308, float("nan"), "", "\x1b[2J", "../x", [], {}, [[1]]]

_FLOAT_TYPES = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
_LONG_TYPES = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Replace up to four pieces of a file, or cut it short."""
    content = sound
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.sampled_from([0, 1, 1, 2, 8, 64])))
        piece = draw(st.sampled_from(_PIECES) | st.binary(max_size=4))
        content = content[:start] + piece + content[end:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


@st.composite
def damaged_message(draw: st.DrawFn, sound: Message) -> bytes:
    """Set, repeat or delete up to three fields anywhere in a message."""
    message = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        place = _choose(draw, _list_messages(message))
        field = draw(st.sampled_from(list(place.DESCRIPTOR.fields)))
        _damage_field(draw, place, field)
    encoded: bytes = message.SerializePartialToString()
    return encoded


@st.composite
def damaged_json(draw: st.DrawFn, sound: Any) -> Any:
    """Replace or delete up to three values anywhere in a document."""
    document = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_list_containers(document))
        if not places:
            break
        place = _choose(draw, places)
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if draw(st.booleans()):
            place[key] = copy.deepcopy(_choose(draw, _JSON))
        else:
            del place[key]
    return document


def _choose(draw: st.DrawFn, choices: list[Any]) -> Any:
    """Draw by place: hypothesis must not hold on to what is changed later."""
    return choices[draw(st.integers(0, len(choices) - 1))]


def _list_messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                found += _list_messages(child)
    return found


def _damage_field(draw: st.DrawFn, place: Message, field: FieldDescriptor) -> None:
    if draw(st.integers(0, 3)) == 0:
        place.ClearField(field.name)
        return
    value = getattr(place, field.name)
    repeated = field.is_repeated
    if field.message_type is not None:
        if repeated:
            value.add().CopyFrom(_choose(draw, [*value, value.add()]))
        else:
            value.SetInParent()
        return
    new = _draw_scalar(draw, field)
    if not repeated:
        setattr(place, field.name, new)
    elif len(value) and draw(st.booleans()):
        value[draw(st.integers(0, len(value) - 1))] = new
    else:
        value.append(new)


def _draw_scalar(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        return draw(st.sampled_from([entry.number for entry in field.enum_type.values]))
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw(st.sampled_from(_TEXTS))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=40))
    if field.type in _FLOAT_TYPES:
        return draw(st.sampled_from(_FLOATS))
    if field.type in _LONG_TYPES:
        choices = _NUMBERS + _LARGE
        unsigned = field.type == FieldDescriptor.TYPE_UINT64
        return draw(st.sampled_from([n for n in choices if n >= 0] if unsigned else choices))
    return draw(st.sampled_from(_NUMBERS))


def _list_containers(document: Any) -> list[Any]:
    if not isinstance(document, dict | list):
        return []
    children = document.values() if isinstance(document, dict) else document
    inner = [found for child in children for found in _list_containers(child)]
    return ([document] if document else []) + inner
