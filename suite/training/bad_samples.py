"""Images that a run could not read: counted, told once each, and no more than the recipe allows.

Which images these are depends on the files and the order of the samples alone, so all ranks
together find the same ones, however many ranks there are. Each finds its own share of them and
hears of the others' when they settle.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from typing import Any

from suite.data.collating import Batch
from suite.data.sample import BadSample
from suite.errors import InputError
from suite.launch.ranks import Ranks


class BadSamples:
    """The bad samples of a run.

    Args:
        limit: the part of the samples that may be bad.
        num_samples: of the training set.
        say: called with a sentence about each bad sample, once.
        ranks: which train together.
    """

    def __init__(
        self,
        *,
        limit: float,
        num_samples: int,
        say: Callable[[str], None],
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks or Ranks()
        self._new: list[dict[str, Any]] = []
        self._limit = limit
        self._num_samples = num_samples
        self._say = say
        self._found: dict[int, BadSample] = {}

    def watch(self, batches: Generator[Batch]) -> Generator[Batch]:
        """Yield batches and note what they replaced. Closes `batches` when it is closed itself.

        Raises:
            InputError: more samples are bad than the limit allows.
        """
        with closing(batches):
            for batch in batches:
                self._new += [asdict(bad) for bad in batch.bad_samples]
                if self._ranks.num_ranks == 1:
                    self.settle()
                yield batch

    def settle(self) -> None:
        """Let all ranks know what each has found; all of them call it, after the same step.

        Raises:
            InputError: as `watch`, on all ranks.
        """
        found, self._new = self._ranks.gather(self._new), []
        for entry in chain.from_iterable(found):
            self._add(BadSample(**entry))

    def state(self) -> list[dict[str, Any]]:
        """Return what a checkpoint and a record keep: image id and reason of each, by id."""
        return [asdict(self._found[image_id]) for image_id in sorted(self._found)]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `state` returned.

        Raises:
            InputError: as `watch`; the limit may have been lowered.
        """
        self._found = {entry["image_id"]: BadSample(**entry) for entry in state}
        self._require_few()

    def _add(self, bad: BadSample) -> None:
        if bad.image_id in self._found:
            return
        self._found[bad.image_id] = bad
        self._say(f"image {bad.image_id} is replaced: {bad.reason}")
        self._require_few()

    def _require_few(self) -> None:
        if len(self._found) / self._num_samples > self._limit:
            raise InputError(
                f"{len(self._found)} of {self._num_samples:,} training images cannot be read, "
                f"more than data.bad_sample_limit {self._limit:g} allows; the last was: "
                f"{list(self._found.values())[-1].reason}; run `suite data check`"
            )
