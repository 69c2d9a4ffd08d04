"""One line of the doctor's answer, and how other programs are asked without hanging with them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

GIB = 2**30
_TOOL_TIMEOUT_S = 10.0

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


@dataclass(frozen=True)
class Output:
    """What a program printed, on both streams.

    Attributes:
        problem: why that is not an answer, None where it is one.
    """

    text: str
    problem: str | None = None


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


def run_tool(*command: str) -> Output:
    """Run a program of the vendor and return what it printed, whatever becomes of it."""
    shown = " ".join(command)
    try:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments and no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return Output("", f"{shown}: {error.strerror}")
    try:
        text, _ = process.communicate(timeout=_TOOL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Output("", f"{shown}: no answer within {_TOOL_TIMEOUT_S:g} s")
    if process.returncode != 0:
        last = (text.strip().splitlines() or ["no message"])[-1].strip()
        return Output(text, f"{shown}: exit code {process.returncode}, {last}")
    return Output(text)


def _abandon(process: subprocess.Popen[str]) -> None:
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    # In the kernel, at a driver that does not answer, it cannot be ended: it is left there.
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
