"""Read YAML into frozen dataclasses, strictly, and write them back.

The declared type of a field decides what a scalar means: `1e-4` is a number where a float is
declared and `no` is text where a str is (plain PyYAML reads the first as text, the second as
false). All mistakes are reported at once, one line each, with line number and dotted key.

Understood types: int, float, bool, str, Literal of texts, `X | None`, tuple[X, ...] and dataclasses
of these; `Annotated` adds a `Limit` or `Aliases`.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin
from typing import get_type_hints as list_hints

import yaml

from suite.errors import UsageError
from suite.strict_nodes import (
    Mistake,
    clean,
    compose_nodes,
    describe,
    is_null,
    line_of,
    read_scalar,
    suggest,
)

MAX_MISTAKES = 50

Built = TypeVar("Built")


@dataclass(frozen=True)
class Limit:
    """A condition on one value beyond its type; `expected` completes "expected ..."."""

    expected: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Aliases:
    """Other spellings that are accepted for a text, and what each is read as."""

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """A condition between several fields.

    Attributes:
        keys: dotted keys; their values are the arguments of `holds` and fill `message`.
        holds: whether the values go together; asked only when each of them is valid by itself.
        message: format string, `{0}` is the first value.
    """

    keys: tuple[str, ...]
    holds: Callable[..., bool]
    message: str


def read_yaml(
    text: str,
    kind: type[Built],
    *,
    source: str,
    overrides: Mapping[str, str] = {},
    rules: Sequence[Rule] = (),
) -> Built:
    """Build a dataclass from YAML text.

    Args:
        text: one YAML document.
        kind: the dataclass of its top level.
        source: how messages name the text, usually its path.
        overrides: dotted key -> text that replaces the document's value.
        rules: conditions between fields.

    Raises:
        UsageError: holds every mistake, one line each.
    """
    return _read(text, kind, _Reading(source, overrides), rules)


def read_plain(
    plain: object, kind: type[Built], *, source: str, rules: Sequence[Rule] = ()
) -> Built:
    """Build a dataclass from dictionaries, lists and scalars through the same checks as a document.

    Raises:
        UsageError: holds every mistake, one line each, without line numbers.
    """
    try:
        text = yaml.safe_dump(plain, sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        expected = "expected nothing but dictionaries, lists, texts and numbers"
        raise UsageError(f"{source}: {expected}") from None
    return _read(text, kind, _Reading(source, {}, numbered=False), rules)


def encode_plain(value: Any) -> Any:
    """Return a dataclass as dictionaries, lists and scalars, keys in the order of its fields."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: encode_plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple):
        return [encode_plain(element) for element in value]
    return value


def encode_yaml(value: object) -> str:
    """Return a dataclass as YAML text that `read_yaml` reads back equal."""
    return yaml.safe_dump(encode_plain(value), sort_keys=False, allow_unicode=True)


def list_keys(kind: Any, prefix: str = "") -> list[str]:
    """Return the dotted key of every field below a dataclass, sections left out."""
    keys: list[str] = []
    for name, hint in list_hints(kind).items():
        below = dataclasses.is_dataclass(hint)
        keys += list_keys(hint, f"{prefix}{name}.") if below else [prefix + name]
    return keys


class _Place(NamedTuple):
    """Where a value stands: its dotted key and its line, counted from 1; line 0 is `--set`."""

    key: str
    line: int

    def enter(self, name: str, line: int) -> _Place:
        return _Place(f"{self.key}.{name}" if self.key else name, line)


class _Reading:
    """What has been understood so far and what is wrong."""

    def __init__(self, source: str, overrides: Mapping[str, str], *, numbered: bool = True) -> None:
        self.source = source
        self.overrides = overrides
        self.numbered = numbered
        self.values: dict[str, tuple[Any, _Place]] = {}
        self.mistakes: list[tuple[_Place, str]] = []

    def report(self, place: _Place, message: str) -> None:
        self.mistakes.append((place, message))
        if len(self.mistakes) == MAX_MISTAKES:
            self.mistakes.append((place, "too many mistakes to go on, correct these first"))
            self.raise_mistakes()

    def raise_mistakes(self) -> None:
        """Raise what has been reported, in order of lines, what came from `--set` last."""
        if self.mistakes:
            ordered = sorted(self.mistakes, key=lambda found: found[0].line or math.inf)
            raise UsageError("\n".join(self._format(place, message) for place, message in ordered))

    def _format(self, place: _Place, message: str) -> str:
        key = f"{clean(place.key)}: " if place.key else ""
        if not place.line:
            return f"--set {key}{message}"
        line = f"{place.line}: " if self.numbered else " "
        return f"{self.source}:{line}{key}{message}"


def _read(text: str, kind: type[Built], reading: _Reading, rules: Sequence[Rule]) -> Built:
    top = _Place("", 1)
    _check_override_keys(reading, kind)
    root = _compose(reading, text, top)
    built = None if root is None else _read_or_report(reading, root, kind, top)
    _check_rules(reading, rules)
    reading.raise_mistakes()
    return cast(Built, built)


def _check_override_keys(reading: _Reading, kind: Any) -> None:
    known = list_keys(kind)
    for key in reading.overrides:
        inside = [candidate for candidate in known if candidate.startswith(f"{key}.")]
        if inside:
            reading.report(_Place(key, 0), f"a section; set one of its keys, such as {inside[0]}")
        elif key not in known:
            reading.report(_Place(key, 0), "unknown key" + _suggest_key(key, known, below=known))


def _suggest_key(key: str, names: Iterable[str], *, below: Iterable[str]) -> str:
    # A similar key of this section, else this very key in a section below it.
    elsewhere = [dotted for dotted in below if dotted.endswith(f".{key}")]
    return suggest(key, names) or suggest(key, elsewhere, cutoff=0.0)


def _compose(reading: _Reading, text: str, place: _Place) -> yaml.Node | None:
    root, problems = compose_nodes(text)
    for line, message in problems:
        reading.report(_within(place, line), message)
    return root


def _within(place: _Place, line: int) -> _Place:
    return place._replace(line=line if place.line else 0)


def _check_rules(reading: _Reading, rules: Sequence[Rule]) -> None:
    for rule in rules:
        if all(key in reading.values for key in rule.keys):
            values, places = zip(*(reading.values[key] for key in rule.keys), strict=True)
            if not rule.holds(*values):
                # The place that is easiest to change: the override, else the first line.
                place = min(places, key=lambda place: place.line)
                reading.report(place, rule.message.format(*values))


def _read_or_report(reading: _Reading, node: yaml.Node, hint: Any, place: _Place) -> Any:
    before = len(reading.mistakes)
    try:
        value = _read_value(reading, node, hint, place)
    except Mistake as mistake:
        reading.report(place, str(mistake))
        return None
    if len(reading.mistakes) == before:
        reading.values[place.key] = (value, place)
    return value


def _read_value(reading: _Reading, node: yaml.Node, hint: Any, place: _Place) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        return _read_annotated(reading, node, hint, place)
    if origin in (Union, types.UnionType):
        (inner,) = (choice for choice in get_args(hint) if choice is not types.NoneType)
        return None if is_null(node) else _read_value(reading, node, inner, place)
    if dataclasses.is_dataclass(hint):
        return _read_section(reading, node, hint, place)
    if origin is tuple:
        return _read_list(reading, node, get_args(hint)[0], place)
    return read_scalar(node, hint)


def _read_annotated(reading: _Reading, node: yaml.Node, hint: Any, place: _Place) -> Any:
    inner, *marks = get_args(hint)
    for aliases in (mark for mark in marks if isinstance(mark, Aliases)):
        if isinstance(node, yaml.ScalarNode) and node.value in aliases.meanings:
            node = yaml.ScalarNode(node.tag, aliases.meanings[node.value])
    value = _read_value(reading, node, inner, place)
    for limit in (mark for mark in marks if isinstance(mark, Limit)):
        if not limit.holds(value):
            raise Mistake(f"expected {limit.expected}, got {describe(node)}")
    return value


def _read_list(reading: _Reading, node: yaml.Node, hint: Any, place: _Place) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise Mistake(f"expected a list such as [a, b], got {describe(node)}")
    elements = []
    for index, child in enumerate(node.value):
        inner = _within(place, line_of(child))._replace(key=f"{place.key}[{index}]")
        elements.append(_read_or_report(reading, child, hint, inner))
    return tuple(elements)


def _read_section(reading: _Reading, node: yaml.Node, kind: Any, place: _Place) -> Any:
    before = len(reading.mistakes)
    hints = list_hints(kind, include_extras=True)
    if not isinstance(node, yaml.MappingNode):
        raise Mistake(f"expected the keys {', '.join(hints)}, got {describe(node)}")
    entries = _collect_entries(reading, node, kind, place)
    _replace_entries(reading, entries, hints, place)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        inner = place.enter(field.name, place.line)
        if field.name in entries:
            found, child = entries[field.name]
            values[field.name] = _read_or_report(reading, child, hints[field.name], found)
        elif field.default is dataclasses.MISSING:
            reading.report(inner, "missing")
        elif dataclasses.is_dataclass(hints[field.name]):
            # A section of defaults, each of which may be overridden and takes part in the rules.
            nothing = yaml.MappingNode("", [])
            values[field.name] = _read_or_report(reading, nothing, hints[field.name], inner)
        else:
            reading.values[inner.key] = (field.default, inner)
    return kind(**values) if len(reading.mistakes) == before else None


def _collect_entries(
    reading: _Reading, node: yaml.MappingNode, kind: Any, place: _Place
) -> dict[str, tuple[_Place, yaml.Node]]:
    names = [field.name for field in dataclasses.fields(kind)]
    entries: dict[str, tuple[_Place, yaml.Node]] = {}
    for key, child in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else describe(key)
        inner = place.enter(name, line_of(key))
        if name in entries:
            reading.report(inner, f"given twice, first in line {entries[name][0].line}")
        elif name not in names:
            message = "unknown key" + _suggest_key(name, names, below=list_keys(kind))
            reading.report(inner, message)
        else:
            entries[name] = (inner, child)
    return entries


def _replace_entries(
    reading: _Reading,
    entries: dict[str, tuple[_Place, yaml.Node]],
    hints: Mapping[str, Any],
    place: _Place,
) -> None:
    for name, hint in hints.items():
        inner = place.enter(name, 0)
        if inner.key in reading.overrides and not dataclasses.is_dataclass(hint):
            node = _compose_override(reading, hint, inner)
            if node is not None:
                entries[name] = (inner, node)


def _compose_override(reading: _Reading, hint: Any, place: _Place) -> yaml.Node | None:
    text = reading.overrides[place.key]
    if _is_list(hint):
        return _compose(reading, text, place)
    # Not parsed as YAML: `data.root=C:\sets: old` has to arrive as it was typed.
    return yaml.ScalarNode("", text)


def _is_list(hint: Any) -> bool:
    if get_origin(hint) in (Annotated, Union, types.UnionType):
        return any(_is_list(inner) for inner in get_args(hint))
    return get_origin(hint) is tuple
