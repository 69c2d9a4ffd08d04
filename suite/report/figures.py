"""One figure beside another: names of metrics, which way is better, and what decides.

A figure may carry the bounds of its 95 % interval and, where it is a throughput whose scope is
known, what it is of one device.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from suite.records import Record
from suite.report.layout import format_ap, format_number
from suite.report.reference import ReferenceRow

Verdict = Literal["ahead", "behind", "level", "not comparable"]

# What reports show of a record unless asked for more.
USUAL_METRICS = ("ap", "images_per_second", "latency_ms_p50")
_AP_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_AR_NAMES = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
_LATENCIES = ("latency_ms_p50", "latency_ms_p90", "latency_ms_p99")
# Known whether or not a record at hand has them.
KNOWN_METRICS = (*_AP_NAMES, *_AR_NAMES, "images_per_second", *_LATENCIES, "peak_memory_bytes")

# What is noise in any case: speed moves by a percent or two from run to run of a machine of one's
# own, AP of equal recipes by up to 0.3 points.
SPEED_NOISE = 0.02
AP_NOISE = 0.003

_SPEED = re.compile(r"images_per_second(_\w+)?")
_FRACTION = re.compile(r"a[pr](\d+|_small|_medium|_large)?(_low|_high)?")
_LOWER_IS_BETTER = re.compile(r"\w+_ms(_\w+)?|peak_memory_bytes|energy_j_per_image")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured or published number.

    Attributes:
        interval: bounds of its 95 % interval, None where it has none.
        per_device: a throughput of one device; None for other figures or where it is not known.
    """

    value: float
    interval: tuple[float, float] | None = None
    per_device: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A figure of a record beside a published one, or beside one of another record.

    Attributes:
        metric: name in our record's metrics, such as `ap` or `images_per_second`.
        other: id of the published row, or name of the other record.
        system: number and name of the devices of the other one.
        row: the published row; None beside a record.
        named: our record asks for this row by its id.
        reasons: why there is no verdict, the weightiest first; empty where there is one.
    """

    metric: str
    ours: Figure
    theirs: Figure
    other: str
    system: str
    row: ReferenceRow | None
    named: bool
    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def ratio(self) -> float | None:
        """Ours divided by theirs; None where that is no number."""
        return _divide(self.ours.value, self.theirs.value)

    @property
    def ratio_per_device(self) -> float | None:
        """The same of one device each, where both are known."""
        return _divide(self.ours.per_device, self.theirs.per_device)


def own_figure(record: Record, metric: str) -> Figure | None:
    """Return a record's figure, None where it has none."""
    value = record["metrics"].get(metric)
    if value is None:
        return None
    return Figure(
        value=float(value),
        interval=_interval(record, metric, float(value)),
        per_device=scoped_value(record, metric, "per_device") if is_speed(metric) else None,
    )


def scoped_value(
    record: Record, metric: str, scope: Literal["global", "per_device"]
) -> float | None:
    """Return a throughput of all devices or of one; None where the record does not tell."""
    value, count = record["metrics"].get(metric), record["hardware"].get("device_count")
    stated = "per_device" if metric.endswith("_per_device") else record["conditions"].get("scope")
    ours = "global" if count == 1 else stated
    if value is None or not count or count < 1 or ours not in ("global", "per_device"):
        return None
    factor = 1.0 if ours == scope else count if scope == "global" else 1 / count
    scaled = float(value) * factor
    return scaled if math.isfinite(scaled) else None


def judge(metric: str, ours: Figure, theirs: Figure) -> Verdict:
    """Say which is better; level where intervals meet, or where noise could be the reason.

    An interval is of one run: what differs from run to run, it does not hold.
    """
    if _is_level(metric, ours, theirs):
        return "level"
    ahead = (ours.value < theirs.value) == lower_is_better(metric)
    return "ahead" if ahead else "behind"


def is_speed(metric: str) -> bool:
    """Whether a metric is a throughput, which has a scope."""
    return _SPEED.fullmatch(metric) is not None


def is_fraction(metric: str) -> bool:
    """Whether a metric is an average precision or recall."""
    return _FRACTION.fullmatch(metric) is not None


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better."""
    return _LOWER_IS_BETTER.fullmatch(metric) is not None


def has_direction(metric: str) -> bool:
    """Whether more or less of a metric is better at all; not so of a count, say."""
    return is_speed(metric) or is_fraction(metric) or lower_is_better(metric)


def format_metric(metric: str, value: float) -> str:
    """Return a figure as people read it: AP and AR times 100."""
    return format_ap(value) if is_fraction(metric) else format_number(value)


def format_figure(metric: str, figure: Figure) -> str:
    """Return a figure with its interval where it has one."""
    text = format_metric(metric, figure.value)
    if figure.interval is None:
        return text
    low, high = (format_metric(metric, bound) for bound in figure.interval)
    return f"{text} ({low} to {high})"


def _interval(record: Record, metric: str, value: float) -> tuple[float, float] | None:
    low, high = record["metrics"].get(f"{metric}_low"), record["metrics"].get(f"{metric}_high")
    if low is None or high is None or not low <= value <= high:
        return None
    return float(low), float(high)


def _is_level(metric: str, ours: Figure, theirs: Figure) -> bool:
    low, high = ours.interval or (ours.value, ours.value)
    their_low, their_high = theirs.interval or (theirs.value, theirs.value)
    if low <= their_high and their_low <= high:
        return True
    if is_fraction(metric) and (ours.interval or theirs.interval):
        return False  # over the images, which is what equal recipes differ in
    noise = AP_NOISE if is_fraction(metric) else SPEED_NOISE * abs(theirs.value)
    # 0.363 - 0.36 is a little more than 0.003 in binary.
    return abs(ours.value - theirs.value) <= noise * (1 + 1e-9)


def _divide(ours: float | None, theirs: float | None) -> float | None:
    if ours is None or not theirs:
        return None
    ratio = ours / theirs
    return ratio if math.isfinite(ratio) else None
