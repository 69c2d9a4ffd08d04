"""Our records beside published rows, metric by metric, with a verdict or the reason there is none.

A verdict compares whole systems of the same device and number of devices. It is given only where
dataset, detector and input agree; anything else is "not comparable" with its reasons, the
weightiest first. A flagged figure is shown but never a target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from suite.records import Record
from suite.report.catalogue import describe_system
from suite.report.devices import device_kind, device_model, is_same_device
from suite.report.figures import Comparison, Figure, judge, own_figure
from suite.report.reference import ReferenceRow

Subject = Literal["ap", "train", "infer"]

# A nominal epoch may count other images than a real one (120,000 against 117,266 of COCO).
EPOCHS_TOLERANCE = 0.1

_DETECTOR_INPUTS = {"ssd_r34": "300x300", "retinanet_r50_fpn": "1333x800"}
# The batch is padded to a multiple of 32; the image inside is the same.
_PADDED_INPUTS = {"1344x800": "1333x800"}
_METRICS: dict[Subject, str] = {
    "ap": "ap",
    "train": "images_per_second",
    "infer": "images_per_second",
}
_SUBJECTS: dict[str, tuple[Subject, ...]] = {
    "train": ("ap", "train"),
    "eval": ("ap",),
    "bench-train": ("train",),
    "bench-infer": ("infer",),
}
COMPARED_KINDS = frozenset(_SUBJECTS)


def compare_record(record: Record, rows: Sequence[ReferenceRow]) -> list[Comparison]:
    """Set every metric of a record beside the rows of its detector and those it names itself.

    Where nobody published its detector, these are the rows of the same family, with another
    backbone: there is no verdict, and the reader sees why.

    Returns:
        By metric: rows that the record names first, then those with a verdict, then the others.
    """
    chosen = _choose_rows(record, rows)
    comparisons = []
    for subject in _SUBJECTS.get(record["kind"], ()):
        ours = own_figure(record, _METRICS[subject])
        if ours is None:
            continue
        found = [
            _compare_figure(record, row, subject=subject, ours=ours, theirs=theirs)
            for row in chosen
            if (theirs := published_figure(row, subject)) is not None
        ]
        found.sort(key=lambda comparison: (not comparison.named, bool(comparison.reasons)))
        comparisons += found
    return comparisons


def published_figure(row: ReferenceRow, subject: Subject) -> Figure | None:
    """Return a row's AP or throughput; a pure quality target counts as its AP."""
    if subject == "ap":
        ap = row.ap_target if row.ap is None else row.ap
        return None if ap is None else Figure(value=ap)
    if subject == "train":
        value, count, scope = row.train_images_per_second, row.device_count, row.train_scope
    else:
        value, count, scope = row.infer_images_per_second, row.infer_device_count, "global"
    if value is None:
        return None
    return Figure(value=value, per_device=_of_one_device(value, count, scope))


def _of_one_device(value: float, count: int | None, scope: str) -> float | None:
    if scope == "per_device":
        return value
    return value / count if scope == "global" and count else None


def _choose_rows(record: Record, rows: Sequence[ReferenceRow]) -> list[ReferenceRow]:
    detector = record["subject"].get("detector")
    if not detector:
        return [row for row in rows if _is_named(record, row)]
    known = any(row.detector == detector for row in rows)
    family = detector.partition("_")[0].lower()
    return [
        row
        for row in rows
        if _is_named(record, row)
        or row.detector == detector
        or (not known and _family(row) == family)
    ]


def _family(row: ReferenceRow) -> str:
    """Return ssd or retinanet of "SSD300 v1.1" or "RetinaNet": the letters it begins with."""
    return re.split(r"[^a-z]", row.model.lower())[0]


def _is_named(record: Record, row: ReferenceRow) -> bool:
    return row.row_id in (record["subject"].get("reference") or ())


def _compare_figure(
    record: Record, row: ReferenceRow, *, subject: Subject, ours: Figure, theirs: Figure
) -> Comparison:
    metric = _METRICS[subject]
    reasons = tuple(filter(None, (check(record, row) for check in _CHECKS[subject])))
    return Comparison(
        metric=metric,
        ours=ours,
        theirs=theirs,
        other=row.row_id,
        system=describe_system(row),
        row=row,
        named=_is_named(record, row),
        verdict="not comparable" if reasons else judge(metric, ours, theirs),
        reasons=reasons,
    )


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
    width = record["subject"].get("width") or 1
    return f"backbone width {width:g} against 1" if width != 1 else ""


def _check_dataset(record: Record, row: ReferenceRow) -> str:
    ours = record["subject"].get("dataset")
    if not ours:
        return "our dataset is not stated"
    same = _simplify(ours) == _simplify(row.dataset)
    return "" if same else f"dataset {ours} against {row.dataset}"


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _check_images(record: Record, _: ReferenceRow) -> str:
    return "our images are generated" if record["conditions"].get("images") == "generated" else ""


def _check_input(record: Record, row: ReferenceRow) -> str:
    ours = describe_input(record)
    if not row.input:
        return "published input not stated"
    return "" if ours == row.input else f"input {ours or 'not stated'} against {row.input}"


def describe_input(record: Record) -> str:
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


def _check_device(record: Record, row: ReferenceRow) -> str:
    kind = record["hardware"].get("device_kind") or "not stated"
    if not row.device:
        return "published device not stated"
    if device_kind(row.device) != kind:
        return f"device {kind} against {device_kind(row.device)}"
    ours = record["hardware"].get("device") or "not stated"
    if is_same_device(ours, row.device):
        return ""
    if not device_model(row.device):
        return f"published device only known as {row.device}"
    return f"device {ours} against {row.device}"


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


_CHECKS: dict[Subject, tuple[Callable[[Record, ReferenceRow], str], ...]] = {
    "ap": (
        _check_ap_flag,
        _check_detector,
        _check_dataset,
        _check_input,
        _check_stop,
        _check_epochs,
    ),
    "train": (
        _check_throughput_flag,
        _check_real_device,
        _check_detector,
        _check_dataset,
        _check_images,
        _check_input,
        _check_device,
        _check_train_devices,
        _check_scope,
    ),
    "infer": (
        _check_throughput_flag,
        _check_real_device,
        _check_detector,
        _check_dataset,
        _check_images,
        _check_input,
        _check_device,
        _check_infer_devices,
        _check_batch,
    ),
}
