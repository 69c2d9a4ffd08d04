"""How long calls of graphs take on one input, in rounds: what slows the machine slows all of them.

One session is open at a time, as it will be where a graph is used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from suite.deploy.quantization import Feed
from suite.graph_file import OUTPUT_NAMES
from suite.graph_session import open_graph

ROUNDS: Final = 5
RUNS: Final = 4  # that count, of a round
WARMUP: Final = 2  # before them


@dataclass(frozen=True)
class Timing:
    """What the rounds of one graph took.

    Attributes:
        rounds_ms: median of each round, milliseconds a call.
    """

    rounds_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> float:
        """The median of the rounds."""
        return float(np.median(self.rounds_ms))


def time_graphs(paths: Sequence[Path], feed: Feed) -> list[Timing]:
    """Time graphs with NMS inside on the CPU, in turns.

    Args:
        paths: of the graphs.
        feed: what all of them get.

    Returns:
        Timings in the order of the paths.
    """
    rounds = [[_time_round(path, feed) for path in paths] for _ in range(ROUNDS)]
    return [Timing(tuple(column)) for column in zip(*rounds, strict=True)]


def find_fastest(timings: Sequence[Timing]) -> list[int]:
    """Return the places of the fastest and of those that cannot be told from it.

    Those are as fast as it in one round at least: of two equal ones, each is slower in all five
    rounds once in 32 times.
    """
    best = min(timings, key=lambda timing: timing.latency_ms)
    return [
        place
        for place, timing in enumerate(timings)
        if any(own <= its for own, its in zip(timing.rounds_ms, best.rounds_ms, strict=True))
    ]


def _time_round(path: Path, feed: Feed) -> float:
    run = open_graph(path.read_bytes(), source=str(path))
    seconds = []
    for _ in range(WARMUP + RUNS):
        started = time.perf_counter()
        run(OUTPUT_NAMES, feed)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[WARMUP:]))
