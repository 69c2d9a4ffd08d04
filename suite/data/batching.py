"""Which samples make up which batch, in which order; no image is opened here.

In training, lying and standing images never share a batch, for its canvas would be larger than
either needs. Each kind is an endless stream: place q is sample q mod size of the permutation of
epoch q div size. Steps go to both kinds in proportion to their images. All of this depends on the
seed alone, so a run has the same batches on any number of workers or ranks, and resumes at any step
without replaying. Images that are stretched are all of one kind.

In evaluation, a batch holds images of one canvas: what is found on an image does not depend on the
size of its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suite.data.sample import Dataset, Sample
from suite.sizing import Sizing, is_lying


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


class Turn(NamedTuple):
    """When and which: the epoch of the sample's kind, and its index among all samples."""

    epoch: int
    sample_index: int


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """Which samples each step takes, over all ranks.

    Attributes:
        lying, standing: int64, the samples of each kind; one of them may be empty.
        seed: of the permutations.
        global_batch: images a step over all ranks.
    """

    lying: NDArray[np.int64]
    standing: NDArray[np.int64]
    seed: int
    global_batch: int

    def turns(self, step: int, *, rank: int = 0, num_ranks: int = 1) -> list[Turn]:
        """Return the batch of a step, counted from 0, or every `num_ranks`-th turn of it."""
        lying_before = self._lying_steps(step)
        if self._lying_steps(step + 1) > lying_before:
            kind, indices, batch = 0, self.lying, lying_before
        else:
            kind, indices, batch = 1, self.standing, step - lying_before
        first = batch * self.global_batch
        turns = []
        for position in range(first + rank, first + self.global_batch, num_ranks):
            epoch, place = divmod(position, len(indices))
            order = _permutation(self.seed, epoch, kind, len(indices))
            turns.append(Turn(epoch, int(indices[order[place]])))
        return turns

    def following(self, turn: Turn) -> Turn:
        """Return the turn after a turn in the permutation of its kind and epoch, from its end on to
        its start: what replaces a sample depends on the seed alone, as the order does.
        """
        kind, indices = (0, self.lying) if turn.sample_index in self.lying else (1, self.standing)
        order = indices[_permutation(self.seed, turn.epoch, kind, len(indices))]
        place = int(np.flatnonzero(order == turn.sample_index)[0])
        return Turn(turn.epoch, int(order[(place + 1) % len(order)]))

    def _lying_steps(self, num_steps: int) -> int:
        """Return how many of the first steps are lying images': their share, a half goes up."""
        total = len(self.lying) + len(self.standing)
        return (2 * num_steps * len(self.lying) + total) // (2 * total)


def build_training_order(
    samples: Sequence[Sample], sizing: Sizing, *, seed: int, global_batch: int
) -> TrainingOrder:
    """Part samples into the kinds that a sizing asks for; there is at least one sample."""
    lying = np.array([not sizing.keep_ratio or is_lying(sample.image_hw) for sample in samples])
    return TrainingOrder(
        lying=np.flatnonzero(lying),
        standing=np.flatnonzero(~lying),
        seed=seed,
        global_batch=global_batch,
    )


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, kind: int, size: int) -> NDArray[np.int64]:
    # Two numbers would give sample 0's generator: those that are missing count as 0.
    return np.random.default_rng([seed, epoch, kind, 1]).permutation(size)


@dataclass(frozen=True, kw_only=True)
class RankSteps:
    """The batches of one rank, which takes every `num_ranks`-th sample of each step."""

    order: TrainingOrder
    first_step: int
    num_steps: int
    rank: int = 0
    num_ranks: int = 1

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __iter__(self) -> Iterator[list[Turn]]:
        for step in range(self.first_step, self.num_steps):
            yield self.order.turns(step, rank=self.rank, num_ranks=self.num_ranks)


def evaluation_batches(
    samples: Sequence[Sample], sizing: Sizing, *, batch_size: int
) -> list[list[int]]:
    """Return the indices of every batch; the last one of each canvas may be smaller.

    The seed drops such a batch, and with it the last 8 of COCO's 5,000 images; not copied.
    """
    by_canvas = group_by_canvas(samples, sizing)
    # The largest first: where memory is too small for them, that shows at once.
    canvases = sorted(by_canvas, key=math.prod, reverse=True)
    return [
        by_canvas[canvas][start : start + batch_size]
        for canvas in canvases
        for start in range(0, len(by_canvas[canvas]), batch_size)
    ]


def group_by_canvas(samples: Sequence[Sample], sizing: Sizing) -> dict[tuple[int, int], list[int]]:
    """Return the indices of the samples of each canvas, in order."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sizing.canvas_hw(sample.image_hw), []).append(index)
    return groups
