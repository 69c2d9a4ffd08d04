"""How much an encoded model may make protobuf build, found before it builds anything.

The encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from suite.errors import InputError

# A detector's graph has 10,000; each takes some 100 bytes of memory.
MAX_PARTS = 500_000
# Class names, in the metadata, are the longest text of a detector. In memory a text may take four
# bytes where the file has one.
MAX_TEXT_BYTES = 2**20
# One byte of a packed field may become eight in memory.
_PACKED_BYTES_A_PART = 128
_MAX_DEPTH = 100  # protobuf's own


def check_encoding(content: bytes, *, source: str) -> None:
    """Look through an encoded model before protobuf makes objects of it.

    Raises:
        InputError: it is no model, has more than `MAX_PARTS` nodes, names and numbers, or a text
            of more than `MAX_TEXT_BYTES`.
    """
    try:
        _Count(content).enter(0, len(content), onnx.ModelProto.DESCRIPTOR, depth=0)
    except _TooMuch as error:
        raise InputError(f"{source}: {error}; no detector has as many") from error
    except _Malformed as error:
        raise InputError(f"{source}: not an ONNX file, or cut short") from error


class _TooMuch(Exception):
    """More than allowed; the message says of what."""


class _Malformed(Exception):
    """Not the encoding of a message."""


@cache
def _known_fields(descriptor: Descriptor) -> dict[int, FieldDescriptor]:
    return {field.number: field for field in descriptor.fields}


class _Count:
    """Counts the fields of a message and of all within, in order of the file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_PARTS

    def enter(self, start: int, end: int, descriptor: Descriptor, *, depth: int) -> None:
        """Count the fields between two places, which are of the message that is described."""
        if depth > _MAX_DEPTH:
            raise _Malformed
        fields = _known_fields(descriptor)
        position = start
        while position < end:
            self._spend(1)
            tag, position = self._read_number(position)
            kind, number = tag & 7, tag >> 3
            if kind == 0:
                _, position = self._read_number(position)
            elif kind == 2:
                length, position = self._read_number(position)
                if position + length > end:
                    raise _Malformed
                if number in fields:
                    self._look_inside(fields[number], position, length, depth)
                position += length
            elif kind in (1, 5):
                position += 8 if kind == 1 else 4
            else:
                raise _Malformed
        if position != end:
            raise _Malformed

    def _look_inside(self, field: FieldDescriptor, position: int, length: int, depth: int) -> None:
        if field.message_type is not None:
            self.enter(position, position + length, field.message_type, depth=depth + 1)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if length > MAX_TEXT_BYTES:
                raise _TooMuch(f"a text of {length:,} bytes")
            # Protobuf would hand out bytes where all code expects text.
            try:
                self._content[position : position + length].decode()
            except UnicodeDecodeError as error:
                raise _Malformed from error
        elif field.type != FieldDescriptor.TYPE_BYTES:
            self._spend(length // _PACKED_BYTES_A_PART)

    def _spend(self, parts: int) -> None:
        self._left -= parts
        if self._left < 0:
            raise _TooMuch(f"more than {MAX_PARTS:,} nodes, names and numbers")

    def _read_number(self, position: int) -> tuple[int, int]:
        """Return a number of seven bits a byte, and the place behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(self._content):
                raise _Malformed
            byte = self._content[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
        raise _Malformed
