"""The records of a report: finding, reading, naming and choosing them."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from suite.errors import UsageError
from suite.files import is_file
from suite.record_rules import SCHEMA
from suite.records import MAX_RECORD_BYTES, Record, expand, load_record
from suite.report.catalogue import shorten_device
from suite.report.figures import KNOWN_METRICS, Comparison
from suite.report.layout import clean

DEFAULT_RECORDS = (Path("runs"), Path("reports/records"))
_MAX_TOLD = 8


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A record, the name it goes by, and what a report says about it.

    Attributes:
        path: its file, which holds several where the record has rows.
        metrics: those that were asked for; empty stands for the usual ones.
        comparisons: None where none were asked for.
    """

    name: str
    path: Path
    record: Record
    metrics: tuple[str, ...] = ()
    comparisons: Sequence[Comparison] | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which records and metrics a report is about; empty means all.

    Attributes:
        models: patterns of detectors; a plain word is sought inside the name.
        devices: cpu, cuda, npu, or patterns of device names.
        metrics: names of metrics.
    """

    models: Sequence[str] = ()
    devices: Sequence[str] = ()
    metrics: Sequence[str] = ()


def load_entries(given: Sequence[str | Path]) -> list[Entry]:
    """Read the records in files, folders and patterns, oldest first.

    Args:
        given: none stands for `DEFAULT_RECORDS` below the working folder. In a folder every JSON
            file that holds a record counts, except the manifest of a start.

    Raises:
        UsageError: an argument names no record.
        InputError: a record is damaged.
    """
    entries = [entry for path in _find_records(given) for entry in _load_file(path)]
    return sorted(entries, key=lambda entry: entry.record["created"])


def select_entries(entries: Sequence[Entry], selection: Selection) -> list[Entry]:
    """Return the entries that a selection is about.

    Raises:
        UsageError: there are entries, but none like that.
    """
    check_metrics(selection.metrics, entries)
    chosen = [one for one in entries if _matches(selection.models, _detectors(one.record))]
    if entries and not chosen:
        there = (name for one in entries for name in _detectors(one.record))
        _refuse("--model", selection.models, there)
    left = [one for one in chosen if _matches(selection.devices, _device_names(one.record))]
    if chosen and not left:
        names = (describe_devices(one.record) for one in chosen)
        _refuse("--device", selection.devices, names)
    having = [one for one in left if _has_metric(one, selection.metrics)]
    if left and not having:
        _refuse("--metric", selection.metrics, (name for one in left for name in _measured(one)))
    return having


def check_metrics(names: Iterable[str], entries: Sequence[Entry]) -> None:
    """Refuse a name that neither this suite nor any of the records knows.

    Raises:
        UsageError: with the known names.
    """
    known = {*KNOWN_METRICS, *(name for entry in entries for name in entry.record["metrics"])}
    for name in names:
        if name not in known:
            told = ", ".join(clean(one)[:40] for one in sorted(known))
            raise UsageError(f"{name}: no such metric; known are {told}")


def is_same_entry(one: Entry, other: Entry) -> bool:
    """Whether two entries are one record, however its file was named."""
    return one.path.absolute() == other.path.absolute() and one.name == other.name


def describe_devices(record: Record) -> str:
    """Return number and name of a record's devices."""
    hardware = record["hardware"]
    name = shorten_device(hardware.get("device") or "?")
    simulated = " (simulated)" if record["conditions"].get("simulated") else ""
    return f"{hardware.get('device_count') or '?'} x {name}{simulated}"


def describe_detector(record: Record) -> str:
    """Return the name of a record's detector, of both where it compares two."""
    return " / ".join(_detectors(record))


def compared_sides(record: Record) -> list[dict[str, Any]]:
    """Return what a `bench-compare` record says of its sides a and b; nothing of other records."""
    if record["kind"] != "bench-compare":
        return []
    sides = (record["subject"].get(name) for name in ("a", "b"))
    return [side if isinstance(side, dict) else {} for side in sides]


def _find_records(given: Sequence[str | Path]) -> list[Path]:
    if not given:
        return sorted(path for folder in DEFAULT_RECORDS for path in _find_in_folder(folder))
    found: set[Path] = set()
    for argument in given:
        paths = _find_argument(Path(argument))
        if not paths:
            raise UsageError(
                f"{argument}: no record here (a record is JSON with schema '{SCHEMA}')"
            )
        found.update(paths)
    return sorted(found)


def _find_argument(path: Path) -> list[Path]:
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's raises for names that none can have
        return _find_in_folder(path)
    if is_file(path):
        return [path]
    # Path.glob takes no absolute pattern.
    found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - see above
    files = [one for one in found if is_file(one) and _is_record(one)]
    return files + [one for folder in found if folder.is_dir() for one in _find_in_folder(folder)]


def _find_in_folder(folder: Path) -> list[Path]:
    visible = (path for path in folder.rglob("*.json") if not path.name.startswith("."))
    return [path for path in visible if path.is_file() and _is_record(path)]


def _is_record(path: Path) -> bool:
    """Whether a file counts as a record, sound or not; all others are somebody else's."""
    if path.match("record*.json"):
        return True
    if path.stat().st_size > MAX_RECORD_BYTES:
        return False
    content = path.read_bytes()
    if f'"{SCHEMA}"'.encode() not in content:
        return False
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return True  # damaged: loading it says how
    wanted = isinstance(document, dict) and document.get("schema") == SCHEMA
    return wanted and document.get("kind") != "manifest"


def _load_file(path: Path) -> list[Entry]:
    record, name = load_record(path), _name_record(path)
    if not record.get("rows"):
        return [Entry(name=name, path=path, record=record)]
    rows = enumerate(expand(record), start=1)
    return [Entry(name=f"{name}#{number}", path=path, record=row) for number, row in rows]


def _name_record(path: Path) -> str:
    """Name a record by its run folder, or by its file where a folder holds several."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    elif path.is_absolute():
        path = Path(path.parent.name, path.name)
    name = path.parent if path.name == "record.json" else path.with_suffix("")
    return name.as_posix()


def _matches(patterns: Sequence[str], names: Collection[str]) -> bool:
    if not patterns:
        return True
    return any(_is_like(name, pattern) for pattern in patterns for name in names)


def _is_like(name: str, pattern: str) -> bool:
    if not any(sign in pattern for sign in "*?["):
        pattern = f"*{pattern}*"
    return fnmatch.fnmatchcase(name.lower(), pattern.lower())


def _detectors(record: Record) -> list[str]:
    subject = record["subject"]
    names = [side.get("detector") for side in (subject, *compared_sides(record))]
    return [name for name in dict.fromkeys(names) if isinstance(name, str)]


def _has_metric(entry: Entry, wanted: Sequence[str]) -> bool:
    return not wanted or not _measured(entry).isdisjoint(wanted)


def _measured(entry: Entry) -> set[str]:
    return {name for name, value in entry.record["metrics"].items() if value is not None}


def _device_names(record: Record) -> list[str]:
    hardware = record["hardware"]
    return [str(hardware.get(name) or "") for name in ("device", "device_kind")]


def _refuse(flag: str, patterns: Sequence[str], names: Iterable[str]) -> NoReturn:
    there = sorted({clean(name)[:60] for name in names} - {""})
    more = f" and {len(there) - _MAX_TOLD} more" if len(there) > _MAX_TOLD else ""
    told = ", ".join(there[:_MAX_TOLD]) or "none stated"
    raise UsageError(f"{flag} {' '.join(patterns)}: no record like that; there are: {told}{more}")
