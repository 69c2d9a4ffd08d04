"""Faults on purpose, for tests and `resume-check`: SUITE_FAULT says which rank fails how and when.

    SUITE_FAULT=kill9@rank1:step7,nan@rank0:step9

The kinds: kill9, stop (SIGSTOP), term (SIGTERM), raise, exit0, hang, oom; and nan, inf, spike,
which change the loss. `rank*` means all, `step7-9` three of them. Ranks that were started again
after one was lost have none. Where the variable is unset nothing of this is in a step's way.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from suite.errors import InputError, UsageError

VARIABLE: Final = "SUITE_FAULT"
_FAULT: Final = re.compile(r"([a-z0-9]+)@rank(\d+|\*):step(\d+)(?:-(\d+))?")
_SPIKE: Final = 1e4


def _raise() -> None:
    raise InputError("a fault was asked for: shard-3.tfrecord, record 17: bad sample")


def _run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("out of memory. A fault was asked for: tried to allocate 1 TiB")


def _signal_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


_ACTIONS: Final[Mapping[str, Callable[[], None]]] = {
    "kill9": _signal_self(signal.SIGKILL),
    "stop": _signal_self(signal.SIGSTOP),
    "term": _signal_self(signal.SIGTERM),
    "raise": _raise,
    "exit0": lambda: os._exit(0),
    "hang": lambda: time.sleep(10**6),
    "oom": _run_out_of_memory,
}
_FACTORS: Final[Mapping[str, float]] = {"nan": float("nan"), "inf": float("inf"), "spike": _SPIKE}


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, and the steps (from 1) that it comes before."""

    kind: str
    first_step: int
    last_step: int


def faults_of_rank(rank: int, environ: Mapping[str, str] = os.environ) -> list[Fault]:
    """Return the faults that a rank is to have.

    Raises:
        UsageError: SUITE_FAULT cannot be read.
    """
    if environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return []
    faults = []
    for text in filter(None, environ.get(VARIABLE, "").split(",")):
        found = _FAULT.fullmatch(text)
        if found is None or found[1] not in {*_ACTIONS, *_FACTORS}:
            known = ", ".join([*_ACTIONS, *_FACTORS])
            raise UsageError(
                f"{VARIABLE}={text}: expected KIND@rankN:stepN, where KIND is one of {known}"
            )
        if found[2] in ("*", str(rank)):
            faults.append(Fault(found[1], int(found[3]), int(found[4] or found[3])))
    return faults


def failing(
    step_function: Callable[[Any], dict[str, Any]], faults: list[Fault], *, first_step: int
) -> Callable[[Any], dict[str, Any]]:
    """Return a function from a batch to its losses that has the faults; itself if there are none.

    Args:
        first_step: steps done before its first call.
    """
    if not faults:
        return step_function
    step = first_step

    def fail(batch: Any) -> dict[str, Any]:
        nonlocal step
        step += 1
        due = [f for f in faults if f.first_step <= step <= f.last_step]
        for fault in due:
            if fault.kind in _ACTIONS:
                _ACTIONS[fault.kind]()
        losses = step_function(batch)
        for fault in due:
            factor = _FACTORS.get(fault.kind, 1.0)
            losses = {name: loss * factor for name, loss in losses.items()}
        return losses

    return fail
