"""One emitter for what happens during training: console, metrics.jsonl, and TensorBoard when present.

Losses stay on the device between log lines; their mean is read once per interval, which is the only
moment a training step waits for the device.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import torch
from torch import Tensor

from suite.errors import Diverged

_PLAIN_LINE_SECONDS = 5.0


class Events:
    """Writes the progress of one run.

    Args:
        folder: the run folder; `metrics.jsonl`, `log.txt` and `tensorboard/` go there.
        num_steps: of the whole run.
        first_step: where this process starts; larger than 0 after a resume.
        global_batch: images a step over all ranks.
        log_every: steps between lines of metrics.
    """

    def __init__(
        self, folder: Path, *, num_steps: int, first_step: int, global_batch: int, log_every: int
    ) -> None:
        self.step = first_step
        self._num_steps = num_steps
        self._global_batch = global_batch
        self._log_every = log_every
        self._sums: dict[str, Tensor] = {}
        self._steps_in_window = 0
        self._windows: list[tuple[int, float]] = []
        self._last_loss = math.nan
        self._window_start = self._start = time.perf_counter()
        self._first_step = first_step
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._log = (folder / "log.txt").open("a", encoding="utf-8")
        self._progress = Progress(num_steps, done=first_step, label="train")
        self._board = _open_tensorboard(folder)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.close()
        self._metrics.close()
        self._log.close()
        if self._board is not None:
            self._board.close()

    def stepped(self, losses: Mapping[str, Tensor], *, lr: float) -> None:
        """Count one optimizer step.

        Raises:
            Diverged: the mean loss of the interval is not finite.
        """
        self.step += 1
        self._steps_in_window += 1
        for name, loss in losses.items():
            value = loss.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if self.step % self._log_every == 0 or self.step == self._num_steps:
            self._log_window(lr)

    def wrote(self, event: str, **values: Any) -> None:
        """Record something that is not a step: an evaluation, a checkpoint, a resume."""
        self._write_line({"event": event, "step": self.step, **values})
        details = " ".join(f"{key}={_short(value)}" for key, value in values.items())
        self.say(f"step {self.step}: {event} {details}")

    def say(self, message: str) -> None:
        """Print a line on stderr and keep it in log.txt."""
        self._log.write(message + "\n")
        self._log.flush()
        self._progress.print(message)

    def totals(self) -> dict[str, float]:
        """Return the throughput over all windows but the first, and the last window's loss.

        Empty when the run had no second window to measure.
        """
        windows = self._windows[1:]
        if not windows:
            return {}
        images = sum(steps for steps, _ in windows) * self._global_batch
        seconds = sum(seconds for _, seconds in windows)
        return {
            "images_per_second": images / seconds,
            "train_seconds": seconds,
            "loss": self._last_loss,
        }

    def pause(self) -> None:
        """Forget the time since the last line: what follows is not training."""
        self._window_start = time.perf_counter()

    def _log_window(self, lr: float) -> None:
        means = (torch.stack(list(self._sums.values())) / self._steps_in_window).tolist()
        seconds = time.perf_counter() - self._window_start
        self._windows.append((self._steps_in_window, seconds))
        values: dict[str, Any] = {"step": self.step, "loss": sum(means)}
        values.update(zip(self._sums, means, strict=True))
        values["lr"] = lr
        values["images_per_second"] = self._steps_in_window * self._global_batch / seconds
        values["seconds"] = time.perf_counter() - self._start
        if not math.isfinite(values["loss"]):
            raise Diverged(
                f"the loss is {values['loss']} at step {self.step} (learning rate {lr:.3g}); "
                "lower schedule.base_lr, lengthen schedule.warmup_epochs, or set optimizer.clip_norm"
            )
        self._last_loss = values["loss"]
        self._write_line(values)
        self._write_board(values)
        self._progress.update(
            self.step,
            f"loss {values['loss']:.3f} lr {lr:.2e} {values['images_per_second']:.1f} images/s",
        )
        self._sums.clear()
        self._steps_in_window = 0
        self._window_start = time.perf_counter()

    def _write_line(self, values: Mapping[str, Any]) -> None:
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()

    def _write_board(self, values: Mapping[str, Any]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, self.step)


class Progress:
    """A bar with ETA on a terminal; elsewhere one plain line every few seconds.

    Args:
        total: units of work.
        done: of them before this process.
        label: what is being done.
    """

    def __init__(self, total: int, *, done: int = 0, label: str) -> None:
        self._total, self._done, self._label = total, done, label
        self._start_done, self._start = done, time.perf_counter()
        self._last_line = self._start
        self._status = ""
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=total, label=label, file=sys.stderr, item_show_func=lambda _: self._status
            )
            self._bar.__enter__()
            self._bar.update(done)

    def update(self, done: int, status: str = "") -> None:
        """Report that `done` units are finished."""
        self._status = status
        if self._bar is not None:
            self._bar.update(done - self._done, done)
        self._done = done
        now = time.perf_counter()
        if self._bar is None and (
            done >= self._total or now - self._last_line > _PLAIN_LINE_SECONDS
        ):
            self._last_line = now
            click.echo(
                f"{self._label} {done}/{self._total} {status} ETA {self._eta(now)}", err=True
            )

    def print(self, message: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            click.echo("\r\033[K", err=True, nl=False)
        click.echo(message, err=True)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def _eta(self, now: float) -> str:
        speed = (self._done - self._start_done) / (now - self._start)
        seconds = int((self._total - self._done) / speed) if speed > 0 else 0
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _open_tensorboard(folder: Path) -> Any:
    """Return a TensorBoard writer where the extra is installed, else None."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
