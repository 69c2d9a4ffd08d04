"""The curves of a training, read from its `metrics.jsonl`: see `suite.events` for who writes it.

A line holds a step, and either losses with `lr` and `images_per_second`, or an event. A run that
went on from a checkpoint repeats steps; the later line of a step counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from suite.errors import InputError
from suite.files import read_bounded

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_POINTS: Final = 300  # drawn of one curve
_MOST_CURVES: Final = 8
_NO_LOSS: Final = frozenset({"step", "lr", "images_per_second", "seconds", "skipped_steps"})

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Curves over steps, of each its points by rising step.

    Attributes:
        losses: by name; `loss` is their sum.
        lr: of the step.
        evaluations: AP, and AP50 where it is told, as fractions.
    """

    losses: Mapping[str, Curve]
    lr: Curve
    evaluations: Mapping[str, Curve]


def load_training(path: Path) -> Training:
    """Read the curves of a run.

    Raises:
        InputError: the file is larger than 32 MiB, or a line that is not the last is damaged.
    """
    found: dict[str, dict[float, float]] = {}
    evaluated: dict[str, dict[float, float]] = {}
    for values in _read_lines(path):
        step = values["step"]
        if "event" not in values:
            _add(found, step, values)
        elif values["event"] == "evaluated":
            _add(evaluated, step, {name: values.get(name) for name in ("ap", "ap50")})
    curves = {name: sorted(points.items()) for name, points in found.items()}
    names = [name for name in curves if name not in _NO_LOSS]
    return Training(
        losses={name: curves[name] for name in names[:_MOST_CURVES]},
        lr=curves.get("lr", []),
        evaluations={name: sorted(points.items()) for name, points in evaluated.items()},
    )


def thin_out(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """Return at most `most` points: of each part of the curve its lowest and its highest."""
    if len(curve) <= most:
        return curve
    part = math.ceil(len(curve) / (most // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(curve), part):
        points = curve[start : start + part]
        ends = {min(points, key=lambda one: one[1]), max(points, key=lambda one: one[1])}
        kept += sorted(ends)
    return kept


def _add(found: dict[str, dict[float, float]], step: float, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name != "step" and _is_number(value):
            found.setdefault(name, {})[step] = float(value)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    content = read_bounded(path, limit=MAX_BYTES, remedy="give the folder of a run")
    lines = content.decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line, parse_constant=_refuse) if line else None
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return  # a run that is being written, or was interrupted
            raise _damaged(path, number, "no JSON") from error
        if values is None:
            continue
        if not isinstance(values, dict) or not _is_number(values.get("step")):
            raise _damaged(path, number, "no object with a step")
        yield values


def _damaged(path: Path, number: int, what: str) -> InputError:
    return InputError(
        f"{path}:{number}: {what}; these are the metrics of a run: take the file away to leave "
        "its curves out"
    )


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300
