"""Batches for training and evaluation, prepared by loader processes.

What a batch holds is decided in `batching`, how an image is prepared in `preparing`, how processes
are watched in `workers`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from torch.utils.data import get_worker_info

from suite.data.batching import RankSteps, TrainingOrder, Turn, evaluation_batches
from suite.data.collating import Batch, collate
from suite.data.preparing import (
    Augmentation,
    Example,
    prepare_for_evaluation,
    prepare_for_training,
)
from suite.data.sample import BadSample, Sample
from suite.data.workers import Workers, load_batches, worker_lost
from suite.errors import InputError, SuiteError
from suite.sizing import Sizing

_MAX_REPLACEMENTS: Final = 100  # in a row; where so many are bad, the data set is


@dataclass(frozen=True, kw_only=True)
class TrainingStream:
    """The endless, seeded stream of training samples.

    Attributes:
        box_rows: rows of every batch's boxes; None: as many as each batch needs.
        replacing: the order that says which sample takes the place of one that cannot be read;
            None: such a sample is an error.
    """

    samples: tuple[Sample, ...]
    sizing: Sizing
    augmentation: Augmentation
    seed: int
    box_rows: int | None = None
    replacing: TrainingOrder | None = None

    def load(
        self,
        turn: Turn,
        starting: Callable[[int], None],
        *,
        mark: Callable[[str], None] = lambda _: None,
    ) -> Example | InputError:
        """Prepare the sample of a turn, or the first after it in order that can be read.

        Args:
            mark: see `prepare_for_training`.
        """
        bad: list[BadSample] = []
        while True:
            try:
                starting(turn.sample_index)
                return replace(self._prepare(turn, mark), replaces=tuple(bad))
            except InputError as error:
                if self.replacing is None or len(bad) == _MAX_REPLACEMENTS:
                    return error
                bad.append(BadSample(self.samples[turn.sample_index].image_id, str(error)))
                turn = self.replacing.following(turn)

    def name_of(self, index: int) -> str:
        """Return the name of an image."""
        return str(self.samples[index].image)

    def _prepare(self, turn: Turn, mark: Callable[[str], None]) -> Example:
        return prepare_for_training(
            self.samples[turn.sample_index],
            self.sizing,
            augmentation=self.augmentation,
            rng=np.random.default_rng([self.seed, *turn]),
            mark=mark,
        )


@dataclass(frozen=True)
class EvaluationSet:
    """Every sample as it is judged."""

    samples: tuple[Sample, ...]
    sizing: Sizing

    def load(self, index: int, starting: Callable[[int], None]) -> Example | InputError:
        """Prepare a sample."""
        starting(index)
        try:
            return prepare_for_evaluation(self.samples[index], self.sizing)
        except InputError as error:
            return error

    def name_of(self, index: int) -> str:
        """Return the name of an image."""
        return str(self.samples[index].image)


def iterate_training(
    stream: TrainingStream, steps: RankSteps, *, workers: Workers, pin: bool = False
) -> Generator[Batch]:
    """Yield one batch a step. Close the generator where the last batch is not reached.

    Raises:
        InputError: an image cannot be read; raised here and not in a worker, as one sentence.
        SuiteError: a worker was lost or hangs.
    """
    collate_rows = partial(_collate_or_error, box_rows=stream.box_rows)
    yield from load_batches(stream, steps, collate=collate_rows, workers=workers, pin=pin)


def iterate_evaluation(
    evaluation_set: EvaluationSet, *, batch_size: int, workers: Workers
) -> Generator[Batch]:
    """Yield every image once, in batches of one canvas; see `evaluation_batches`.

    Raises:
        InputError, SuiteError: as `iterate_training`.
    """
    batches = evaluation_batches(
        evaluation_set.samples, evaluation_set.sizing, batch_size=batch_size
    )
    yield from iterate_chosen(evaluation_set, batches, workers=workers)


def iterate_chosen(
    evaluation_set: EvaluationSet, batches: Iterable[list[int]], *, workers: Workers
) -> Generator[Batch]:
    """Yield batches of chosen samples, each of one canvas, in the order given.

    Args:
        batches: indices of the samples of each; may have no end, then close the generator.

    Raises:
        InputError, SuiteError: as `iterate_training`.
    """
    yield from load_batches(evaluation_set, batches, collate=_collate_or_error, workers=workers)


def _collate_or_error(
    examples: Sequence[Example | InputError], *, box_rows: int | None = None
) -> Batch | SuiteError:
    good: list[Example] = []
    for example in examples:
        if isinstance(example, InputError):
            return example
        good.append(example)
    batch = collate(good, box_rows=box_rows)
    if get_worker_info() is not None:
        try:
            batch.share_memory()
        except RuntimeError as error:
            return worker_lost(error)
    return batch
