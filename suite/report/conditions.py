"""Conditions under which a report fails, such as ``ap<0.36,images_per_second.global<112``.

Each is a metric of records, for a throughput with ``.global`` (all devices together) or
``.per_device`` behind it, one of ``< <= > >=``, and a number in the unit of the metric.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from suite.errors import UsageError
from suite.records import Record
from suite.report.entries import Entry, check_metrics
from suite.report.figures import is_fraction, is_speed, scoped_value
from suite.report.layout import clean

_FORM = re.compile(
    r"\s*(?P<metric>[a-zA-Z]\w*)(?:\.(?P<scope>\w+))?\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<limit>-?\d{1,15}(?:\.\d{1,15})?)\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What must not be so.

    Attributes:
        text: as it was given.
        scope: global or per_device; empty for the figure as it stands in the record.
    """

    text: str
    metric: str
    scope: str
    sign: str
    limit: float


def parse_conditions(text: str, entries: Sequence[Entry]) -> list[Condition]:
    """Read conditions, separated by commas.

    Args:
        entries: their metrics are known, beside those of this suite.

    Raises:
        UsageError: one has another form, an unknown metric, or a limit that cannot be meant.
    """
    conditions = [_parse(part) for part in text.split(",")]
    check_metrics((condition.metric for condition in conditions), entries)
    return conditions


def find_failures(conditions: Sequence[Condition], entries: Sequence[Entry]) -> list[str]:
    """Return a line for each condition that holds for an entry or that no entry can answer."""
    return [line for condition in conditions if (line := _judge(condition, entries))]


def _parse(part: str) -> Condition:
    found = _FORM.fullmatch(part)
    if found is None:
        raise UsageError(
            f"--fail-on: '{part.strip()}' is no condition; expected one such as ap<0.36 or "
            "images_per_second.global<112, several separated by commas"
        )
    metric, scope, limit = found["metric"], found["scope"] or "", float(found["limit"])
    if scope and (scope not in ("global", "per_device") or not is_speed(metric)):
        raise UsageError(
            f"--fail-on: '{part.strip()}': a scope is .global or .per_device, of a throughput only"
        )
    if is_fraction(metric) and abs(limit) > 1:
        raise UsageError(
            f"--fail-on: '{part.strip()}': {metric} is a fraction; write {limit / 100:g}"
        )
    return Condition(text=part.strip(), metric=metric, scope=scope, sign=found["sign"], limit=limit)


def _judge(condition: Condition, entries: Sequence[Entry]) -> str:
    """Say what is wrong; nothing where all entries that have the figure are fine."""
    having = [one for one in entries if one.record["metrics"].get(condition.metric) is not None]
    if not having:
        return f"{condition.text}: cannot be judged, no selected record has {condition.metric}"
    values = [(_value(one.record, condition), one) for one in having]
    silent = [one for value, one in values if value is None]
    if silent:
        return f"{condition.text}: cannot be judged, {clean(silent[0].name)} states no scope"
    compare = _SIGNS[condition.sign]
    wrong = [
        (value, one)
        for value, one in values
        if value is not None and compare(value, condition.limit)
    ]
    if not wrong:
        return ""
    worst = min if condition.sign.startswith("<") else max
    value, entry = worst(wrong, key=lambda pair: pair[0])
    count = f" ({len(wrong)} of {len(values)} records)" if len(values) > 1 else ""
    return f"{condition.text}: it is {value:.9g} in {clean(entry.name)}{count}"


def _value(record: Record, condition: Condition) -> float | None:
    if condition.scope == "global":
        return scoped_value(record, condition.metric, "global")
    if condition.scope == "per_device":
        return scoped_value(record, condition.metric, "per_device")
    return float(record["metrics"][condition.metric])
