"""The footnotes: how each number came about, and where published ones stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from suite.records import Record
from suite.report.entries import Entry, describe_devices
from suite.report.figures import format_metric
from suite.report.html.frame import Table, render_details, render_table, text
from suite.report.html.section import Numbered, name_entry, state
from suite.report.layout import format_number, shorten
from suite.report.reference import ReferenceRow
from suite.report.render import tell_records

_LONG = 400  # characters of a command or a note


def render_sources(entries: Sequence[Numbered]) -> str:
    """Return a footnote for each record."""
    told = tell_records([entry for _, entry in entries])
    notes = "".join(
        _render_source(number, entry, line)
        for (number, entry), line in zip(entries, told, strict=True)
    )
    return f'<ol class="sources">\n{notes}</ol>\n'


def render_row_sources(rows: Iterable[ReferenceRow]) -> str:
    """Return a footnote for each published row."""
    notes = "".join(f'<li id="row-{text(row.row_id)}">{_tell_row(row)}</li>\n' for row in rows)
    return f"<ul>\n{notes}</ul>\n"


def _render_source(number: int, entry: Entry, line: str) -> str:
    record = entry.record
    told = line.partition(": ")[2].removeprefix(entry.name)
    facts = [
        ("", f"<b>{text(shorten(entry.name, 120))}</b>{text(shorten(told, 2 * _LONG))}"),
        ("command", f"<code>{text(shorten(record['command'], _LONG))}</code>"),
        ("date", text(record["created"])),
        ("hardware", text(_tell_hardware(record))),
        ("software", text(_tell_software(record))),
        ("commit", text(_tell_commit(record))),
        ("measured", text(_tell_measurement(record))),
    ]
    lines = "<br>\n".join(f"{name}{': ' if name else ''}{told}" for name, told in facts if told)
    figures = render_table(
        Table(
            label=f"All figures of {name_entry(entry)}",
            titles=["figure", "value"],
            rows=[
                [text(shorten(name, 60)), _show(name, value)]
                for name, value in sorted(record["metrics"].items())
            ],
            numbers=(1,),
        )
    )
    details = render_details("All figures", figures, kind="optional") if record["metrics"] else ""
    return f'<li id="source-{number}">{lines}\n{details}</li>\n'


def _show(name: str, value: float | None) -> str:
    return "not measured" if value is None else text(format_metric(name, value))


def _tell_hardware(record: Record) -> str:
    hardware = record["hardware"]
    facts = [describe_devices(record)]
    if hardware.get("cpu") and hardware.get("device") != hardware["cpu"]:
        facts.append(shorten(hardware["cpu"], 60))
    if hardware.get("cores"):
        facts.append(f"{hardware['cores']} cores")
    memory = hardware.get("memory_bytes")
    if isinstance(memory, int | float) and memory > 0:
        facts.append(shorten(f"{memory / 2**30:.0f} GiB memory", 40))
    return ", ".join(facts)


def _tell_software(record: Record) -> str:
    known = (
        f"{shorten(name, 30)} {shorten(version, 60)}"
        for name, version in sorted(record["software"].items())
        if version
    )
    return ", ".join(known)


def _tell_commit(record: Record) -> str:
    git: dict[str, Any] = record["git"] or {}
    if not git.get("commit"):
        return "not known"
    changed = ", with changes that were not committed" if git.get("dirty") else ""
    return f"{shorten(git['commit'], 40)}{changed}"


def _tell_measurement(record: Record) -> str:
    conditions = record["conditions"]
    names = ("n", "warmup", "batch", "global_batch", "val_images", "seed", "threads")
    facts = [
        f"{name.replace('_', ' ')} {shorten(conditions[name], 30)}"
        for name in names
        if conditions.get(name) is not None
    ]
    told = state(record, "precision", "runtime")
    scope = state(record, "scope").replace("_", " ")
    window = shorten(conditions.get("window") or "", 200)
    return "; ".join(filter(None, [", ".join(facts), told, scope and f"scope {scope}", window]))


def _tell_row(row: ReferenceRow) -> str:
    facts = (row.model, row.backbone, row.dataset, row.input, row.framework, row.device)
    notes = [
        row.train_basis and f"training: {row.train_basis}",
        row.infer_basis and f"inference: {row.infer_basis}",
        row.ap_flag and f"AP flagged: {row.ap_flag}",
        row.throughput_flag and f"throughput flagged: {row.throughput_flag}",
        row.note,
    ]
    epochs = f"{format_number(row.epochs)} epochs" if row.epochs else ""
    about = ", ".join(filter(None, (*facts, epochs)))
    told = "; ".join(shorten(note, _LONG) for note in notes if note)
    trust = row.trust.replace("_", " ")
    return (
        f"<b>{text(row.row_id)}</b> {text(about)}. Source: {text(row.source)} ({text(trust)})"
        f"{'. ' + text(told) if told else ''}"
    )
