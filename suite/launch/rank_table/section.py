"""One JSON object of a rank table, read key by key; what is wrong is collected, not raised.

In every rank table that HCCL reads, numbers are text: `"rank_id": "0"`. A bare number is a fault,
but its value still takes part in the checks, so that one slip is reported once.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from suite.launch.addresses import parse_address
from suite.launch.rank_table.strict_json import Bare, Fault, JsonObject, describe
from suite.strict_nodes import clean

MAX_NUMBER: Final = 2**32 - 1  # HCCL keeps ranks and device numbers in 32 bits
MAX_NAME: Final = 64  # characters of a server_id

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_WHOLE: Final = 'a whole number in quotes, such as "0"'


@dataclass(frozen=True)
class Notes:
    """What reading found.

    Attributes:
        faults: in the order of the file.
        ignored: paths of keys that are not used, without list positions; each stands here once.
    """

    faults: list[Fault] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)


class Section:
    """An object of the document.

    Args:
        plain: its keys and values.
        path: where it is.
        notes: takes what is wrong with it.
        known: keys that mean something; all others are noted as ignored.
    """

    def __init__(
        self, plain: JsonObject, path: str, notes: Notes, *, known: Collection[str]
    ) -> None:
        self._plain, self.path, self._notes = plain, path, notes
        self._faulty: set[str] = set()
        place = re.sub(r"\[\d+\]", "[]", path)
        for key in plain:
            if key not in known:
                notes.ignored[f"{place}.{clean(key)}"] = None

    def __contains__(self, key: str) -> bool:
        return key in self._plain

    def fault(self, key: str, message: str) -> None:
        """Note what is wrong with a key."""
        self._faulty.add(key)
        self._notes.faults.append(Fault(f"{self.path}.{key}", message))

    def refuse(self, key: str, expected: str) -> None:
        """Note that something else than what is expected stands there, or nothing."""
        got = describe(self._plain[key]) if key in self._plain else "nothing"
        self.fault(key, f"expected {expected}, got {got}")

    @property
    def faulty(self) -> frozenset[str]:
        """The keys of which a fault is noted."""
        return frozenset(self._faulty)

    def number(self, key: str, *, required: bool = True) -> int | None:
        """Return a number that stands in quotes; None where it is absent or none."""
        value = self._plain.get(key)
        text = value.text if isinstance(value, Bare) else value
        if key not in self._plain:
            if required:
                self.fault(key, f"missing; expected {_WHOLE}")
            return None
        if not isinstance(text, str) or not _NUMBER.fullmatch(text) or int(text) > MAX_NUMBER:
            self.refuse(key, _WHOLE)
            return None
        if isinstance(value, Bare):
            self.refuse(key, f'text, "{text}" in quotes')
        return int(text)

    def count(self, key: str, actual: int, what: str, *, required: bool = True) -> None:
        """Hold a number that counts something in the document against how many there are."""
        told = self.number(key, required=required)
        if told is not None and told != actual:
            self.fault(key, f"'{told}' is wrong, number of {what}: {actual}")

    def name(self, key: str) -> str | None:
        """Return a name; None where it is absent or cannot be one."""
        value = self._plain.get(key)
        if isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable():
            return value
        self.refuse(key, f"text of 1 to {MAX_NAME} printable characters")
        return None

    def address(self, key: str) -> str | None:
        """Return an IP address; None where it is absent, empty or none."""
        value = self._plain.get(key, "")
        if value == "":
            return None
        if isinstance(value, str) and parse_address(value) is not None:
            return value
        self.refuse(key, "an IP address such as 192.168.100.101")
        return None

    def sections(self, key: str, *, known: Collection[str]) -> list[Section]:
        """Return the objects of a list; a fault where it is absent or empty."""
        value = self._plain.get(key)
        if not isinstance(value, list) or not value:
            got = "an empty list" if value == [] else describe(value)
            told = f"got {got}" if key in self._plain else "missing"
            self.fault(key, f"expected a list of objects, {told}")
            return []
        found = []
        for index, one in enumerate(value):
            path = f"{self.path}.{key}[{index}]"
            if isinstance(one, JsonObject):
                found.append(Section(one, path, self._notes, known=known))
            else:
                self._notes.faults.append(Fault(path, f"expected an object, got {describe(one)}"))
        return found

    def value(self, key: str) -> Any:
        """Return whatever stands there, None where nothing does."""
        return self._plain.get(key)
