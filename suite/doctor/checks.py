"""One line of the doctor's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

GIB = 2**30

DeviceKind = Literal["auto", "cpu", "cuda", "npu"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer.

    Attributes:
        status: "ok"; "warning": works, with a drawback; "missing": absent or unusable, which only
            matters to those who need it.
        remedy: what to do about it, None where nothing has to be done or can be.
    """

    name: str
    status: Literal["ok", "warning", "missing"]
    value: str
    remedy: str | None = None


def format_checks(checks: Sequence[Check]) -> str:
    """Render one line a check, and on the line below it the remedy, the first time it is named."""
    rows = []
    told: set[str | None] = {None}
    for check in checks:
        rows.append([check.status, check.name, check.value])
        if check.remedy not in told:
            rows.append(["", "", f"-> {check.remedy}"])
        told.add(check.remedy)
    return tabulate(rows, tablefmt="plain", disable_numparse=True)
