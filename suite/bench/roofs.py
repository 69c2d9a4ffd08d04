"""What holds training back: the loader, the model, or the cores that both of them use.

Three rates of one run say it: batches without training (the loader's roof), training without
loading (the model's roof), and both together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# What two windows of one machine differ by anyway.
_NOISE = 0.05

Bound = Literal["compute", "input", "cores", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Roofs:
    """Rates in images a second over all ranks, and what there is to raise the loader's.

    Attributes:
        loader, model, whole: batches alone, training on a batch that stays, end to end.
        ranks: in all.
        ranks_here: of them on the busiest machine, which share its cores.
        workers: loader processes of each rank; 0: the training process loads.
        cores: of that machine, for this process.
        on_cpu: whether the model computes on these cores too.
        cache: the recipe's `data.cache`.
        level: whether the intervals of `model` and `whole` overlap.
    """

    loader: float
    model: float
    whole: float
    ranks: int
    ranks_here: int
    workers: int
    cores: int
    on_cpu: bool
    cache: Literal["none", "ram", "disk"]
    level: bool = False

    @property
    def left(self) -> float:
        """How many times as fast training would be if batches came by themselves."""
        return self.model / self.whole

    @property
    def is_at_model(self) -> bool:
        """Whether training end to end is as fast as the model alone."""
        return self.left <= 1 + _NOISE

    @property
    def workers_needed(self) -> int:
        """Loader processes of each rank that would keep up with the model, as fast as now."""
        of_one = self.loader / (self.ranks * max(self.workers, 1))
        return max(1, math.ceil(self.model / (self.ranks * of_one)))

    @property
    def workers_possible(self) -> int:
        """Loader processes of each rank that have a core of their own."""
        for_loading = self.cores - self.ranks_here if self.on_cpu else self.cores
        return max(0, for_loading // self.ranks_here)


def find_bound(roofs: Roofs) -> Bound:
    """Tell what decides the end-to-end rate."""
    if roofs.level and not roofs.is_at_model:
        return "unclear"
    if roofs.is_at_model or roofs.model <= _NOISE * roofs.loader:
        return "compute"
    takes_turns = roofs.workers == 0
    return "input" if takes_turns or roofs.loader < roofs.model * (1 + _NOISE) else "cores"


def explain_roofs(roofs: Roofs) -> str:
    """Say in one sentence what holds training back and what would help."""
    spare = roofs.loader / roofs.model
    match find_bound(roofs):
        case "compute":
            said = f"compute-bound: the loader could feed {spare:.1f}x"
            return said if roofs.is_at_model else f"{said}; {_doubt(roofs)}"
        case "unclear":
            return (
                f"unclear what bounds it: the model alone is {roofs.left:.1f}x as fast as end to "
                "end, but their intervals overlap; count more steps, on a quiet machine"
            )
        case "cores":
            return (
                f"short of cores: {roofs.left:.1f}x left; the loader alone could feed {spare:.1f}x,"
                f" but shares {_count(roofs.cores, 'core')} with the training; {_lighten(roofs)}"
            )
        case "input":
            return f"input-bound: {roofs.left:.1f}x left; {_advise(roofs)}"


def _doubt(roofs: Roofs) -> str:
    return (
        f"that the model alone is {roofs.left:.1f}x as fast is not the loader's doing: "
        "repeat it on a quiet machine"
    )


def _advise(roofs: Roofs) -> str:
    needed = roofs.workers_needed
    if roofs.workers < needed <= roofs.workers_possible:
        return f"raise workers to {needed} (--set data.workers={needed})"
    if needed <= roofs.workers:
        return _lighten(roofs)
    each = "" if roofs.ranks_here == 1 else f" for each of {roofs.ranks_here} ranks"
    return (
        f"{_count(needed, 'worker')}{each} would keep up, too many for "
        f"{_count(roofs.cores, 'core')}; {_lighten(roofs)}"
    )


def _lighten(roofs: Roofs) -> str:
    if roofs.cache == "none":
        return "keep images decoded (--cache ram) or use fewer transforms"
    return "use fewer transforms"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
