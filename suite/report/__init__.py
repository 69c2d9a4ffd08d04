"""The verb `report`: our records as tables, beside published results where asked for."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.records import MAX_RECORD_BYTES, SCHEMA, load_record
from suite.report.compare import COMPARED_KINDS, compare_record
from suite.report.reference import ReferenceRow, load_reference
from suite.report.render import Entry, render_json, render_markdown, render_table

DEFAULT_RECORDS = (Path("runs"), Path("reports/records"))
DEFAULT_OUTPUTS = (Path("reports/report.md"), Path("runs/report.md"))

_RENDERERS: dict[str, Callable[[Sequence[Entry], Sequence[ReferenceRow]], str]] = {
    "table": render_table,
    "markdown": render_markdown,
    "json": render_json,
}


def report(
    records: Sequence[str | Path],
    *,
    compare: str | None,
    reference_folder: Path,
    output: Path | None,
    output_format: Literal["table", "markdown", "json"],
) -> str:
    """Return a report on records; without any record it lists the published results.

    A Markdown version is written to `output`. Without `output` and with records it goes to
    reports/report.md if there is a folder reports/, else to runs/report.md if there is a folder
    runs/, else nowhere.

    Args:
        records: Files, folders or glob patterns; none stands for `DEFAULT_RECORDS` below the
            working folder. In a folder every JSON file that holds a record counts, except the
            manifest of a start.
        compare: "reference" sets each record beside the published rows of its detector.
        reference_folder: The folder of published rows.
        output: Where the Markdown version goes, a name that ends in ``.md``.
        output_format: Form of the returned text.

    Raises:
        UsageError: An argument is wrong or names no file.
        InputError: A record or a reference file is damaged or not ours.
    """
    _check_arguments(compare, output)
    rows = load_reference(reference_folder)
    entries = [_load_entry(path, rows if compare else None) for path in _find_records(records)]
    entries.sort(key=lambda entry: entry.record["created"])
    text = _RENDERERS[output_format](entries, rows)
    target = output or (_default_output() if entries else None)
    if target is None:
        return text
    _write_markdown(render_markdown(entries, rows), target)
    return f"{text}\nWritten: {target}\n" if output_format == "table" else text


def _check_arguments(compare: str | None, output: Path | None) -> None:
    if compare not in (None, "reference"):
        raise UsageError(f"--compare {compare}: unknown comparison; known is 'reference'")
    if output is not None and output.suffix != ".md":
        raise UsageError(f"--output {output}: the report is Markdown; give a name ending in .md")


def _default_output() -> Path | None:
    return next((path for path in DEFAULT_OUTPUTS if path.parent.is_dir()), None)


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
    if path.is_dir():
        return _find_in_folder(path)
    if path.is_file():
        return [path]
    # Path.glob takes no absolute pattern.
    found = glob.glob(str(path), recursive=True)  # noqa: PTH207
    return [Path(name) for name in found]


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


def _load_entry(path: Path, rows: Sequence[ReferenceRow] | None) -> Entry:
    record = load_record(path)
    wanted = rows is not None and record["kind"] in COMPARED_KINDS
    return Entry(_name_record(path), record, compare_record(record, rows or ()) if wanted else None)


def _name_record(path: Path) -> str:
    """Name a record by its run folder, or by its file where a folder holds several."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    elif path.is_absolute():
        path = Path(path.parent.name, path.name)
    name = path.parent if path.name == "record.json" else path.with_suffix("")
    return name.as_posix()


def _write_markdown(text: str, target: Path) -> None:
    try:
        write_text(target, text)
    except OSError as error:
        raise SuiteError(f"{target}: the report cannot be written: {error.strerror}") from error
