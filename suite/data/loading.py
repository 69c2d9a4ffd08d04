"""Batches for training and evaluation.

Training is one endless stream of positions: position p is sample p mod size of the permutation of
epoch p div size. Permutation and augmentation depend on (seed, epoch, index) alone, so a run gives
the same batches on any number of workers or ranks, and resumes at any step without replaying.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from models.structures import Images, Target
from suite.data.images import read_image
from suite.data.sample import Dataset, Sample
from suite.data.transforms import (
    CropRule,
    average_colour,
    choose_crop,
    crop_boxes,
    flip_boxes,
    jitter_affine,
    normalisation_affine,
    resize_image,
    scale_boxes,
)
from suite.errors import InputError, SuiteError

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


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training samples vary; see `suite.data.transforms`. `flip` is a probability."""

    crop: CropRule
    crop_factor: float
    flip: float
    jitter: bool


@dataclass(frozen=True)
class Example:
    """One prepared sample: pixels uint8 [3,H,W], affine [3,4], boxes [M,4], labels [M]."""

    pixels: Tensor
    affine: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    original_hw: tuple[int, int]
    image_id: int


def prepare_for_evaluation(sample: Sample, image_hw: tuple[int, int]) -> Example:
    """Decode and resize."""
    image = read_image(sample.path, expected_hw=sample.image_hw)
    boxes_xyxy = scale_boxes(sample.boxes_xyxy, from_hw=image.shape[:2], to_hw=image_hw)
    return Example(
        resize_image(image, image_hw),
        normalisation_affine(),
        boxes_xyxy,
        sample.labels,
        original_hw=image.shape[:2],
        image_id=sample.image_id,
    )


def prepare_for_training(
    sample: Sample, image_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> Example:
    """Decode, crop, resize, flip and draw the colour jitter."""
    image = read_image(sample.path, expected_hw=sample.image_hw)
    original_hw = image.shape[:2]
    window = choose_crop(
        rng,
        sample.boxes_xyxy,
        image_hw=original_hw,
        rule=augmentation.crop,
        factor=augmentation.crop_factor,
    )
    boxes_xyxy, stays = crop_boxes(sample.boxes_xyxy, window)
    image = image[window[1] : window[3], window[0] : window[2]]
    boxes_xyxy = scale_boxes(boxes_xyxy, from_hw=image.shape[:2], to_hw=image_hw)
    pixels = resize_image(image, image_hw)
    if rng.random() < augmentation.flip:
        pixels, boxes_xyxy = pixels.flip(2), flip_boxes(boxes_xyxy, width=image_hw[1])
    affine = normalisation_affine()
    if augmentation.jitter:
        affine = jitter_affine(rng, average_colour(pixels))
    return Example(pixels, affine, boxes_xyxy, sample.labels[stays], original_hw, sample.image_id)


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples of one size; boxes are padded to the largest count, at least to one row."""
    most = max(1, *(len(example.labels) for example in examples))
    boxes_xyxy = torch.zeros(len(examples), most, 4)
    labels = torch.full((len(examples), most), -1)
    for row, example in enumerate(examples):
        boxes_xyxy[row, : len(example.labels)] = torch.from_numpy(example.boxes_xyxy)
        labels[row, : len(example.labels)] = torch.from_numpy(example.labels)
    images = Images(
        torch.stack([example.pixels for example in examples]),
        torch.from_numpy(np.stack([example.affine for example in examples])),
        torch.tensor([example.original_hw for example in examples]),
    )
    return Batch(
        images, Target(boxes_xyxy, labels), tuple(example.image_id for example in examples)
    )


def trainable_samples(dataset: Dataset, *, use_crowd: bool) -> tuple[Sample, ...]:
    """Return the samples with a box to learn; without `use_crowd` crowd boxes are none."""
    samples = dataset.samples if use_crowd else map(_without_crowd, dataset.samples)
    return tuple(sample for sample in samples if len(sample.labels))


def _without_crowd(sample: Sample) -> Sample:
    single = ~sample.crowd
    return replace(
        sample,
        boxes_xyxy=sample.boxes_xyxy[single],
        labels=sample.labels[single],
        crowd=sample.crowd[single],
    )


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """The endless, seeded stream of training samples, a torch map-style dataset over positions."""

    samples: tuple[Sample, ...]
    image_hw: tuple[int, int]
    augmentation: Augmentation
    seed: int

    def __getitem__(self, position: int) -> Example | InputError:
        epoch, place = divmod(position, len(self.samples))
        index = int(_permutation(self.seed, epoch, len(self.samples))[place])
        rng = np.random.default_rng([self.seed, epoch, index])
        try:
            return prepare_for_training(self.samples[index], self.image_hw, self.augmentation, rng)
        except InputError as error:
            return error


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    # Two numbers would give sample 0's generator: those that are missing count as 0.
    return np.random.default_rng([seed, epoch, 0, 1]).permutation(size)


@dataclass(frozen=True)
class EvaluationSet:
    """Every sample once, in order, as a torch map-style dataset."""

    samples: tuple[Sample, ...]
    image_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example | InputError:
        try:
            return prepare_for_evaluation(self.samples[index], self.image_hw)
        except InputError as error:
            return error


@dataclass(frozen=True, kw_only=True)
class StepPositions:
    """The positions of each step's batch; a rank takes every `num_ranks`-th of the global batch."""

    first_step: int
    num_steps: int
    global_batch: int
    rank: int = 0
    num_ranks: int = 1

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.num_steps):
            start = step * self.global_batch
            yield list(range(start + self.rank, start + self.global_batch, self.num_ranks))


def iterate_training(
    stream: TrainingStream, positions: StepPositions, *, workers: int, pin: bool = False
) -> Generator[Batch]:
    """Yield one batch a step. Close the generator where the last batch is not reached.

    Raises:
        InputError: an image cannot be read; raised here and not in a worker, as one sentence.
        SuiteError: a worker was lost.
    """
    yield from _iterate(stream, workers=workers, batch_sampler=positions, pin_memory=pin)


def iterate_evaluation(
    evaluation_set: EvaluationSet, *, batch_size: int, workers: int
) -> Generator[Batch]:
    """Yield every image once, in order; the last batch may be smaller.

    The seed drops that last batch, and with it the last 8 of COCO's 5,000 images; not copied.

    Raises:
        InputError, SuiteError: as `iterate_training`.
    """
    yield from _iterate(evaluation_set, workers=workers, batch_size=batch_size)


def _iterate(
    source: TrainingStream | EvaluationSet, *, workers: int, **batching: Any
) -> Generator[Batch]:
    batches, processes = _start_loader(source, num_workers=workers, **batching)
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
