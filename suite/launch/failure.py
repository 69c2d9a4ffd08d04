"""Why a rank failed: written by the rank, read by whoever started it, told as one sentence.

When one rank fails the others fail after it, for the lack of it. What people have to know is the
first failure, so symptoms are told from causes: a lost peer is a symptom wherever another rank has
anything else to say.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from suite.errors import CheckFailed, Diverged, RankLost, SuiteError, UsageError
from suite.files import write_text
from suite.launch.heartbeat import ERROR_FILE, LEAVING, read_pulse

_SIGNALLED: Final = 128  # less than the exit codes that stand for a signal


@dataclass(frozen=True)
class Failure:
    """How one rank ended.

    Attributes:
        exit_code: negative: the signal that killed it.
        message: what it said itself; None where it could not.
        said_exit_code: of the error it had; None where it could not say.
        when: seconds since the epoch.
        step: optimizer steps it had done; None: it had not begun.
        folder: with its logs.
    """

    rank: int
    pid: int
    exit_code: int
    message: str | None
    said_exit_code: int | None
    when: float
    step: int | None
    folder: Path


@contextmanager
def writing_failure() -> Iterator[None]:
    """Leave a file about an exception from inside, where a launcher has named one."""
    path = os.environ.get(ERROR_FILE)
    try:
        yield
    except SuiteError as error:
        _write(path, str(error), error.exit_code)
        raise
    except Exception as error:
        _write(path, f"{type(error).__name__}: {error}", 1)
        raise


def _write(path: str | None, message: str, exit_code: int) -> None:
    if not path:
        return
    now = time.time()
    # The layout is torch elastic's, which torchrun reads; the second part is ours.
    extra = {"py_callstack": traceback.format_exc(), "timestamp": str(int(now))}
    content = {
        "message": {"message": message, "extraInfo": extra, "errorCode": exit_code},
        "when": now,
        "exit_code": exit_code,
    }
    write_text(Path(path), json.dumps(content))  # torch elastic reads it when another rank ends


def refuse_restart() -> None:
    """Do nothing where ranks were started again because one was lost.

    Raises:
        SuiteError: the one before, where they would end in the same way or were asked to stop.
    """
    path = os.environ.get(ERROR_FILE)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torch elastic's own names
    if not path or attempt == "0":
        return
    before = Path(path).parents[2] / f"attempt_{int(attempt) - 1}"
    for folder in sorted(before.glob("[0-9]*")):
        said = read_error(folder)
        if said is not None and _is_final(said["exit_code"]):
            error = SuiteError(said["message"]["message"])
            error.exit_code = said["exit_code"]
            raise error


def _is_final(exit_code: int) -> bool:
    """Whether starting again does not help; a worker that was killed or a full disk may recover."""
    final = (UsageError.exit_code, CheckFailed.exit_code, Diverged.exit_code)
    return exit_code in final or exit_code > _SIGNALLED


def read_failure(process: Any, *, rank: int, folder: Path) -> Failure:
    """Return how a rank ended.

    Args:
        process: torch elastic's ProcessFailure.
        folder: with its logs.
    """
    said = read_error(folder)
    pulse = read_pulse(folder)
    return Failure(
        rank=rank,
        pid=process.pid,
        exit_code=process.exitcode,
        message=None if said is None else str(said["message"]["message"]),
        said_exit_code=None if said is None else int(said["exit_code"]),
        when=float(process.timestamp if said is None else said["when"]),
        step=None if pulse is None else pulse.step,
        folder=folder,
    )


def read_departure(folder: Path, *, rank: int) -> Failure | None:
    """Return how a rank left that called itself done before it was; None for one that was done."""
    pulse = read_pulse(folder)
    if pulse is None or pulse.beats == LEAVING:
        return None
    return Failure(
        rank=rank,
        pid=pulse.pid,
        exit_code=0,
        message=None,
        said_exit_code=None,
        when=0.0,  # before those that missed it
        step=pulse.step,
        folder=folder,
    )


def read_error(folder: Path) -> dict[str, Any] | None:
    """Return what the rank of a folder said about its failure; None where it said nothing."""
    try:
        said: dict[str, Any] = json.loads((folder / "error.json").read_bytes())
    except (FileNotFoundError, ValueError):  # the latter: killed while it wrote
        return None
    return said if "exit_code" in said else None


def find_cause(failures: list[Failure]) -> Failure:
    """Return the failure that the others follow from: the least symptomatic, then the first."""
    return min(failures, key=lambda failure: (_symptom(failure), failure.when))


def _symptom(failure: Failure) -> int:
    if failure.message is not None and failure.said_exit_code not in (RankLost.exit_code, None):
        return 0  # an error of its own
    if failure.exit_code < 0 and failure.exit_code != -signal.SIGTERM:
        return 1  # killed, and not by torch elastic when it clears up
    if failure.message is None and failure.exit_code >= 0:
        return 2  # left, and did not or could not say why
    return 3 if failure.message is not None else 4


def describe(failure: Failure) -> SuiteError:
    """Return the error to show for the first failure of a run."""
    logs = "" if _was_asked(failure) else f"\nlogs of the ranks: {failure.folder.parent}"
    error = SuiteError(f"{_tell(failure)}{logs}")
    error.exit_code = failure.said_exit_code or RankLost.exit_code
    return error


def _was_asked(failure: Failure) -> bool:
    """Whether the rank did what a signal asked of it, and said so."""
    return failure.said_exit_code is not None and failure.said_exit_code > _SIGNALLED


def _tell(failure: Failure) -> str:
    step = f"after step {failure.step}" if failure.step else "before its first step"
    where = f"rank {failure.rank} on {socket.gethostname()}"
    if failure.message is not None:
        return failure.message if _was_asked(failure) else f"{where}, {step}: {failure.message}"
    if failure.exit_code >= 0:
        return f"{where} ended with exit code {failure.exit_code} {step}, without a reason"
    name = signal.Signals(-failure.exit_code).name
    remedy = "; out of memory? `dmesg` tells" if name == "SIGKILL" else ""
    return f"{where} was killed by {name} {step} (process {failure.pid}){remedy}"


def show_own_log(failure: Failure, *, num_lines: int = 20) -> None:
    """Print the end of a rank's log where the rank could not say why it failed."""
    log = failure.folder / "stderr.log"
    if failure.message is None and log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]
        for line in lines:
            print(f"rank {failure.rank}: {line}", file=sys.stderr)
