"""Our records beside published rows, metric by metric, with a verdict or the reason there is none.

A verdict compares whole systems (device, host and software together) of the same kind and number of
devices. It is given only where dataset, detector and input agree; anything else is "not comparable"
with its reasons, the weightiest first. A flagged figure is shown but never a target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from suite.records import Record
from suite.report.reference import ReferenceRow

Metric = Literal["ap", "train_images_per_second", "infer_images_per_second"]
Verdict = Literal["ahead", "behind", "level", "not comparable"]

# Without an interval of our own these are taken as noise: throughput moves by a percent or two from
# run to run, AP of equal recipes by up to 0.3 points.
THROUGHPUT_NOISE = 0.02
AP_NOISE = 0.003
# A nominal epoch may count other images than a real one (120,000 against 117,266 of COCO).
EPOCHS_TOLERANCE = 0.1

_DETECTOR_INPUTS = {"ssd_r34": "300x300", "retinanet_r50_fpn": "1333x800"}
# The batch is padded to a multiple of 32; the image inside is the same.
_PADDED_INPUTS = {"1344x800": "1333x800"}
_METRIC_KEYS: dict[str, tuple[tuple[Metric, str], ...]] = {
    "train": (("ap", "ap"), ("train_images_per_second", "images_per_second")),
    "eval": (("ap", "ap"),),
    "bench-train": (("train_images_per_second", "images_per_second"),),
    "bench-infer": (("infer_images_per_second", "images_per_second"),),
}
COMPARED_KINDS = frozenset(_METRIC_KEYS)
_DEVICE_KINDS = {
    "ascend": "npu",
    "nvidia": "cuda",
    "tesla": "cuda",
    "tpu": "tpu",
    "xeon": "cpu",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of ours beside one published figure.

    Attributes:
        metric: AP as a fraction, throughput in images a second of the whole system.
        named: The record asks for this row by its id.
        ratio: Ours divided by the published figure.
        reasons: Why there is no verdict, the weightiest first; empty where there is one.
    """

    metric: Metric
    row: ReferenceRow
    named: bool
    ours: float
    published: float
    ratio: float
    verdict: Verdict
    reasons: tuple[str, ...]


def compare_record(record: Record, rows: Sequence[ReferenceRow]) -> list[Comparison]:
    """Set every metric of a record beside the rows of its detector and those it names itself.

    Returns:
        By metric: rows that the record names first, then those with a verdict, then the others.
    """
    comparisons = []
    for metric, key in _METRIC_KEYS.get(record["kind"], ()):
        if record["metrics"].get(key) is None:
            continue
        found = [
            _compare_figure(record, row, metric=metric, key=key)
            for row in rows
            if _matches(record, row) and published_figure(row, metric) is not None
        ]
        found.sort(key=lambda comparison: (not comparison.named, bool(comparison.reasons)))
        comparisons += found
    return comparisons


def published_figure(row: ReferenceRow, metric: Metric) -> float | None:
    """Return a row's figure for a metric; a pure quality target counts as its AP."""
    if metric == "ap" and row.ap is None:
        return row.ap_target
    figure: float | None = getattr(row, metric)
    return figure


def _matches(record: Record, row: ReferenceRow) -> bool:
    detector = record["subject"].get("detector")
    return _is_named(record, row) or (row.detector != "" and row.detector == detector)


def _is_named(record: Record, row: ReferenceRow) -> bool:
    return row.row_id in (record["subject"].get("reference") or ())


def _compare_figure(record: Record, row: ReferenceRow, *, metric: Metric, key: str) -> Comparison:
    published = published_figure(row, metric)
    assert published is not None  # the caller chose rows that have one
    ours = float(record["metrics"][key])
    reasons = tuple(filter(None, (check(record, row) for check in _CHECKS[metric])))
    level = _is_level(record, key, ours=ours, published=published)
    return Comparison(
        metric=metric,
        row=row,
        named=_is_named(record, row),
        ours=ours,
        published=published,
        ratio=ours / published,
        verdict="not comparable" if reasons else _judge(ours, published, level=level),
        reasons=reasons,
    )


def _is_level(record: Record, key: str, *, ours: float, published: float) -> bool:
    low, high = record["metrics"].get(f"{key}_low"), record["metrics"].get(f"{key}_high")
    if low is not None and high is not None:
        return bool(low <= published <= high)
    noise = AP_NOISE if key == "ap" else THROUGHPUT_NOISE * published
    # 0.363 - 0.36 is a little more than 0.003 in binary.
    return abs(ours - published) <= noise * (1 + 1e-9)


def _judge(ours: float, published: float, *, level: bool) -> Verdict:
    if level:
        return "level"
    return "ahead" if ours > published else "behind"


def _check_ap_flag(_: Record, row: ReferenceRow) -> str:
    return f"flagged: {row.ap_flag}" if row.ap_flag else ""


def _check_throughput_flag(_: Record, row: ReferenceRow) -> str:
    return f"flagged: {row.throughput_flag}" if row.throughput_flag else ""


def _check_real_device(record: Record, _: ReferenceRow) -> str:
    return "our device is simulated" if record["conditions"].get("simulated") else ""


def _check_detector(record: Record, row: ReferenceRow) -> str:
    ours = record["subject"].get("detector")
    if ours != row.detector:
        return f"detector {ours or 'not stated'} against {row.model} {row.backbone}".rstrip()
    width = record["subject"].get("width", 1)
    return f"backbone width {width:g} against 1" if width != 1 else ""


def _check_dataset(record: Record, row: ReferenceRow) -> str:
    ours = record["subject"].get("dataset")
    if not ours:
        return "our dataset is not stated"
    same = _simplify(ours) == _simplify(row.dataset)
    return "" if same else f"dataset {ours} against {row.dataset}"


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_input(record: Record, row: ReferenceRow) -> str:
    ours = _describe_input(record)
    if not row.input:
        return "published input not stated"
    return "" if ours == row.input else f"input {ours or 'not stated'} against {row.input}"


def _describe_input(record: Record) -> str:
    """Return ours as longer x shorter side, the detector's own where the record is silent."""
    image_hw = record["conditions"].get("image_hw")
    if image_hw is None:
        return _DETECTOR_INPUTS.get(str(record["subject"].get("detector")), "")
    ours = "x".join(str(side) for side in sorted(image_hw, reverse=True))
    return _PADDED_INPUTS.get(ours, ours)


def _check_stop(_: Record, row: ReferenceRow) -> str:
    if row.ap is None or row.ap_target is None:
        return ""
    return f"that run stopped at its target of {100 * row.ap_target:.1f}"


def _check_epochs(record: Record, row: ReferenceRow) -> str:
    ours = record["conditions"].get("epochs")
    if row.epochs is None:
        return ""
    if ours is None:
        return "epochs not stated"
    close = abs(ours - row.epochs) <= EPOCHS_TOLERANCE * row.epochs
    return "" if close else f"epochs {ours:g} against {row.epochs:g}"


def _check_device_kind(record: Record, row: ReferenceRow) -> str:
    theirs = _device_kind(row.device)
    ours = record["hardware"].get("device_kind") or "not stated"
    if theirs == ours:
        return ""
    return f"device {ours} against {theirs}" if theirs else "published device not stated"


def _device_kind(name: str) -> str:
    known = (kind for word, kind in _DEVICE_KINDS.items() if word in name.lower())
    return next(known, name)


def _check_train_devices(record: Record, row: ReferenceRow) -> str:
    return _compare_counts(record, row.device_count)


def _check_infer_devices(record: Record, row: ReferenceRow) -> str:
    return _compare_counts(record, row.infer_device_count)


def _compare_counts(record: Record, theirs: int | None) -> str:
    ours = record["hardware"].get("device_count")
    if theirs is None:
        return "published device count not stated"
    return "" if ours == theirs else f"devices {ours or 'not stated'} against {theirs}"


def _check_scope(record: Record, row: ReferenceRow) -> str:
    if record["hardware"].get("device_count") == 1 and row.device_count == 1:
        return ""  # one device is the whole system
    ours = record["conditions"].get("scope") or "not stated"
    if ours == row.train_scope and ours != "unknown":
        return ""
    return f"scope {ours} against {row.train_scope}".replace("_", " ")


def _check_batch(record: Record, row: ReferenceRow) -> str:
    ours = record["conditions"].get("batch")
    if row.infer_batch is None:
        return "published batch not stated"
    return (
        "" if ours == row.infer_batch else f"batch {ours or 'not stated'} against {row.infer_batch}"
    )


_CHECKS: dict[Metric, tuple[Callable[[Record, ReferenceRow], str], ...]] = {
    "ap": (
        _check_ap_flag,
        _check_detector,
        _check_dataset,
        _check_input,
        _check_stop,
        _check_epochs,
    ),
    "train_images_per_second": (
        _check_throughput_flag,
        _check_real_device,
        _check_detector,
        _check_dataset,
        _check_input,
        _check_device_kind,
        _check_train_devices,
        _check_scope,
    ),
    "infer_images_per_second": (
        _check_throughput_flag,
        _check_real_device,
        _check_detector,
        _check_input,
        _check_device_kind,
        _check_infer_devices,
        _check_batch,
    ),
}
