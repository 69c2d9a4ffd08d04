"""Ground truth and results in COCO's JSON files, checked for what the evaluation relies on.

The rules for the entries of an annotation file are `suite.data.formats.coco_items`'; the evaluation
asks for more: boxes and scores are finite, sides at least 0. It asks for less of images: only ids.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from suite.data.formats.coco_items import (
    Json,
    find_box_problem,
    find_list_problem,
    is_id,
    parse_categories,
)
from suite.errors import InputError, SuiteError
from suite.files import read_bounded, write_text

MAX_FILE_BYTES: Final = 4 * 2**30
_LARGEST: Final = 1e30  # of any number in a box; its area is a float64 yet


def load_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO annotation file and check what the evaluation relies on.

    Raises:
        InputError: not a readable COCO annotation file; says where.
    """
    content = _load_json(path)
    problem = find_list_problem(content)
    if problem:
        raise InputError(f"{path}: not COCO: {problem}")
    names = parse_categories(content["categories"], source=str(path))
    for category_id, name in names.items():
        if not name.isprintable():
            raise InputError(
                f"{path}: category {category_id}: name must be printable, got {name!r}; correct it"
            )
    known = {"image_id": _require_image_ids(content["images"], path), "category_id": names}
    for index, annotation in enumerate(content["annotations"]):
        problem = _find_problem(annotation, known)
        if problem:
            raise InputError(f"{path}: annotations[{index}]: {problem}")
    truth: dict[str, Any] = content
    return truth


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a COCO result file; `evaluate_coco` checks its entries against the ground truth.

    Raises:
        InputError: not a readable JSON list of objects.
    """
    content = _load_json(path)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(f"{path}: expected a list of COCO results, got {type(content).__name__}")
    results: list[dict[str, Any]] = content
    return results


def write_results(results: list[dict[str, Any]], path: Path) -> None:
    """Write a COCO result file, whole or not at all; missing folders are created.

    Raises:
        SuiteError: the place cannot be written to.
    """
    text = json.dumps(results, allow_nan=False, separators=(",", ":"))
    try:
        write_text(path, text)
    except OSError as error:
        raise SuiteError(f"{path}: the results cannot be written: {error.strerror}") from error


def require_valid_results(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Raise InputError where a result is of no image or category, or a number of it is none."""
    known = {
        "image_id": {image["id"] for image in ground_truth["images"]},
        "category_id": {category["id"] for category in ground_truth["categories"]},
    }
    for index, result in enumerate(results):
        problem = _find_problem(result, known)
        if not problem and not _is_finite(result.get("score")):
            problem = f"score must be a finite number, got {result.get('score')!r}"
        if problem:
            raise InputError(f"results[{index}]: {problem}")


def _find_problem(entry: Json, known: Mapping[str, Container[int]]) -> str:
    _, problem = find_box_problem(entry, known)
    if problem:
        return problem
    box = entry["bbox"]
    if not all(map(_is_finite, box)):
        return f"bbox must be four finite numbers x, y, width, height, got {box!r}"
    if box[2] < 0 or box[3] < 0:
        return f"bbox must have a width and a height of at least 0, got {box!r}"
    return "" if _is_finite(entry.get("area", 0)) else f"area is too large: {entry['area']!r}"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _load_json(path: Path) -> Any:
    content = read_bounded(path, limit=MAX_FILE_BYTES, remedy="give a file in COCO's JSON")
    try:
        with _without_collecting():
            return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Let the garbage collector rest, which many new dictionaries wake again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _require_image_ids(entries: list[Json], path: Path) -> set[int]:
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        image_id = entry.get("id")
        if not is_id(image_id):
            raise InputError(f"{path}: images[{index}]: id must be an integer, got {image_id!r}")
        if image_id in seen:
            raise InputError(f"{path}: image {image_id}: its id stands 2 times or more in 'images'")
        seen.add(image_id)
    return seen
