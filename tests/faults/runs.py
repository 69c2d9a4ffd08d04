"""A training run in processes of its own, watched and hurt from outside.

Every process that a run starts, and every one that those start, carries the run's mark in its
environment. By that mark they are found again, whoever their parent is by now, and none outlives
its test.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from suite.checkpoint import list_checkpoints, load_checkpoint
from suite.launch.faults import VARIABLE
from suite.launch.heartbeat import Pulse, read_pulse

# 400 steps: more than any test waits for.
LONG: Final = {"schedule.epochs": 100, "schedule.decay_epochs": 100}
SUITE: Final = (sys.executable, "-m", "suite")
TORCHRUN: Final = (
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--standalone", "--nproc-per-node", "2"),
)
# What a calm machine does in seconds; where others use its cores too, it takes many times as long.
PATIENCE_S: Final = 150.0
_MARK: Final = "SUITE_TEST_MARK"
_POLL_S: Final = 0.02


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        seconds: from `since` to its end.
    """

    code: int
    stderr: str
    seconds: float

    @property
    def told(self) -> list[str]:
        """What people are told at the end, without progress and notes."""
        lines = self.stderr.splitlines()
        first = [number for number, line in enumerate(lines) if line.startswith("suite: ")]
        return lines[first[0] :] if first else []


@dataclass(frozen=True)
class Run:
    """One `suite train`, from its start to its end."""

    output: Path
    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    @property
    def folder(self) -> Path:
        """Where it trains: the newest folder."""
        begun = [path for path in self.output.iterdir() if (path / "metrics.jsonl").is_file()]
        if not begun:
            raise FileNotFoundError(f"no run has begun in {self.output}")
        return max(begun, key=lambda path: int(path.name.rpartition("-")[2]))

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ranks(self) -> dict[int, Pulse]:
        """Return the newest sign of life of each rank that lives, by rank."""
        family = self.family()
        found = {}
        for file in self.output.glob("launches/**/heartbeat"):
            pulse = read_pulse(file.parent)
            if pulse is not None and pulse.pid in family:
                found[int(file.parent.name)] = pulse
        return found

    def wait_for_step(self, step: int, *, num_ranks: int = 2) -> dict[int, Pulse]:
        """Return the ranks' signs of life once all have done a number of steps."""

        def there() -> dict[int, Pulse] | None:
            ranks = self.ranks()
            ready = len(ranks) == num_ranks and all(p.step >= step for p in ranks.values())
            return ranks if ready else None

        return self.wait_for(there, f"{num_ranks} ranks to be at step {step}")

    def wait_for_checkpoint(self) -> Path:
        """Return its run folder once a checkpoint is there."""
        pattern = "*/checkpoints/step-*.pth"
        checkpoints = self.wait_for(lambda: list(self.output.glob(pattern)), "a checkpoint")
        return Path(checkpoints[0].parent.parent)

    def wait_for(self, look: Callable[[], Any], what: str, *, poll_s: float = _POLL_S) -> Any:
        """Return what `look` gives as soon as that is something; the run has to go on meanwhile."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            assert self.process.poll() is None, f"waited for {what}, but it ended:\n{self.stderr}"
            time.sleep(poll_s)
        raise AssertionError(f"waited {PATIENCE_S:g} s for {what}:\n{self.stderr}")

    def wait_until_dead(self, pid: int) -> float:
        """Return when a process of the run has died, of the monotonic clock."""
        deadline = time.monotonic() + PATIENCE_S
        while pid in self.family():
            assert time.monotonic() < deadline, f"process {pid} does not die:\n{self.stderr}"
            time.sleep(_POLL_S)
        return time.monotonic()

    def end(self, *, since: float | None = None) -> Ended:
        """Wait for its end.

        Args:
            since: of the monotonic clock; None: now.
        """
        start = time.monotonic() if since is None else since
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end:\n{self.stderr}") from None
        return Ended(code, self.stderr, time.monotonic() - start)

    def family(self) -> dict[int, str]:
        """Return the processes of the run that live, with their command lines."""
        return _find_marked(self.mark)

    def wait_until_gone(self, *, within_s: float) -> None:
        """Return when no process of the run is left."""
        deadline = time.monotonic() + within_s
        while family := self.family():
            assert time.monotonic() < deadline, f"left after {within_s:g} s: {family}"
            time.sleep(_POLL_S)

    def close(self) -> None:
        """End what is left, and show what it said where a test fails."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        print(f"--- {' '.join(map(str, self.process.args))}\n{self.stderr}")  # type: ignore[arg-type]


def train_words(
    recipe: Path, arguments: Sequence[object], changes: Mapping[str, object]
) -> list[str]:
    """Return the words of a `suite train` without an evaluation.

    Args:
        changes: dotted key of the recipe -> value.
    """
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    return ["train", str(recipe), *sets, *map(str, arguments), "--no-eval"]


def start_run(
    words: Sequence[str], *, output: Path, fault: str = "", command: Sequence[str] = SUITE
) -> Run:
    """Start a run in a session of its own.

    Args:
        words: as `train_words` gives them.
        fault: as SUITE_FAULT.
        command: which is `suite`, in the end.
    """
    output.mkdir(parents=True, exist_ok=True)
    mark, log = secrets.token_hex(8), output / f"stderr-{secrets.token_hex(2)}.txt"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *words, "--output", str(output)],
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", VARIABLE: fault, _MARK: mark},
        )
    return Run(output, process, mark, log)


def loader_processes(run: Run) -> dict[int, int]:
    """Return the processes of a run that load images, children of its ranks -> whose."""
    rank_of = {pulse.pid: rank for rank, pulse in run.ranks().items()}
    parents = {pid: _parent_of(pid) for pid in run.family()}
    return {pid: rank_of[parent] for pid, parent in parents.items() if parent in rank_of}


def newest_step(folder: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 where there is none."""
    names = [path.stem for path in list_checkpoints(folder / "checkpoints")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def end_of(folder: Path) -> dict[str, Any]:
    """Return the step of a run's newest checkpoint, digests of its parts, and all losses."""
    state = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
    parts = {key: _digest(state[key]) for key in ("weights", "ema", "optimizer", "scaler")}
    return {"step": state["step"], **parts, "losses": losses_by_step(folder)}


def losses_by_step(folder: Path) -> dict[int, float]:
    """Return the losses of a run; of a step that was done twice the later one."""
    return {line["step"]: line["loss"] for line in read_lines(folder) if "loss" in line}


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return what a run has written down, line by line."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _digest(part: Any) -> str:
    file = io.BytesIO()
    torch.save(part, file)
    return hashlib.sha256(file.getvalue()).hexdigest()[:12]


def _find_marked(mark: str) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if f"{_MARK}={mark}".encode() in environ and state not in "ZX":
            found[int(folder.name)] = command
    return found


def _parent_of(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return 0
    return int(text.rpartition(")")[2].split()[1])
