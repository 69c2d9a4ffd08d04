"""The published rows as tables: one for each source, model and quality target.

What all rows of a table share stands once in its heading. Flags stand below it as numbered notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from suite.report.layout import clean, fit_table, format_ap, format_number, wrap_paragraph
from suite.report.reference import FIRST_GROUP, ReferenceRow

INTRODUCTION = (
    "AP is COCO AP x 100. train/s and infer/s are images a second of all devices of the row "
    "together; where a row describes a training, infer/s comes from a run of its own, mostly on "
    "one device. ms is the latency of inference, min the minutes of a training. A number in "
    "brackets points to a note below the table: such a figure is never a target."
)

_SEED_HEADING = "seed: the systems this project starts from"
_RIGHT = ("batch", "AP", "target", "min", "ms", "train/s", "infer/s")
_FLEXIBLE = ("backbone", "system", "prec.", "dataset")
# Columns that move into the heading when all rows agree, and how they read there.
_SHAREABLE = {
    "model": "{}",
    "backbone": "{}",
    "input": "{}",
    "dataset": "{}",
    "system": "{}",
    "prec.": "{}",
    "batch": "inference batch {}",
    "target": "target AP {}",
}
_VENDOR = re.compile(r"^(NVIDIA|Nvidia Tesla|Tesla) ")


@dataclass(frozen=True)
class Section:
    """The cells of one table by column title, its heading, and the notes below it."""

    heading: str
    cells: list[dict[str, str]]
    notes: list[str]


def render_catalogue(rows: Sequence[ReferenceRow]) -> str:
    """Return all rows as tables of at most 80 columns, in the order given."""
    parts = [wrap_paragraph(f"{len(rows)} rows. {INTRODUCTION}")]
    for section in build_sections(rows):
        table = fit_table(section.cells, right=_RIGHT, flexible=_FLEXIBLE)
        notes = [wrap_paragraph(note, hanging=4) for note in section.notes]
        parts.append("\n".join([wrap_paragraph(section.heading, hanging=2), table, *notes]))
    return "\n\n".join(parts) + "\n"


def build_sections(rows: Sequence[ReferenceRow]) -> list[Section]:
    """Group rows into tables: the seeds in one, the others by start of id, model and target."""
    groups: dict[tuple[object, ...], list[ReferenceRow]] = {}
    for row in rows:
        is_seed = row.group == FIRST_GROUP
        stop = row.ap and row.ap_target  # a run that stopped there is no run to another target
        key = (FIRST_GROUP,) if is_seed else (_prefix(row), row.model, stop)
        groups.setdefault(key, []).append(row)
    return [_build_section(group) for group in groups.values()]


def describe_system(row: ReferenceRow) -> str:
    """Return number and name of the devices, "?" for what the source omits; empty if both."""
    if not row.device and row.device_count is None:
        return ""
    return f"{row.device_count or '?'} x {shorten_device(row.device) or '?'}"


def shorten_device(name: str) -> str:
    """Return a device's name without its vendor, where the product alone is known to everyone."""
    return _VENDOR.sub("", name)


def _prefix(row: ReferenceRow) -> str:
    return row.row_id.rpartition("-")[0]


def _build_section(rows: Sequence[ReferenceRow]) -> Section:
    notes = _Notes()
    cells = [_build_cells(row, notes) for row in rows]
    if rows[0].group == FIRST_GROUP:
        told = [f"{row.row_id}: {clean(row.note)}" for row in rows]
        return Section(_SEED_HEADING, [_merge_detector(line) for line in cells], notes.texts + told)
    shared = [title for title in _SHAREABLE if _is_shared(title, cells)]
    facts = [_SHAREABLE[title].format(*_values(title, cells)) for title in shared]
    heading = f"{_prefix(rows[0])}: {', '.join(facts)}"
    return Section(heading, [_drop(line, shared) for line in cells], notes.texts)


def _build_cells(row: ReferenceRow, notes: _Notes) -> dict[str, str]:
    train, infer = row.train_images_per_second, row.infer_images_per_second
    cells = {
        "row": row.row_id,
        "model": row.model,
        "backbone": row.backbone,
        "input": row.input,
        "dataset": row.dataset,
        "system": describe_system(row),
        "prec.": row.precision,
        "batch": format_number(row.infer_batch),
        "AP": notes.mark(format_ap(row.ap), row.ap_flag),
        "target": format_ap(row.ap_target),
        "min": format_number(row.time_to_train_min),
        "ms": format_number(row.infer_latency_ms),
        "train/s": notes.mark(format_number(train), row.throughput_flag),
        "infer/s": notes.mark(format_number(infer), row.throughput_flag),
    }
    return {title: clean(text) for title, text in cells.items()}


def _merge_detector(line: dict[str, str]) -> dict[str, str]:
    merged = {"row": line["row"], "detector": f"{line['model']} {line['backbone']}"}
    return merged | _drop(line, ("row", "model", "backbone", "input", "dataset"))


def _is_shared(title: str, cells: Sequence[dict[str, str]]) -> bool:
    values = _values(title, cells)
    return len(values) == 1 and (title == "batch" or all(line[title] for line in cells))


def _values(title: str, cells: Sequence[dict[str, str]]) -> set[str]:
    return {line[title] for line in cells} - {""}


def _drop(line: dict[str, str], titles: Sequence[str]) -> dict[str, str]:
    return {title: cell for title, cell in line.items() if title not in titles}


class _Notes:
    """Numbers the distinct flags of a table in the order in which they first appear."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        return [f"[{number}] {text}" for text, number in self._numbers.items()]

    def mark(self, figure: str, flag: str) -> str:
        if not flag or not figure:
            return figure
        return f"{figure}[{self._numbers.setdefault(clean(flag), len(self._numbers) + 1)}]"
