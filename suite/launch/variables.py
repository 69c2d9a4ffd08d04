"""Environment variables of a launcher, read strictly: what is missing or no number is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from suite.errors import UsageError


@dataclass(frozen=True)
class Variables:
    """What is set, and by whom.

    Attributes:
        environ: name -> value, none of them empty.
        starter: who is thought to have set them; begins every message.
    """

    environ: Mapping[str, str]
    starter: str

    def text(self, *names: str) -> str:
        """Return the first of these variables that is set.

        Raises:
            UsageError: none is; names the first.
        """
        for name in names:
            if name in self.environ:
                return self.environ[name]
        raise UsageError(f"{self.starter}: the environment variable {names[0]} is not set")

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of these variables that is set, as a number from 0.

        Raises:
            UsageError: it is no number, or none is set and there is no default.
        """
        name = next((name for name in names if name in self.environ), None)
        if name is None and default is not None:
            return default
        text = self.text(*names)
        if re.fullmatch(r"[0-9]{1,10}", text) is None:
            raise UsageError(f"{self.starter}: expected a number in {name}, got {text!r}")
        return int(text)

    def count(self, *names: str, default: int | None = None) -> int:
        """Return a number that is at least 1.

        Raises:
            UsageError: as `number`, or it is 0.
        """
        count = self.number(*names, default=default)
        if count == 0:
            raise UsageError(f"{self.starter}: expected at least 1 in {names[0]}, got 0")
        return count

    def port(self, *names: str, default: int | None = None) -> int:
        """Return a number that is a port.

        Raises:
            UsageError: as `number`, or it is none.
        """
        port = self.number(*names, default=default)
        if not 1 <= port <= 65535:
            raise UsageError(
                f"{self.starter}: expected a port from 1 to 65535 in {names[0]}, got {port}"
            )
        return port
