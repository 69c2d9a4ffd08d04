"""A command line with old flags in it, taken apart: what `seed_flags` rewrites from.

click cannot do this, as it would have to know the old flags, of which some exist on one verb under
the same name (`--nnodes` of `launch`) and others decide which verb it is.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from suite.errors import UsageError

MODES: Final = ("train", "train_and_eval", "eval")
# The one old flag with several values: --gpu-ids 0 1.
_LIST: Final = "--gpu-ids"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A command line.

    Attributes:
        verb: `train` or `launch`, as typed.
        words: what is neither flag nor value: the recipe.
        old: old flag -> its value, in order.
        own: our own flags -> the last value, "" where there is none.
        settings: the values of `--set`.
        kept: our own flags with their values, as typed.
        kept_first: those of `launch`, which it wants before the recipe.
    """

    verb: str
    words: tuple[str, ...]
    old: Mapping[str, str]
    own: Mapping[str, str]
    settings: Mapping[str, str]
    kept: tuple[str, ...]
    kept_first: tuple[str, ...]

    @property
    def mode(self) -> str:
        """What the SSD's `--mode` asks for."""
        return self.old.get("--mode", "train_and_eval")

    @property
    def launches(self) -> bool:
        """Whether there are several machines."""
        return self.verb == "launch" or self.count_machines() > 1

    def count_machines(self) -> int:
        """Return how many machines the line speaks of."""
        if "--hosts" in self.own:
            return len(self.own["--hosts"].split(","))
        return read_count("--nnodes", self.own.get("--nnodes", self.old.get("--nnodes", "1")))

    def count_devices(self) -> int | None:
        """Return the devices of all machines, None where the line leaves them to the recipe."""
        devices = self.own.get("--devices", self.settings.get("devices"))
        if devices is not None:
            return read_count("--devices", devices)
        ids = self.old.get(_LIST, self.own.get("--device-ids"))
        if ids is not None:
            return len(ids.split(","))
        if "--gpus" in self.old:
            return read_count("--gpus", self.old["--gpus"]) * self.count_machines()
        return None


def parse_line(argv: Sequence[str], examples: Mapping[str, str]) -> Line:
    """Take a command line apart.

    Args:
        argv: the verb first.
        examples: old flag -> a value it may have. One that the verb itself has is not old there.

    Raises:
        UsageError: an old flag stands twice or has no value, or `--mode` is none of `MODES`.
    """
    from suite.recipe import parse_overrides

    verb, *tokens = argv
    of_launch = _list_options("launch") if verb == "launch" else {}
    ours = _list_options("train") | of_launch
    old_flags = examples.keys() - ours.keys()
    pieces = _split(tokens, ours=ours, old=old_flags)
    own = [piece for piece in pieces if piece.name and piece.name not in old_flags]
    first = [piece for piece in own if piece.name in of_launch]
    return Line(
        verb=verb,
        words=tuple(piece.value for piece in pieces if not piece.name),
        old=_read_old([piece for piece in pieces if piece.name in old_flags], examples),
        own={piece.name: piece.value for piece in own},
        settings=parse_overrides([piece.value for piece in own if piece.name == "--set"]),
        kept=tuple(word for piece in own if piece not in first for word in piece.typed),
        kept_first=tuple(word for piece in first for word in piece.typed),
    )


def read_count(flag: str, value: str) -> int:
    """Return a number of things.

    Raises:
        UsageError: it is none, or 0.
    """
    if re.fullmatch(r"[1-9][0-9]{0,8}", value) is None:
        raise UsageError(f"{flag} {value!r}: expected a whole number from 1, such as {flag}=8")
    return int(value)


def _list_options(verb: str) -> dict[str, bool]:
    """Return the names of a verb's options, and whether each takes a value."""
    import click

    from suite.cli import cli

    options = (one for one in cli.commands[verb].params if isinstance(one, click.Option))
    return {name: not one.is_flag for one in options for name in (*one.opts, *one.secondary_opts)}


class _Piece(NamedTuple):
    """A flag with its value, or a word, which has no name."""

    name: str
    value: str
    typed: tuple[str, ...]


def _split(tokens: Sequence[str], *, ours: Mapping[str, bool], old: Set[str]) -> list[_Piece]:
    pieces = []
    left = deque(tokens)
    while left:
        token = left.popleft()
        name, equals, value = token.partition("=")
        if not token.startswith("-"):
            pieces.append(_Piece("", token, (token,)))
        elif equals or not left or not (name in old or ours.get(name)):
            pieces.append(_Piece(name, value, (token,)))
        elif name in old:
            pieces.append(_Piece(name, _take_old_value(name, left), ()))
        else:
            value = left.popleft()
            pieces.append(_Piece(name, value, (token, value)))
    return pieces


def _take_old_value(flag: str, left: deque[str]) -> str:
    value = "" if left[0].startswith("--") else left.popleft()
    while flag == _LIST and left and left[0].isdecimal():
        value += f",{left.popleft()}"
    return value


def _read_old(pieces: Sequence[_Piece], examples: Mapping[str, str]) -> dict[str, str]:
    old: dict[str, str] = {}
    for name, value, _ in pieces:
        if name in old:
            raise UsageError(f"{name}: given twice")
        if not value:
            raise UsageError(f"{name}: needs a value, such as {name}={examples[name]}")
        old[name] = value
    mode = old.get("--mode", MODES[0])
    if mode not in MODES:
        raise UsageError(f"--mode {mode!r}: expected one of {', '.join(MODES)}")
    return old
