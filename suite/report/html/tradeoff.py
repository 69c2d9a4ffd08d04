"""The section of latency against AP, of models for which both were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from suite.records import Record
from suite.report.entries import describe_detector, describe_devices
from suite.report.html.axes import linear_axis, log_axis
from suite.report.html.chart import Chart, Series, draw_lines, style_of
from suite.report.html.frame import Table, text
from suite.report.html.section import Numbered, Section, show_own, state, tell_way
from suite.report.layout import shorten

_LEAST_AP: Final = 4.0  # points on an axis; noise is not to look like a difference


def tradeoff_section(entries: Sequence[Numbered]) -> Section:
    """Return AP over latency of the models for which both are known, by data set and device."""
    groups: dict[tuple[str, str], list[tuple[Numbered, Numbered]]] = {}
    for number, entry in entries:
        record = entry.record
        judged = _find_judged(record, entries) if record["kind"] == "bench-infer" else None
        if judged and record["metrics"].get("latency_ms_p50"):
            place = (str(judged[1].record["subject"].get("dataset")), describe_devices(record))
            groups.setdefault(place, []).append(((number, entry), judged))
    return Section(
        key="tradeoff",
        heading="Latency against AP",
        lead="One dot a model, runtime and precision; to the upper left is better. AP and latency "
        "are of the same file by its sha256; a hollow dot has its AP from another precision.",
        parts=[_draw_tradeoff(*place, pairs) for place, pairs in groups.items()],
        remedy=(
            "suite eval MODEL; suite bench infer MODEL",
            "give one file both an AP and a latency",
        ),
    )


def _find_judged(record: Record, entries: Sequence[Numbered]) -> Numbered | None:
    """Return what was judged of the same file: of the same precision first, the latest first."""
    key = _file_key(record)
    found = [
        (number, entry)
        for number, entry in entries
        if entry.record["kind"] in ("eval", "train")
        and entry.record["metrics"].get("ap") is not None
        and key is not None
        and _file_key(entry.record) == key
        and entry.record["conditions"].get("postprocess") != "published"
    ]
    found.sort(key=lambda one: (_is_same_precision(record, one[1].record), one[0]))
    return found[-1] if found else None


def _file_key(record: Record) -> Any:
    subject = record["subject"]
    return subject.get("graph_sha256") or subject.get("checkpoint_sha256")


def _is_same_precision(one: Record, other: Record) -> bool:
    return bool(one["conditions"].get("precision") == other["conditions"].get("precision"))


def _draw_tradeoff(dataset: str, device: str, pairs: Sequence[tuple[Numbered, Numbered]]) -> Chart:
    points = [
        (float(timed.record["metrics"]["latency_ms_p50"]), 100 * judged.record["metrics"]["ap"])
        for (_, timed), (_, judged) in pairs
    ]
    detectors = list(dict.fromkeys(describe_detector(timed.record) for (_, timed), _ in pairs))
    series = [
        Series(
            name=f"{detector}{', AP of another precision' if hollow else ''}",
            points=[points[place] for place in places],
            style=style_of(detectors.index(detector)),
            line=False,
            dots=True,
            hollow=hollow,
            labels=[tell_way(pairs[place][0][1].record) for place in places],
        )
        for detector in detectors
        for hollow in (False, True)
        if (places := _places(pairs, detector, hollow=hollow))
    ]
    drawing = draw_lines(
        series,
        log_axis([x for x, _ in points], "median latency, ms"),
        linear_axis([y for _, y in points], "AP x 100", least=_LEAST_AP),
    )
    rows = [
        [text(describe_detector(timed.record)), text(tell_way(timed.record)),
         show_own(timed, "latency_ms_p50", number),
         show_own(judged, "ap", judged_number), text(state(judged.record, "precision"))]
        for (number, timed), (judged_number, judged) in pairs
    ]  # fmt: skip
    told = "; ".join(
        f"{describe_detector(timed.record)} {tell_way(timed.record)}: {x:.4g} ms, AP {y:.1f}"
        for ((_, timed), _), (x, y) in zip(pairs, points, strict=True)
    )
    return Chart(
        title=f"{shorten(dataset, 40)} on {device}",
        description=f"AP over median latency. {told}.",
        height=drawing.height,
        marks=drawing.marks,
        table=Table(label=f"Latency and AP on {device}", rows=rows, numbers=(2, 3),
                    titles=["detector", "runtime", "p50 ms", "AP", "AP measured in"]),
    )  # fmt: skip


def _places(
    pairs: Sequence[tuple[Numbered, Numbered]], detector: str, *, hollow: bool
) -> list[int]:
    return [
        place
        for place, ((_, timed), (_, judged)) in enumerate(pairs)
        if describe_detector(timed.record) == detector
        and _is_same_precision(timed.record, judged.record) is not hollow
    ]
