"""Batches for training and evaluation.

Training is one endless stream of positions: position p is sample p mod size of the permutation of epoch
p div size. Permutation and augmentation depend on (seed, epoch, index) alone, so a run gives the same
batches on any number of workers or ranks, and resumes at any step without replaying.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from models.structures import Images, Target
from suite.data.images import read_image
from suite.data.sample import Dataset, Sample
from suite.data.transforms import (
    CropRule,
    choose_crop,
    crop_boxes,
    flip_boxes,
    jitter_affine,
    normalisation_affine,
    resize_image,
    scale_boxes,
)
from suite.errors import InputError


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
        affine = jitter_affine(rng, pixels.float().mean(dim=(1, 2)).double().numpy() / 255)
    return Example(pixels, affine, boxes_xyxy, sample.labels[stays], original_hw, sample.image_id)


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples of one size; boxes are padded to the largest count."""
    most = max(len(example.labels) for example in examples)
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
    """Return the samples with at least one box to learn; without `use_crowd` crowd boxes are no target."""
    if not use_crowd:
        return tuple(_without_crowd(sample) for sample in dataset.samples if not sample.crowd.all())
    return tuple(sample for sample in dataset.samples if len(sample.labels))


def _without_crowd(sample: Sample) -> Sample:
    single = ~sample.crowd
    return Sample(
        sample.image_id,
        sample.path,
        sample.image_hw,
        sample.boxes_xyxy[single],
        sample.labels[single],
        sample.crowd[single],
    )


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """The endless, seeded stream of training samples, as a torch map-style dataset over positions."""

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
    return np.random.default_rng([seed, epoch]).permutation(size)


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
    """Yield one batch a step.

    Raises:
        InputError: an image cannot be read; raised here and not in a worker, as one sentence.
    """
    loader: DataLoader[Batch | InputError] = DataLoader(
        stream,  # type: ignore[arg-type]  # a map-style dataset by protocol, without inheritance
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=_collate_or_error,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_main,
    )
    yield from _raise_errors(loader)


def iterate_evaluation(
    evaluation_set: EvaluationSet, *, batch_size: int, workers: int, pin: bool = False
) -> Generator[Batch]:
    """Yield every image once, in order; the last batch may be smaller.

    Raises:
        InputError: an image cannot be read.
    """
    loader: DataLoader[Batch | InputError] = DataLoader(
        evaluation_set,  # type: ignore[arg-type]  # a map-style dataset by protocol
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate_or_error,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_main,
    )
    yield from _raise_errors(loader)


def _leave_signals_to_main(_worker: int) -> None:
    """Ignore stop signals sent to the whole process group: the step in flight still needs its data.

    The workers end when the main process closes the iterator.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _collate_or_error(examples: Sequence[Example | InputError]) -> Batch | InputError:
    good: list[Example] = []
    for example in examples:
        if isinstance(example, InputError):
            return example
        good.append(example)
    return collate(good)


def _raise_errors(loader: DataLoader[Batch | InputError]) -> Generator[Batch]:
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
