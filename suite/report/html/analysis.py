"""An evaluation's analysis, read from JSON; `suite.evaluation.analysis` says what it holds.

It may come from someone else: what is not as agreed is refused, not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from suite.errors import InputError
from suite.files import read_bounded

SCHEMA: Final = "suite.eval-analysis/1"
MAX_BYTES: Final = 64 * 1024 * 1024
CURVES: Final = ("iou50", "iou75", "mean")
_MOST_CLASSES: Final = 2000

Curve = Mapping[str, Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """A class; AP is None where there are no true boxes of it."""

    name: str
    true_boxes: int
    ap: float | None
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Detections whose score is between two bounds."""

    low: float
    high: float
    detections: int
    mean_score: float | None
    precision: float | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What is drawn of an analysis; the last class of `cells` is the background."""

    min_score: float
    classes: Sequence[ClassFigures]
    ap50: float | None
    lost: Mapping[str, float]
    counts: Mapping[str, int]
    cells: Sequence[tuple[int, int, int]]
    recall: Sequence[float]
    curve: Curve | None
    class_curves: Sequence[Curve | None]
    bins: Sequence[Bin]
    d_ece: float | None


def load_analysis(path: Path) -> Analysis:
    """Read an analysis.

    Raises:
        InputError: it is larger than 64 MiB, or not as agreed.
    """
    content = read_bounded(path, limit=MAX_BYTES, remedy="suite eval --analyse makes one")
    try:
        return _parse(json.loads(content))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)[:100]
        raise InputError(
            f"{path}: not an analysis of schema '{SCHEMA}' ({reason}); make it again with "
            "suite eval --analyse"
        ) from error


def _parse(document: dict[str, Any]) -> Analysis:
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema is {str(document['schema'])[:40]!r}")
    classes = [_parse_class(one) for one in document["classes"]]
    if len(classes) > _MOST_CLASSES:
        raise ValueError(f"{len(classes)} classes, more than {_MOST_CLASSES}")
    errors, curves, calibration = (
        document[name] for name in ("errors", "curves", "calibration")
    )  # fmt: skip
    recall = [_fraction(one) for one in curves["recall"]]
    return Analysis(
        min_score=_number(document["min_score"]),
        classes=classes,
        ap50=_maybe(errors["ap50"]),
        lost={str(name): _number(value) for name, value in errors["lost"].items()},
        counts={str(name): _count(value) for name, value in errors["counts"].items()},
        cells=[_parse_cell(one, len(classes)) for one in document["confusion"]["cells"]],
        recall=recall,
        curve=_parse_curve(curves["all"], len(recall)),
        class_curves=[_parse_curve(one, len(recall)) for one in curves["classes"]],
        bins=[_parse_bin(one) for one in calibration["bins"]] if calibration else [],
        d_ece=_maybe(calibration["d_ece"]) if calibration else None,
    )


def _parse_class(one: dict[str, Any]) -> ClassFigures:
    return ClassFigures(
        name=str(one["name"]),
        true_boxes=_count(one["true_boxes"]),
        ap=_maybe(one["ap"]),
        ap50=_maybe(one["ap50"]),
        ap75=_maybe(one["ap75"]),
    )


def _parse_cell(cell: list[Any], num_classes: int) -> tuple[int, int, int]:
    true, found, count = (_count(value) for value in cell)
    if max(true, found) > num_classes:
        raise ValueError(f"a confusion of class {max(true, found)}, there are {num_classes}")
    return true, found, count


def _parse_curve(curve: dict[str, Any] | None, length: int) -> Curve | None:
    if curve is None:
        return None
    parsed = {name: [_fraction(one) for one in curve[name]] for name in CURVES}
    if any(len(values) != length for values in parsed.values()):
        raise ValueError(f"a curve has not the {length} points of the recall")
    return parsed


def _parse_bin(one: dict[str, Any]) -> Bin:
    return Bin(
        low=_fraction(one["low"]),
        high=_fraction(one["high"]),
        detections=_count(one["detections"]),
        mean_score=_maybe(one["mean_score"]),
        precision=_maybe(one["precision"]),
    )


def _maybe(value: Any) -> float | None:
    return None if value is None else _fraction(value)


def _fraction(value: Any) -> float:
    found = _number(value)
    if not 0 <= found <= 1:
        raise ValueError(f"{found} is no fraction")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError(f"{str(value)[:40]} is no number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**15:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value
