"""Loader processes that cannot make a run wait for ever, nor end it without saying why.

torch's DataLoader does the work. Around it: signals are left to the main process, a process that
dies becomes one sentence, and one that hangs (a disk that does not answer, a decoder in a loop)
ends the run with the name of the file it hangs at.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from suite.errors import SuiteError
from suite.parent import STOP_SIGNALS, die_with_parent

_POLL_S: Final = 2.0  # how often a loader that gives nothing is looked at, at the least
_POLLS: Final = 4  # in the time it may be silent, at the least
_IDLE: Final = -1


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many processes load, and how long they may be silent.

    Attributes:
        num: 0 loads in the main process, where nothing watches.
        timeout_s: without any process beginning or ending a sample.
    """

    num: int
    timeout_s: float = 120.0


class Source(Protocol):
    """What loader processes load from."""

    def load(self, turn: Any, starting: Callable[[int], None]) -> Any:
        """Load one sample; `starting` is told the index of each image before it is opened."""

    def name_of(self, index: int) -> str:
        """Return the name of an image, for people."""


def load_batches(
    source: Source,
    turns: Iterable[list[Any]],
    *,
    collate: Callable[[list[Any]], Any],
    workers: Workers,
    pin: bool = False,
) -> Generator[Any]:
    """Yield the collated samples of each list of turns, in order. Close it where not all are taken.

    Args:
        collate: runs in the loader's process; where it returns a SuiteError, that is raised here.
        pin: put what has `pin_memory` into page-locked memory.

    Raises:
        SuiteError: a loader process failed or hangs; what `collate` returned.
    """
    board = torch.full((max(workers.num, 1), 2), _IDLE)
    board[:, 0] = 0
    try:
        board.share_memory_()  # type: ignore[no-untyped-call]  # torch's
        loader, processes = _start_loader(
            _Watched(source, board),
            batch_sampler=turns,
            collate_fn=collate,
            num_workers=workers.num,
            pin_memory=pin,
            timeout=_poll_s(workers.timeout_s) if workers.num else 0,
        )
    except (OSError, RuntimeError) as error:
        raise worker_lost(error) from error
    try:
        while True:
            try:
                batch = _next_batch(loader, board, source=source, timeout_s=workers.timeout_s)
            except StopIteration:
                return
            if isinstance(batch, SuiteError):
                raise batch
            yield batch
    except Stalled:
        for process in processes:  # it cannot hear that it should leave
            process.kill()
        raise
    except (OSError, EOFError) as error:
        # Raised by the source: a mistake in our code, and no connection to a worker that broke.
        if not workers.num or str(error).startswith("Caught "):
            raise
        raise worker_lost(error) from error
    except RuntimeError as error:
        if re.match("DataLoader worker|received 0 items of ancdata", str(error)):
            raise worker_lost(error) from error
        raise
    finally:
        del loader  # asks the workers to leave, and waits
        for process in processes:  # one that cannot hear that would keep us from ever leaving
            process.kill()


def worker_lost(error: Exception) -> SuiteError:
    """Return the error of a loader process that failed, with what most often is behind it."""
    reason = str(error) or type(error).__name__
    return SuiteError(
        f"a loader process failed ({reason}); most often memory or /dev/shm is full: "
        "free some, or load in the main process with --set data.workers=0"
    )


class Stalled(SuiteError):
    """Loader processes neither begin nor end a sample any more."""


class _Watched:
    """A torch map-style dataset over turns that writes down what each process is at.

    The board is int64 [workers,2] in shared memory: how many images the process has begun, and the
    index of the one it is at.
    """

    def __init__(self, source: Source, board: Tensor) -> None:
        self._source = source
        self._board = board

    def __getitem__(self, turn: Any) -> Any:
        worker = get_worker_info()
        row = self._board[0 if worker is None else worker.id].numpy()

        def starting(index: int) -> None:
            row[0] += 1
            row[1] = index

        try:
            return self._source.load(turn, starting)
        finally:
            row[1] = _IDLE


def _poll_s(timeout_s: float) -> float:
    """Return how long a poll takes; a pause of the whole run ends the one it falls into."""
    return min(_POLL_S, timeout_s / _POLLS)


def _next_batch(loader: Iterator[Any], board: Tensor, *, source: Source, timeout_s: float) -> Any:
    """Wait for a batch as long as anything moves.

    Silence is counted in polls, not by the clock: a run that was suspended has not been silent.
    """
    poll_s = _poll_s(timeout_s)
    seen, silent_s = board.clone(), 0.0
    while True:
        try:
            return next(loader)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
        moved = not torch.equal(board, seen)
        seen, silent_s = board.clone(), 0.0 if moved else silent_s + poll_s
        if silent_s >= timeout_s:
            raise _stalled(board, source, timeout_s)


def _stalled(board: Tensor, source: Source, timeout_s: float) -> Stalled:
    files = [source.name_of(index) for index in board[:, 1].tolist() if index != _IDLE]
    at = f"at {' and '.join(files)}" if files else "between two images"
    return Stalled(
        f"the loader processes have not moved for {timeout_s:g} s, they hang {at}; look at that "
        "file and its disk, or allow more with --set data.timeout_s=600"
    )


def _start_loader(dataset: Any, **settings: Any) -> tuple[Iterator[Any], set[BaseProcess]]:
    others = set(multiprocessing.active_children())
    with _signals_held(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than cores are the recipe's choice
        loader: DataLoader[Any] = DataLoader(dataset, worker_init_fn=_follow_main, **settings)
        batches = iter(loader)
    return batches, set(multiprocessing.active_children()) - others


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keep signals from what starts inside, and SIGCHLD as it was.

    torch handles SIGCHLD by raising wherever the main process happens to be when a worker dies.
    Without that the loader notices at its next batch, within seconds, and `load_batches` can say
    what happened.
    """
    if not hasattr(signal, "SIGCHLD"):  # Windows
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _follow_main(_worker: int) -> None:
    """Ignore stop signals sent to the whole process group: the step in flight needs its data.

    When the main process is killed, end at once, where torch would look for it now and then.
    """
    die_with_parent()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
