"""Taking the objects out of a JSON document's lists while it is read, one after the other.

The document is an object whose values may be lists of objects, such as COCO's. Only brackets and
quotes are looked at here, many at a time; the objects, and the document without them, are for the
caller's parser, so that nothing that is not JSON passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np

MAX_DEPTH: Final = 64  # COCO nests 5 deep
MAX_OBJECT_BYTES: Final = 256 * 1024**2  # one image or annotation, its segmentation included
MAX_REST_BYTES: Final = 16 * 1024**2  # what stands outside the lists' objects
_LIST_DEPTH: Final = 2
_KEY_BYTES: Final = 256
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_KEY: Final = re.compile(rb'"([^"\\]*)"\s*:\s*$')


class JsonLists:
    """Splits one document."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._parts: list[bytes] = []  # of an object, or what stands since the last one
        self._inside = False  # an object
        self._follows_object = False
        self._key = ""
        self._depth = 0
        self._in_string = False
        self._in_escape = False

    def split(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Take the next part of the text, at least one byte; yield (key of a list, its object).

        Raises:
            ValueError: it is nested too deep, or something in it is too large.
        """
        start = 0
        for position, depth in self._find_borders(chunk):
            mark = chunk[position]
            if self._inside:
                self._parts.append(chunk[start : position + 1])
                start = position + 1
                yield self._key, self._take_parts()
                self._inside, self._follows_object = False, True
            elif mark in b"{[" and depth == _LIST_DEPTH:
                self._parts.append(chunk[start:position])
                start = position
                self._rest += self._take_parts()
                self._follows_object = False
                self._key = self._find_key() if mark == ord("[") else ""
            elif mark == ord("{"):
                self._parts.append(chunk[start:position])
                start = position
                self._shorten(self._take_parts())
                self._inside = True
        self._parts.append(chunk[start:])
        self._require_room()

    def finish(self) -> bytes:
        """Return the document, of the objects of its lists only `{}` where one or more stood.

        An object that has not ended is in it as far as it goes.
        """
        return bytes(self._rest) + self._take_parts()

    def _find_borders(self, chunk: bytes) -> Iterator[tuple[int, int]]:
        """Yield where a list or an object of one begins, or an object ends; and the depth there."""
        text = self._without_escapes(chunk)
        in_string = (np.cumsum(text == ord('"'), dtype=np.int32) + self._in_string) % 2 == 1
        # '[' and '{', like ']' and '}', differ in one bit.
        marks = np.where(in_string, 0, text | 32)
        opens, closes = marks == ord("{"), marks == ord("}")
        places = np.flatnonzero(opens | closes)
        depths = self._depth + np.cumsum(np.where(opens[places], 1, -1))
        self._in_string = bool(in_string[-1])
        if not places.size:
            return
        self._depth = int(depths[-1])
        if int(depths.max()) > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        border = (depths == _LIST_DEPTH) | (opens[places] & (depths == _LIST_DEPTH + 1))
        yield from zip(places[border].tolist(), depths[border].tolist(), strict=True)

    def _without_escapes(self, chunk: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Return the text with spaces for a backslash and what it escapes."""
        if self._in_escape:
            chunk = b" " + chunk[1:]
        text = _ESCAPE.sub(b"  ", chunk)
        self._in_escape = text.endswith(b"\\")
        return np.frombuffer(text, np.uint8)

    def _take_parts(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts = []
        return taken

    def _find_key(self) -> str:
        found = _KEY.search(self._rest[-_KEY_BYTES:])
        return found[1].decode("utf-8", "replace") if found else ""

    def _shorten(self, gap: bytes) -> None:
        """Put an object into the rest, unless one is there that only a comma parts from it."""
        if not (self._follows_object and gap.strip(b" \t\r\n") == b","):
            self._rest += gap + b"{}"

    def _require_room(self) -> None:
        size = sum(map(len, self._parts))
        if self._inside and size > MAX_OBJECT_BYTES:
            raise ValueError(f"an object of more than {MAX_OBJECT_BYTES} bytes")
        if not self._inside and size + len(self._rest) > MAX_REST_BYTES:
            raise ValueError(f"more than {MAX_REST_BYTES} bytes outside of its lists' objects")
