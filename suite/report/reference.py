"""Published results that ours are compared with, read from a folder of CSV files.

One file holds the rows of one group of sources and its name is the group; ``seed.csv``, the two
systems this project starts from, comes first. README.md in that folder explains every column.

Units: AP as a fraction, throughput in images a second, latency in milliseconds, time in minutes.
An empty cell means that the source does not say.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from suite.errors import InputError

Scope = Literal["global", "per_device", "unknown"]
Trust = Literal["verbatim", "partly_derived", "derived", "flagged"]

FIRST_GROUP = "seed"
MAX_FILE_BYTES = 4 * 1024 * 1024

_CHOICES = {
    "train_scope": ("", "global", "per_device", "unknown"),
    "trust": ("verbatim", "partly_derived", "derived", "flagged"),
}
_REQUIRED = ("row_id", "model", "dataset", "source", "trust")
_COUNTS = ("device_count", "infer_device_count", "infer_batch", "global_batch")
_FRACTIONS = ("ap", "ap_target")
_MEASURES = (
    *_FRACTIONS,
    "epochs",
    "train_images_per_second",
    "time_to_train_min",
    "train_memory_gb",
    "infer_images_per_second",
    "infer_latency_ms",
)
_NUMBERS = (*_COUNTS, *_MEASURES)
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?")
_COUNT = re.compile(r"[1-9]\d{0,8}")
_ROW_ID = re.compile(r"[a-z0-9_]+-\d{3,}")
_SOURCE = re.compile(r"[\w.-]+/[\w.-]+@[\w.-]+:.+")


@dataclass(frozen=True, kw_only=True)
class ReferenceRow:
    """One published result: what was measured on what, and how far to trust it."""

    group: str
    row_id: str
    detector: str
    model: str
    backbone: str
    input: str
    dataset: str
    framework: str
    device: str
    device_count: int | None
    precision: str
    epochs: float | None
    global_batch: int | None
    ap: float | None
    ap_target: float | None
    ap_flag: str
    train_images_per_second: float | None
    train_scope: Scope | Literal[""]
    train_basis: str
    time_to_train_min: float | None
    train_memory_gb: float | None
    infer_images_per_second: float | None
    infer_latency_ms: float | None
    infer_batch: int | None
    infer_device_count: int | None
    infer_basis: str
    throughput_flag: str
    source: str
    trust: Trust
    note: str


COLUMNS = tuple(field.name for field in fields(ReferenceRow) if field.name != "group")


def load_reference(folder: Path) -> list[ReferenceRow]:
    """Read every CSV file of a folder, the seeds first, then the groups by name.

    Raises:
        InputError: the first mistake, as ``file:line: column: what is wrong``.
    """
    paths = sorted(folder.glob("*.csv"), key=lambda path: (path.stem != FIRST_GROUP, path.stem))
    if not paths:
        raise InputError(f"{folder}: no reference rows here (expected files such as seed.csv)")
    rows: list[ReferenceRow] = []
    places: dict[str, str] = {}
    for path in paths:
        for line, row in _load_group(path):
            place = f"{path.name}:{line}"
            if row.row_id in places:
                raise InputError(
                    f"{path}:{line}: row_id: '{row.row_id}' is also in {places[row.row_id]}"
                )
            places[row.row_id] = place
            rows.append(row)
    return rows


def _load_group(path: Path) -> list[tuple[int, ReferenceRow]]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows: list[tuple[int, ReferenceRow]] = []
    try:
        _check_header(next(reader, []), path)
        for cells in reader:
            place = f"{path}:{reader.line_num}"
            rows.append((reader.line_num, _parse_row(cells, group=path.stem, place=place)))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a CSV line: {error}") from error
    return rows


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path}: {size} bytes is more than the {MAX_FILE_BYTES} allowed")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _check_header(header: list[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown:
        raise InputError(f"{path}:1: wrong columns: missing {missing}, unknown {unknown}")
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}:1: columns out of order, expected {','.join(COLUMNS)}")


def _parse_row(cells: list[str], *, group: str, place: str) -> ReferenceRow:
    if len(cells) != len(COLUMNS):
        raise InputError(f"{place}: {len(cells)} cells, expected {len(COLUMNS)}")
    values: dict[str, Any] = {}
    for name, cell in zip(COLUMNS, cells, strict=True):
        problem = _cell_problem(name, cell)
        if problem:
            raise InputError(f"{place}: {name}: {problem}, got {cell!r}")
        values[name] = _parse_number(name, cell) if name in _NUMBERS else cell
    row = ReferenceRow(group=group, **values)
    problem = _row_problem(row)
    if problem:
        raise InputError(f"{place}: {problem}")
    return row


def _cell_problem(name: str, cell: str) -> str:
    if cell != cell.strip() or not cell.isprintable():
        return "expected one line without spaces around it"
    if not cell:
        return "must not be empty" if name in _REQUIRED else ""
    if name in _NUMBERS:
        return _number_problem(name, cell)
    if name in _CHOICES and cell not in _CHOICES[name]:
        return f"expected one of {', '.join(filter(None, _CHOICES[name]))}"
    if name == "row_id" and not _ROW_ID.fullmatch(cell):
        return "expected a group, a dash and three digits, such as 'ascend-008'"
    if name == "source" and not _SOURCE.fullmatch(cell):
        return "expected owner/repository@commit:path"
    return ""


def _number_problem(name: str, cell: str) -> str:
    if name in _COUNTS:
        return "" if _COUNT.fullmatch(cell) else "expected a whole number above 0"
    if not _NUMBER.fullmatch(cell) or float(cell) <= 0:
        return "expected a number above 0"
    if name in _FRACTIONS and float(cell) > 1:
        return "expected a fraction (36.5 is written 0.365)"
    return ""


def _parse_number(name: str, cell: str) -> float | int | None:
    if not cell:
        return None
    return int(cell) if name in _COUNTS else float(cell)


def _row_problem(row: ReferenceRow) -> str:
    if (row.train_images_per_second is None) != (row.train_scope == ""):
        return "train_scope: to be given exactly where train_images_per_second is"
    if bool(row.ap_flag or row.throughput_flag) != (row.trust == "flagged"):
        return "trust: 'flagged' exactly where ap_flag or throughput_flag holds a reason"
    if row.ap_flag and row.ap is None:
        return "ap_flag: there is no ap to flag"
    if row.throughput_flag and not (row.train_images_per_second or row.infer_images_per_second):
        return "throughput_flag: there is no throughput to flag"
    return ""
