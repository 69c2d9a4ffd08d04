"""What stands beside a record: curves of a training, an analysis, pictures.

Of a run folder, where the record is `record.json`: `metrics.jsonl`, `eval/analysis.json`, and the
drawings of `suite predict --output RUN_FOLDER`, which are `predict-*/*.jpg`. Of any other record
`NAME.json`: `NAME.metrics.jsonl`, `NAME.analysis.json`, and `NAME.pictures/*.jpg`. No path is taken
from a record, and what a link leads to outside of the record's folder is not there.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Final

from suite.files import is_file

NUM_PICTURES: Final = 12  # of one record
_MOST_LISTED: Final = 10_000
_RUN_RECORD: Final = "record.json"


def find_metrics(record: Path) -> Path | None:
    """Return the file of a training's curves, None where there is none."""
    return _find(record, "metrics.jsonl", "metrics.jsonl")


def find_analysis(record: Path) -> Path | None:
    """Return the file of an evaluation's analysis, None where there is none."""
    return _find(record, "eval/analysis.json", "analysis.json")


def find_pictures(record: Path) -> list[Path]:
    """Return the first pictures by name, `NUM_PICTURES` at most."""
    folder = record.parent
    if record.name == _RUN_RECORD:
        pattern = "predict-*/*.jpg"
    else:
        folder, pattern = folder / f"{record.stem}.pictures", "*.jpg"
    found = sorted(islice(folder.glob(pattern), _MOST_LISTED))
    return [path for path in found if _is_inside(path, record.parent)][:NUM_PICTURES]


def _find(record: Path, in_run: str, ending: str) -> Path | None:
    name = in_run if record.name == _RUN_RECORD else f"{record.stem}.{ending}"
    path = record.parent / name
    return path if _is_inside(path, record.parent) else None


def _is_inside(path: Path, folder: Path) -> bool:
    return is_file(path) and path.resolve().is_relative_to(folder.resolve())
