"""How far long work is, on stderr: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

_PLAIN_LINE_SECONDS: Final = 5.0
_MEGABYTE: Final = 10**6


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
            # The ETA is our own: click's counts what was done before this process as done in it.
            self._bar = click.progressbar(
                length=total,
                label=label,
                file=sys.stderr,
                show_eta=False,
                width=0,
                item_show_func=lambda _: self._status,
            )
            self._bar.__enter__()
            self._bar.update(done)

    def update(self, done: int, status: str = "") -> None:
        """Report that `done` units are finished."""
        now = time.perf_counter()
        advanced, self._done = done - self._done, done
        self._status = f"{status} ETA {self._estimate(now)}".lstrip()
        if self._bar is not None:
            self._bar.update(advanced)
            self._bar.render_progress()  # which an update without advance leaves out
        elif now - self._last_line > _PLAIN_LINE_SECONDS or (advanced and done >= self._total):
            self._last_line = now
            click.echo(f"{self._label} {done}/{self._total} {self._status}", err=True)

    def print(self, message: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            click.echo("\r\033[K", err=True, nl=False)
        click.echo(message, err=True)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def _estimate(self, now: float) -> str:
        advanced = self._done - self._start_done
        if advanced <= 0:
            return "?"
        seconds = int((self._total - self._done) * (now - self._start) / advanced)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class LateProgress:
    """Progress from the moment at which somebody knows of how much.

    Args:
        label: what is being done.
        unit: how many of what `update` is told of are one unit of what is shown.
    """

    def __init__(self, label: str, *, unit: int = 1) -> None:
        self._label, self._unit = label, unit
        self._bar: Progress | None = None
        self._done = self._total = -1

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int) -> None:
        """Report how much is done and how much there is; less than before begins a new bar."""
        num_done, num_all = -(-done // self._unit), -(-total // self._unit)
        if (num_done, num_all) == (self._done, self._total):
            return  # what is called for every few bytes must not cost more than they do
        if self._bar is None or num_done < self._done or num_all != self._total:
            if self._bar is not None:
                self._bar.close()
            self._bar = Progress(num_all, done=num_done, label=self._label)
        self._done, self._total = num_done, num_all
        self._bar.update(num_done)

    def say(self, sentence: str) -> None:
        """Print a sentence, without tearing a bar."""
        if self._bar is None:
            click.echo(sentence, err=True)
        else:
            self._bar.print(sentence)


def transfer_progress(name: str) -> LateProgress:
    """Return the progress of a file's bytes, shown in megabytes."""
    return LateProgress(f"{name} (MB)", unit=_MEGABYTE)
