"""Axes: where a value lies between 0 and 1, and the round numbers that are written there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

_STEPS: Final = (1.0, 2.0, 5.0, 10.0)
_MOST_TICKS: Final = 6
_SMALLEST, _LARGEST = 1e-9, 1e15  # no measurement is beyond


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        low: value at 0.
        high: value at 1.
        label: what is measured, with its unit.
        ticks: values that are written.
        log: equal distances are equal factors.
    """

    low: float
    high: float
    label: str
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, 0 to 1; what is outside lies at the border."""
        low, high, there = (self._scale(one) for one in (self.low, self.high, value))
        return min(1.0, max(0.0, (there - low) / (high - low)))

    def _scale(self, value: float) -> float:
        return math.log10(max(value, _SMALLEST)) if self.log else value


def linear_axis(
    values: Iterable[float], label: str, *, zero: bool = False, least: float = 0.0
) -> Axis:
    """Return an axis whose ends are ticks around all values.

    Args:
        values: what is drawn.
        label: of the axis.
        zero: it begins at 0.
        least: the shortest range; noise is not to look like a difference.
    """
    found = [max(-_LARGEST, min(value, _LARGEST)) for value in values] + [0.0] * zero
    room = max(0.0, least - (max(found) - min(found))) / 2
    low, high = min(found) - room, max(found) + room
    if high - low <= max(1e-9 * max(abs(low), abs(high)), _SMALLEST):
        low, high = (0.0, high) if high > _SMALLEST else (low - 1, high + 1)
    step = _round_step((high - low) / (_MOST_TICKS - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(low=ticks[0], high=ticks[-1], label=label, ticks=ticks)


def step_axis(steps: Sequence[float]) -> Axis:
    """Return an axis from 0 that ends with the last step."""
    axis = linear_axis(steps, "step", zero=True)
    last = max(steps) or 1.0
    return replace(axis, high=last, ticks=[tick for tick in axis.ticks if tick <= last])


def log_axis(values: Iterable[float], label: str, *, most: int = _MOST_TICKS) -> Axis:
    """Return a logarithmic axis around all values above 0, with a little room at both ends."""
    found = [max(_SMALLEST, min(value, _LARGEST)) for value in values if value > 0] or [1.0]
    low, high = math.log10(min(found)), math.log10(max(found))
    room = max(0.04 * (high - low), 0.06)
    low, high = low - room, high + room
    return Axis(
        low=10**low, high=10**high, label=f"{label} (log scale)", log=True,
        ticks=_log_ticks(low, high, most),
    )  # fmt: skip


def unit_axis(label: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(low=0, high=1, label=label, ticks=(0, 0.2, 0.4, 0.6, 0.8, 1))


def format_tick(value: float) -> str:
    """Return a tick as short as it can be: 0.05, 20, 5,000, 2M, 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M" if abs(value) < 1e9 else f"{value:g}"
    return f"{value:,.6g}" if abs(value) >= 1e-3 else f"{value:.3g}".replace("e-0", "e-")


def _round_step(step: float) -> float:
    base = 10.0 ** math.floor(math.log10(step))
    return next(base * one for one in _STEPS if base * one >= step * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return powers of ten, with 2 and 5 between them, or round numbers of a short range."""
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 4)):
        exponents = range(math.floor(low) - math.floor(low) % every, math.ceil(high) + 1, every)
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if 3 <= len(ticks) <= most:
            return ticks
    step = _round_step((10**high - 10**low) / (most - 1))
    number = range(math.ceil(10**low / step), math.floor(10**high / step) + 1)
    return [one * step for one in number]
