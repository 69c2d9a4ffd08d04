"""One emitter for what happens in training: console, metrics.jsonl, and TensorBoard when present.

Losses stay on the device between log lines; their mean is read once per interval, which is the only
moment a training step waits for the device.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

from suite.errors import SuiteError
from suite.launch.ranks import Ranks
from suite.modelzoo_log import step_lines
from suite.progress import Progress

LogFormat = Literal["plain", "modelzoo"]

DIVERGENCE_REMEDY = (
    "lower schedule.base_lr, lengthen schedule.warmup_epochs, or set optimizer.clip_norm"
)


class Events:
    """Writes the progress of one run.

    Args:
        folder: the run folder; `metrics.jsonl`, `log.txt` and `tensorboard/` go there.
        num_steps: of the whole run.
        first_step: where this process starts; larger than 0 after a resume.
        global_batch: images a step over all ranks.
        log_every: steps between lines of metrics.
        ranks: which train together; losses are their mean, and only the main one writes files.
        log_format: "modelzoo" also says each line of metrics as the Ascend ModelZoo's SSD does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_steps: int,
        first_step: int,
        global_batch: int,
        log_every: int,
        ranks: Ranks | None = None,
        log_format: LogFormat = "plain",
    ) -> None:
        self._ranks = ranks or Ranks()
        self.step = first_step
        self._num_steps = num_steps
        self._global_batch = global_batch
        self._log_every = log_every
        self._log_format = log_format
        self._window = _Window()
        self._clock = _Clock()
        self._warm = False
        self._measured = {"steps": 0, "seconds": 0.0}
        self._last_loss: float | None = None
        self._status = ""
        self._metrics = self._open(folder / "metrics.jsonl")
        self._log = self._open(folder / "log.txt")
        self._progress = Progress(num_steps, done=first_step, label="train")
        self._board = _open_tensorboard(folder, first_step) if self._ranks.is_main else None

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SuiteError):
            with suppress(SuiteError):  # it may be about this very file
                _append(self._log, str(error))
        self._progress.close()
        self._metrics.close()
        self._log.close()
        if self._board is not None:
            with suppress(OSError):  # that its disk is full was told by our own files
                self._board.close()

    def stepped(
        self, losses: Mapping[str, Tensor], *, lr: float, skipped: Tensor
    ) -> Interval | None:
        """Count one optimizer step.

        Args:
            skipped: 1 where the step changed no weight, else 0; its losses do not count.

        Returns:
            the interval that ends with this step, None within one.
        """
        self.step += 1
        self._window.add(losses, skipped)
        interval = None
        if self.step % self._log_every == 0 or self.step == self._num_steps:
            interval = self._log_window(lr)
        self._progress.update(self.step, self._status)
        return interval

    def evaluating(self, done: int, total: int) -> None:
        """Show how far an evaluation is."""
        self._progress.update(self.step, f"evaluating {done}/{total}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock: what happens inside is not training."""
        self._window.wait()
        with self._clock.stopped():
            yield

    def wrote(self, event: str, **values: Any) -> None:
        """Record something that is not a step: an evaluation, a resume."""
        self._write_line({"event": event, "step": self.step, **values})
        self._write_board(event, values)
        details = " ".join(f"{key}={_short(value)}" for key, value in values.items())
        self.say(f"step {self.step}: {event} {details}".rstrip())

    def say(self, message: str) -> None:
        """Print a line on stderr and keep it in log.txt."""
        _append(self._log, message)
        self._progress.print(message)

    def totals(self) -> dict[str, float]:
        """Return the loss of the last interval and the throughput of the run.

        Throughput counts all intervals but the first after each start, in which loader and device
        warm up; it is absent where there is no other.
        """
        # By the run's own batch. The seed's log line multiplies with a fixed 32 a device, which is
        # wrong for every other --train_batch_size.
        totals = {} if self._last_loss is None else {"loss": self._last_loss}
        if self._measured["steps"]:
            seconds = self._measured["seconds"]
            totals["images_per_second"] = self._measured["steps"] * self._global_batch / seconds
            totals["train_seconds"] = seconds
        return totals

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to write the lines this one would have written.

        All ranks call it: their losses so far become their mean, here as in what is saved.
        """
        for value in self._window.sums.values():
            self._ranks.average(value)
        return {
            "losses": dict(self._window.sums),
            "steps": self._window.num_steps,
            "skipped": self._window.num_skipped,
            "measured": dict(self._measured),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._window = _Window(dict(state["losses"]), state["steps"], state.get("skipped"))
        self._measured = {key: state["measured"][key] for key in self._measured}

    def _open(self, path: Path) -> FileIO:
        if not self._ranks.is_main:
            path = Path(os.devnull)
        elif path.exists():
            _cut_half_line(path)
        return path.open("ab", buffering=0)

    def _log_window(self, lr: float) -> Interval:
        means, num_skipped = self._window.read(self._ranks)
        num_timed = self._window.num_timed
        seconds = self._clock.restart()
        self._window = _Window()
        loss = sum(means.values()) if means else None
        speed = num_timed * self._global_batch / seconds
        if self._warm:
            self._measured["steps"] += num_timed
            self._measured["seconds"] += seconds
        self._warm = True
        values: dict[str, Any] = {"lr": lr, "images_per_second": speed}
        if loss is not None:
            values = {"loss": loss, **means, **values}
            self._last_loss = loss
        if num_skipped:
            values["skipped_steps"] = num_skipped
            self.say(f"step {self.step}: skipped {num_skipped} since the last line, not finite")
        self._write_line({"step": self.step, **values, "seconds": self._clock.since_start()})
        self._write_board("train", values)
        if self._log_format == "modelzoo":
            for line in step_lines(self.step, speed, lr=lr, loss=loss):
                self.say(line)
        shown = "skipped" if loss is None else f"loss {loss:.3f}"
        self._status = f"{shown} lr {lr:.2e} {speed:.1f} images/s"
        return Interval(loss, lr, is_last=self.step == self._num_steps)

    def _write_line(self, values: Mapping[str, Any]) -> None:
        finite = {key: value for key, value in values.items() if _is_written(value)}
        _append(self._metrics, json.dumps(finite, allow_nan=False))

    def _write_board(self, group: str, values: Mapping[str, Any]) -> None:
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    with suppress(OSError):  # as at its end
                        self._board.add_scalar(f"{group}/{name}", value, self.step)


@dataclass(frozen=True)
class Interval:
    """What the steps between two log lines gave.

    Attributes:
        loss: mean over steps and ranks; None where all steps were skipped.
        lr: learning rate of the last step.
        is_last: whether the run ends with it.
    """

    loss: float | None
    lr: float
    is_last: bool


class _Window:
    """The losses since the last line, summed on the device."""

    def __init__(
        self,
        sums: dict[str, Tensor] | None = None,
        num_steps: int = 0,
        num_skipped: Tensor | None = None,
    ) -> None:
        self.sums = {} if sums is None else sums
        self.num_steps = num_steps
        self.num_skipped = num_skipped
        self._num_before = num_steps

    @property
    def num_timed(self) -> int:
        """Steps that this process made."""
        return self.num_steps - self._num_before

    def add(self, losses: Mapping[str, Tensor], skipped: Tensor) -> None:
        for name, loss in losses.items():
            value = torch.where(skipped.bool(), 0.0, loss.detach())
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.num_skipped = skipped if self.num_skipped is None else self.num_skipped + skipped
        self.num_steps += 1

    def wait(self) -> None:
        """Return when the device has done its steps."""
        for value in self.sums.values():
            value.item()

    def read(self, ranks: Ranks) -> tuple[dict[str, float], int]:
        """Return the mean losses of all ranks, none if all steps were skipped, and how many were.

        All ranks skip the same steps.
        """
        assert self.num_skipped is not None
        sums = torch.stack([*self.sums.values(), self.num_skipped])
        *totals, skipped = ranks.average(sums).tolist()
        num_good = self.num_steps - round(skipped)
        means = (
            {name: total / num_good for name, total in zip(self.sums, totals, strict=True)}
            if num_good
            else {}
        )
        return means, round(skipped)


class _Clock:
    """Seconds of training since the last line."""

    def __init__(self) -> None:
        self._start = self._running_since = time.perf_counter()
        self._before = 0.0

    def since_start(self) -> float:
        return time.perf_counter() - self._start

    def restart(self) -> float:
        """Return the seconds so far and count from 0 again."""
        now = time.perf_counter()
        seconds = self._before + now - self._running_since
        self._before, self._running_since = 0.0, now
        return seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._before += time.perf_counter() - self._running_since
        try:
            yield
        finally:
            self._running_since = time.perf_counter()


def _append(file: FileIO, line: str) -> None:
    """Write a line at once, or nothing that a later line could not follow.

    Raises:
        SuiteError: there is no room for it.
    """
    content = f"{line}\n".encode()
    try:
        num_written = file.write(content)
        reason = "no space left, or a limit"
    except OSError as error:
        num_written, reason = 0, str(error.strerror)
    if num_written != len(content):
        raise SuiteError(
            f"{file.name}: cannot be written ({reason}); make room; a run goes on with --resume"
        )


def _cut_half_line(path: Path) -> None:
    """Take away what a run that was interrupted in the midst of a line left at the end."""
    with path.open("r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _is_written(value: Any) -> bool:
    """Whether JSON can hold a value; a loss that is not finite has no line, and ends the run."""
    return not isinstance(value, float) or math.isfinite(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _open_tensorboard(folder: Path, first_step: int) -> Any:
    """Return a TensorBoard writer where the extra is installed, else None."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    # What an interrupted run wrote after its last checkpoint is hidden.
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
