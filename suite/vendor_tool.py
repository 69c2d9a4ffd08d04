"""How other programs are asked without hanging with them."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from dataclasses import dataclass

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Output:
    """What a program printed, on both streams.

    Attributes:
        problem: why that is not an answer, None where it is one.
    """

    text: str
    problem: str | None = None


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
        text, _ = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _abandon(process)
        return Output("", f"{shown}: no answer within {_TIMEOUT_S:g} s")
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
