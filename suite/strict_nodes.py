"""From YAML text to nodes, and what one scalar means once the type it has to have is known.

Nodes are only composed, no object is ever constructed from them. Tags, anchors and aliases are
refused, and so is anything large or deep enough to hurt. A quoted scalar is text, whatever stands
inside the quotes; an unquoted one is what the declared type makes of it.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import yaml

MAX_CHARACTERS = 2**20
MAX_DEPTH = 20
MAX_EVENTS = 10_000


class Mistake(Exception):
    """One value is wrong; the reader that knows its place adds it to the report."""


def compose_nodes(text: str) -> tuple[yaml.Node | None, list[tuple[int, str]]]:
    """Compose one document that keeps within the three limits above; a recipe has 200 events.

    Returns:
        its top node, None where it could not be composed, and the mistakes: line from 1, message.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [(1, f"longer than {MAX_CHARACTERS:,} characters")]
    problems: list[tuple[int, str]] = []
    try:
        # Events before nodes: composing recurses, so the depth has to be known to be harmless.
        problems += _find_indirections(text)
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return None, [*problems, _explain(error, text)]
    except _Refused as error:
        return None, [(error.line, str(error))]
    return root, problems if root is not None else [(1, "empty")]


def line_of(node: yaml.Node | yaml.Event) -> int:
    """Return the line on which a node starts, counted from 1."""
    assert node.start_mark is not None
    return node.start_mark.line + 1


def read_scalar(node: yaml.Node, hint: Any) -> int | float | bool | str:
    """Return the value of a scalar node.

    Args:
        node: any node; one that is no scalar is a mistake.
        hint: int, float, bool, str or a Literal of texts.

    Raises:
        Mistake: the text is not of that type.
    """
    if not isinstance(node, yaml.ScalarNode):
        raise Mistake(f"expected {_name_type(hint)}, got {describe(node)}")
    return _read_literal(node, hint) if get_origin(hint) is Literal else _READERS[hint](node)


def is_null(node: yaml.Node) -> bool:
    """Tell whether a node is an unquoted null, or nothing at all."""
    nulls = ("", "~", "null", "Null", "NULL")
    return isinstance(node, yaml.ScalarNode) and _is_plain(node) and node.value in nulls


def describe(node: yaml.Node) -> str:
    """Return what stands in the document, for the end of "expected ..., got ..."."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "a section"
    if is_null(node):
        return "null" if node.value else "nothing"
    return quote(node.value) if _is_plain(node) else f"the text {quote(node.value)}"


def quote(text: str) -> str:
    """Return text in quotes, cut to a readable length, without anything a terminal would obey."""
    return ascii(text) if len(text) <= 60 else ascii(text[:60]) + "..."


def clean(text: str) -> str:
    """Return text as it is where that is harmless to print, else quoted."""
    return text if text.isprintable() and len(text) <= 200 else quote(text)


def suggest(text: str, choices: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return " (did you mean 'x'?)", or nothing where no choice is similar."""
    close = difflib.get_close_matches(text, list(choices), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


class _Refused(Exception):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _find_indirections(text: str) -> list[tuple[int, str]]:
    found, depth = [], 0
    for count, event in enumerate(_list_events(text)):
        if getattr(event, "anchor", None):
            message = "anchors and aliases (& and *) are not allowed, write the value out"
            found.append((line_of(event), message))
        if tag := getattr(event, "tag", None):
            found.append((line_of(event), f"tags are not allowed, got {quote(tag)}"))
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels", line_of(event))
        if count > MAX_EVENTS:
            raise _Refused(f"more than {MAX_EVENTS:,} keys and values", line_of(event))
    return found


def _list_events(text: str) -> Iterator[yaml.Event]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_event():
            yield loader.get_event()  # type: ignore[no-untyped-call]  # PyYAML has no types
    except yaml.YAMLError:
        raise
    except (OverflowError, ValueError) as error:  # of chr and int, which PyYAML asks unchecked
        message = "not valid YAML: an escaped character or a version is out of range"
        raise _Refused(message, loader.line + 1) from error
    finally:
        loader.dispose()


def _explain(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"not valid YAML: the character {quote(chr(error.character))} is not allowed"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark = error.problem_mark or error.context_mark
    assert mark is not None
    problem = ", ".join(filter(None, [error.context, error.problem]))
    return mark.line + 1, f"not valid YAML: {clean(problem)}"


def _read_literal(node: yaml.ScalarNode, hint: Any) -> str:
    choices: tuple[str, ...] = get_args(hint)
    for choice in choices:
        if node.value == choice:
            return choice
    close = suggest(node.value, choices)
    raise Mistake(f"expected {_name_type(hint)}, got {describe(node)}{close}")


def _read_int(node: yaml.ScalarNode) -> int:
    # No leading zero, which YAML 1.1 takes for octal; 18 digits, which 64 bits always hold.
    if _is_plain(node) and re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,17})", node.value):
        return int(node.value)
    raise Mistake(f"expected an integer, got {describe(node)}")


def _read_float(node: yaml.ScalarNode) -> float:
    pattern = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
    if _is_plain(node) and re.fullmatch(pattern, node.value):
        value = float(node.value)
        if math.isfinite(value):
            return value
    raise Mistake(f"expected a finite number, got {describe(node)}")


def _read_bool(node: yaml.ScalarNode) -> bool:
    if _is_plain(node) and node.value in ("true", "false"):
        return bool(node.value == "true")
    raise Mistake(f"expected true or false, got {describe(node)}")


def _read_text(node: yaml.ScalarNode) -> str:
    if is_null(node):
        raise Mistake(f"expected text, got {describe(node)}")
    # A NUL ends a path, an escape sequence rewrites a terminal: no field of ours holds either.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in node.value):
        raise Mistake(f"expected text without control characters, got {describe(node)}")
    return str(node.value)


_READERS: dict[type, Callable[[yaml.ScalarNode], int | float | bool | str]] = {
    int: _read_int,
    float: _read_float,
    bool: _read_bool,
    str: _read_text,
}


def _is_plain(node: yaml.ScalarNode) -> bool:
    return node.style is None


def _name_type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[hint]
