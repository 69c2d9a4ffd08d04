"""JSON read more strictly than `json` does, for files that a cluster component or a hand wrote.

Python keeps the last of two equal keys and accepts NaN; the C++ parser of HCCL may do otherwise, so
both are faults. Numbers stay as they were written: in a rank table even numbers have to be text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.errors import InputError
from suite.files import is_file
from suite.strict_nodes import clean, quote

# Tables of 4,096 ranks have 0.7 MB and up to 33,000 values in 6 levels; HCCL ends at 32,768 ranks.
MAX_BYTES = 8 * 2**20
MAX_VALUES = 300_000  # small ones take a hundred times their place in the file
MAX_DEPTH = 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Fault:
    """What is wrong at one place of a JSON document.

    Attributes:
        path: from the top, such as $.server_list[0].server_id.
        message: the value, and what would be right.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Bare:
    """A number, or a NaN or Infinity, as it stands in the file."""

    text: str


class JsonObject(dict[str, Any]):
    """A JSON object that remembers which of its keys stand in it more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated: list[str] = []
        if len(self) < len(pairs):
            self.repeated = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES, what: str = "rank table") -> bytes:
    """Read a file that is no larger than any of its kind.

    Raises:
        InputError: there is no such file, it cannot be read or is too large.
    """
    shown = clean(str(path))
    try:
        if path.exists() and not is_file(path):
            raise InputError(f"{shown}: expected a file, a {what} is one")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown}: cannot be read: {reason}") from None
    if len(content) > max_bytes:
        raise InputError(f"{shown}: larger than {max_bytes:,} bytes, no {what} is")
    return content


def parse_json(content: bytes, *, source: str) -> tuple[JsonObject, list[Fault]]:
    """Parse one JSON object; also return the keys given twice and the values that are not JSON.

    Raises:
        InputError: it is no JSON object; says where and why.
    """
    text = _decode(content, source)
    # Each value is the first of the document, of an object or of a list, or follows a comma.
    if 1 + sum(text.count(mark) for mark in "{[,") > MAX_VALUES:
        raise InputError(f"{source}: more than {MAX_VALUES:,} values, no rank table has as many")
    try:
        plain = json.loads(
            text,
            object_pairs_hook=JsonObject,
            parse_int=Bare,
            parse_float=Bare,
            parse_constant=Bare,
        )
        faults = list(_find_oddities(plain, "$", 0))
    except json.JSONDecodeError as error:
        raise InputError(f"{source}:{_explain(error)}") from None
    except (RecursionError, _TooDeep):
        raise InputError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(plain, JsonObject):
        raise InputError(f"{source}: not a rank table: expected an object, got {describe(plain)}")
    return plain, faults


def describe(value: Any) -> str:
    """Return what stands in the file, for the end of "expected ..., got ..."."""
    match value:
        case str():
            return quote(value)
        case Bare():
            return f"the number {value.text if len(value.text) <= 60 else value.text[:60] + '...'}"
        case None | bool():
            return json.dumps(value)
        case list():
            return "a list"
        case _:
            return "an object"


class _TooDeep(Exception):
    pass


def _decode(content: bytes, source: str) -> str:
    if content.startswith(_BYTE_ORDER_MARK):
        raise InputError(f"{source}: begins with a byte order mark; save it as UTF-8 without BOM")
    if not content.strip():
        raise InputError(f"{source}: empty; whoever writes the rank table has not done so yet")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 text, wrong at byte {error.start}") from None


def _explain(error: json.JSONDecodeError) -> str:
    place = f"{error.lineno}:{error.colno}"
    if re.match(r"//|/\*|#", error.doc[error.pos : error.pos + 2]):
        return f"{place}: comments are not allowed in JSON; take them out"
    found = quote(error.doc[error.pos]) if error.pos < len(error.doc) else "the end of the file"
    return f"{place}: not valid JSON: {error.msg}, found {found}"


def _find_oddities(value: Any, path: str, depth: int) -> Iterator[Fault]:
    if depth > MAX_DEPTH:
        raise _TooDeep
    if isinstance(value, JsonObject):
        for key in value.repeated:
            yield Fault(f"{path}.{clean(key)}", "given more than once; leave one of them")
        for key, inner in value.items():
            yield from _find_oddities(inner, f"{path}.{clean(key)}", depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find_oddities(inner, f"{path}[{index}]", depth + 1)
    elif isinstance(value, Bare) and value.text in ("NaN", "Infinity", "-Infinity"):
        yield Fault(path, f"{value.text} is not JSON; write what is meant or take it out")
