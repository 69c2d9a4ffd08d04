"""Our records beside each other, metric by metric, with a verdict or the reason there is none.

A verdict needs the same detector, dataset and input, and for speed the same device, number of
devices, scope, batch, images, scenario and window, both on a calm machine of the same pace;
precision and runtime may differ, they are what one compares. What lies close together is settled in
one run (`suite bench infer --vs`), not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from suite.records import Record
from suite.report.compare import describe_input
from suite.report.devices import is_same_device
from suite.report.entries import Entry, describe_devices, is_same_entry
from suite.report.figures import (
    USUAL_METRICS,
    Comparison,
    Figure,
    has_direction,
    is_fraction,
    judge,
    own_figure,
)

# Of the same fixed work on the same processor; beyond it the machine was another one that day.
_MAX_PACE = 1.05
_STAGES = {"train": "training", "bench-train": "training", "bench-infer": "inference"}


def compare_peers(
    entry: Entry, peers: Sequence[Entry], *, metrics: Sequence[str] = ()
) -> list[Comparison]:
    """Set a record's metrics beside those of other records that measured the same thing.

    Accuracy is the same thing wherever it was measured, speed only in training or in inference.

    Args:
        metrics: which; by default the usual ones.

    Returns:
        By metric: those with a verdict first.
    """
    comparisons = []
    for metric in metrics or USUAL_METRICS:
        ours = own_figure(entry.record, metric)
        if ours is None:
            continue
        found = [
            _compare_figure(entry.record, peer, metric=metric, ours=ours, theirs=theirs)
            for peer in peers
            if not is_same_entry(entry, peer)
            and _is_same_thing(entry.record, peer.record, metric)
            and (theirs := own_figure(peer.record, metric)) is not None
        ]
        found.sort(key=lambda comparison: bool(comparison.reasons))
        comparisons += found
    return comparisons


def _is_same_thing(ours: Record, theirs: Record, metric: str) -> bool:
    one, other = (_STAGES.get(record["kind"], record["kind"]) for record in (ours, theirs))
    return one == other or is_fraction(metric)


def _compare_figure(
    record: Record, peer: Entry, *, metric: str, ours: Figure, theirs: Figure
) -> Comparison:
    checks = _SHARED if is_fraction(metric) else (*_SHARED, *_OF_SPEED)
    found = [check(record, peer.record) for check in checks]
    if not has_direction(metric):
        found.append("neither more nor less of it is better")
    reasons = tuple(filter(None, found))
    return Comparison(
        metric=metric,
        ours=ours,
        theirs=theirs,
        other=peer.name,
        system=describe_devices(peer.record),
        row=None,
        named=False,
        verdict="not comparable" if reasons else judge(metric, ours, theirs),
        reasons=reasons,
    )


def _check_simulated(ours: Record, theirs: Record) -> str:
    simulated = any(record["conditions"].get("simulated") for record in (ours, theirs))
    return "a device is simulated" if simulated else ""


def _check_detector(ours: Record, theirs: Record) -> str:
    return _differ("detector", *_both("subject", "detector", ours, theirs))


def _check_width(ours: Record, theirs: Record) -> str:
    one, other = (record["subject"].get("width") or 1 for record in (ours, theirs))
    return "" if one == other else f"backbone width {one:g} against {other:g}"


def _check_dataset(ours: Record, theirs: Record) -> str:
    differ = _differ("dataset", *_both("subject", "dataset", ours, theirs))
    one, other = _both("subject", "val_digest", ours, theirs)
    return differ or ("other images of the dataset" if one and other and one != other else "")


def _check_images(ours: Record, theirs: Record) -> str:
    one, other = _both("conditions", "images", ours, theirs)
    if one != other:
        return _differ("images", one, other)
    one, other = _both("conditions", "images_sha256", ours, theirs)
    return "" if one == other else "other images"


def _check_window(ours: Record, theirs: Record) -> str:
    scenario = _both("conditions", "scenario", ours, theirs)
    if scenario[0] != scenario[1]:
        return _differ("scenario", *scenario)
    one, other = _both("conditions", "window", ours, theirs)
    # The counts of steps are n's to tell.
    return "" if _without_counts(one) == _without_counts(other) else "other windows of time"


def _without_counts(window: Any) -> str:
    return re.sub(r"\d+", "N", str(window))


def _check_calm(ours: Record, theirs: Record) -> str:
    if False in _both("conditions", "calm", ours, theirs):
        return "a machine was not calm; measure them in one run (suite bench infer --vs)"
    one, other = _both("conditions", "pace_ms", ours, theirs)
    if not one or not other or max(one, other) <= _MAX_PACE * min(one, other):
        return ""
    return f"the machine's pace was {one:.3g} against {other:.3g} ms; measure them in one run"


def _check_input(ours: Record, theirs: Record) -> str:
    return _differ("input", describe_input(ours), describe_input(theirs))


def _check_device(ours: Record, theirs: Record) -> str:
    kinds = _differ("device", *_both("hardware", "device_kind", ours, theirs))
    if kinds:
        return kinds
    names = [record["hardware"].get("device") or "" for record in (ours, theirs)]
    if not is_same_device(*names):
        return _differ("device", *names)
    cores = _both("hardware", "cores", ours, theirs)
    on_cpu = ours["hardware"].get("device_kind") == "cpu"
    return _differ("cores", *cores) if on_cpu and cores[0] != cores[1] else ""


def _check_count(ours: Record, theirs: Record) -> str:
    return _differ("devices", *_both("hardware", "device_count", ours, theirs))


def _check_scope(ours: Record, theirs: Record) -> str:
    if all(record["hardware"].get("device_count") == 1 for record in (ours, theirs)):
        return ""  # one device is the whole system
    return _differ("scope", *_both("conditions", "scope", ours, theirs)).replace("_", " ")


def _check_batch(ours: Record, theirs: Record) -> str:
    one, other = _both("conditions", "batch", ours, theirs)
    return "" if one == other else _differ("batch", one, other)


def _both(section: str, name: str, ours: Record, theirs: Record) -> tuple[Any, Any]:
    return ours[section].get(name), theirs[section].get(name)


def _differ(name: str, ours: Any, theirs: Any) -> str:
    """Say in what two values differ; what neither record states is not known to be the same."""
    if ours == theirs and ours:
        return ""
    return f"{name} {ours or 'not stated'} against {theirs or 'not stated'}"


_Check = Callable[[Record, Record], str]
_SHARED: tuple[_Check, ...] = (
    _check_simulated,
    _check_detector,
    _check_width,
    _check_dataset,
    _check_input,
)
_OF_SPEED: tuple[_Check, ...] = (
    _check_images,
    _check_device,
    _check_count,
    _check_scope,
    _check_batch,
    _check_window,
    _check_calm,
)
