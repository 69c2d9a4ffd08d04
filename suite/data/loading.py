"""Batches for training and evaluation: prepared in worker processes, padded, put together.

What a batch holds is decided in `batching`, how an image is prepared in `preparing`.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from models.structures import Images, Target
from suite.data.batching import RankSteps, Turn, evaluation_batches
from suite.data.preparing import (
    Augmentation,
    Example,
    prepare_for_evaluation,
    prepare_for_training,
)
from suite.data.sample import Sample
from suite.errors import InputError, SuiteError
from suite.sizing import Sizing

# Targets then have few shapes, for devices that compile each; none is cut off.
_BOX_ROWS = 32
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Batch:
    """Network inputs with their ground truth; `image_ids` are the dataset's own."""

    images: Images
    target: Target
    image_ids: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`."""
        return Batch(self.images.to(device), self.target.to(device), self.image_ids)

    def pin_memory(self) -> Batch:
        """Copy into page-locked memory."""
        return Batch(self.images.pin_memory(), self.target.pin_memory(), self.image_ids)

    def share_memory(self) -> None:
        """Move into shared memory. A worker does so itself: where sending fails, nobody is told."""
        for part in (self.images, self.target):
            for tensor in vars(part).values():
                tensor.share_memory_()


def collate(examples: Sequence[Example]) -> Batch:
    """Pad pictures to the largest canvas, and boxes to a multiple of `_BOX_ROWS` rows."""
    most = max(1, *(len(example.labels) for example in examples))
    most += -most % _BOX_ROWS
    boxes_xyxy = torch.zeros(len(examples), most, 4)
    labels = torch.full((len(examples), most), -1)
    for row, example in enumerate(examples):
        boxes_xyxy[row, : len(example.labels)] = torch.from_numpy(example.boxes_xyxy)
        labels[row, : len(example.labels)] = torch.from_numpy(example.labels)
    images = Images(
        _pad_pictures(examples),
        torch.from_numpy(np.stack([example.affine for example in examples])),
        torch.tensor([example.original_hw for example in examples]),
        torch.tensor([example.pixels.shape[1:] for example in examples]),
    )
    return Batch(
        images, Target(boxes_xyxy, labels), tuple(example.image_id for example in examples)
    )


def _pad_pictures(examples: Sequence[Example]) -> Tensor:
    height = max(example.canvas_hw[0] for example in examples)
    width = max(example.canvas_hw[1] for example in examples)
    pixels = torch.empty(len(examples), 3, height, width, dtype=torch.uint8)
    for canvas, example in zip(pixels, examples, strict=True):
        rows, columns = example.pixels.shape[1:]
        canvas[:, :rows, :columns] = example.pixels
        canvas[:, :rows, columns:] = 0
        canvas[:, rows:] = 0
    return pixels


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """The endless, seeded stream of training samples, a torch map-style dataset over turns."""

    samples: tuple[Sample, ...]
    sizing: Sizing
    augmentation: Augmentation
    seed: int

    def __getitem__(self, turn: Turn) -> Example | InputError:
        rng = np.random.default_rng([self.seed, *turn])
        try:
            return prepare_for_training(
                self.samples[turn.sample_index],
                self.sizing,
                augmentation=self.augmentation,
                rng=rng,
            )
        except InputError as error:
            return error


@dataclass(frozen=True)
class EvaluationSet:
    """Every sample as it is judged, a torch map-style dataset."""

    samples: tuple[Sample, ...]
    sizing: Sizing

    def __getitem__(self, index: int) -> Example | InputError:
        try:
            return prepare_for_evaluation(self.samples[index], self.sizing)
        except InputError as error:
            return error


def iterate_training(
    stream: TrainingStream, steps: RankSteps, *, workers: int, pin: bool = False
) -> Generator[Batch]:
    """Yield one batch a step. Close the generator where the last batch is not reached.

    Raises:
        InputError: an image cannot be read; raised here and not in a worker, as one sentence.
        SuiteError: a worker was lost.
    """
    yield from _iterate(stream, steps, num_workers=workers, pin_memory=pin)


def iterate_evaluation(
    evaluation_set: EvaluationSet, *, batch_size: int, workers: int
) -> Generator[Batch]:
    """Yield every image once, in batches of one canvas; see `evaluation_batches`.

    Raises:
        InputError, SuiteError: as `iterate_training`.
    """
    batches = evaluation_batches(
        evaluation_set.samples, evaluation_set.sizing, batch_size=batch_size
    )
    yield from _iterate(evaluation_set, batches, num_workers=workers)


def _iterate(
    source: TrainingStream | EvaluationSet, turns: Iterable[list[Any]], **settings: Any
) -> Generator[Batch]:
    batches, processes = _start_loader(source, batch_sampler=turns, **settings)
    try:
        for batch in batches:
            if isinstance(batch, SuiteError):
                raise batch
            yield batch
    except (OSError, EOFError) as error:  # a connection to a worker broke; images raise InputError
        raise _worker_lost(error) from error
    except RuntimeError as error:
        if re.match("DataLoader worker|received 0 items of ancdata", str(error)):
            raise _worker_lost(error) from error
        raise
    finally:
        del batches  # asks the workers to leave, and waits
        for process in processes:  # one that cannot hear that would keep us from ever leaving
            process.kill()


def _start_loader(
    source: TrainingStream | EvaluationSet, **settings: Any
) -> tuple[Iterator[Batch | SuiteError], set[BaseProcess]]:
    others = set(multiprocessing.active_children())
    with _signals_held(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than cores are the recipe's choice
        loader: DataLoader[Batch | SuiteError] = DataLoader(
            source,  # type: ignore[arg-type]  # a map-style dataset by protocol, not inheritance
            collate_fn=_collate_or_error,
            worker_init_fn=_leave_signals_to_main,
            **settings,
        )
        batches = iter(loader)
    return batches, set(multiprocessing.active_children()) - others


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keep signals from what starts inside, and SIGCHLD as it was.

    torch handles SIGCHLD by raising wherever the main process happens to be when a worker dies.
    Without that the loader notices at its next batch, within seconds, and `_iterate` can say what
    happened.
    """
    if not hasattr(signal, "SIGCHLD"):  # Windows
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _leave_signals_to_main(_worker: int) -> None:
    """Ignore stop signals sent to the whole process group: the step in flight needs its data."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _collate_or_error(examples: Sequence[Example | InputError]) -> Batch | SuiteError:
    good: list[Example] = []
    for example in examples:
        if isinstance(example, InputError):
            return example
        good.append(example)
    batch = collate(good)
    if get_worker_info() is not None:
        try:
            batch.share_memory()
        except RuntimeError as error:
            return _worker_lost(error)
    return batch


def _worker_lost(error: Exception) -> SuiteError:
    reason = str(error) or type(error).__name__
    return SuiteError(
        f"a loader process failed ({reason}); most often memory or /dev/shm is full: "
        "free some, or load in the main process with --set data.workers=0"
    )
