"""COCO's twelve numbers for box detections, with pycocotools as the referee.

Ground truth is a COCO dictionary (images, annotations, categories); results are COCO's result list,
one dictionary a detection with image_id, category_id, bbox (xywh, pixels of the original image) and
score. Every image of the ground truth counts, those without annotations or detections included.
Numbers are fractions; `None` where the ground truth has nothing of the kind (pycocotools' -1).
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torch import Tensor

from suite.errors import InputError, SuiteError
from suite.files import write_text

MAX_FILE_BYTES = 4 * 2**30
BOX_DECIMALS = 3
SCORE_DECIMALS = 6

# In the order of pycocotools' `stats`: field, printed name, IoU, area, detections per image, and
# the name in the "Eval results" line of the Ascend ModelZoo logs.
_METRICS = (
    ("ap", "AP", "0.50:0.95", "all", 100, "COCO/AP"),
    ("ap50", "AP50", "0.50", "all", 100, "COCO/AP50"),
    ("ap75", "AP75", "0.75", "all", 100, "COCO/AP75"),
    ("ap_small", "AP small", "0.50:0.95", "small", 100, "COCO/APs"),
    ("ap_medium", "AP medium", "0.50:0.95", "medium", 100, "COCO/APm"),
    ("ap_large", "AP large", "0.50:0.95", "large", 100, "COCO/APl"),
    ("ar1", "AR1", "0.50:0.95", "all", 1, "COCO/ARmax1"),
    ("ar10", "AR10", "0.50:0.95", "all", 10, "COCO/ARmax10"),
    ("ar100", "AR100", "0.50:0.95", "all", 100, "COCO/ARmax100"),
    ("ar_small", "AR small", "0.50:0.95", "small", 100, "COCO/ARs"),
    ("ar_medium", "AR medium", "0.50:0.95", "medium", 100, "COCO/ARm"),
    ("ar_large", "AR large", "0.50:0.95", "large", 100, "COCO/ARl"),
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What the referee says about one list of results.

    Attributes:
        ap: mean over IoU 0.50:0.95 and classes; small is below 32^2 pixels, large above 96^2.
        ar1: recall with at most that many detections per image.
        per_class_ap: class name -> `ap` of that class alone, in the order of the category ids.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class_ap: dict[str, float | None]
    num_images: int
    num_detections: int

    def numbers(self) -> dict[str, float | None]:
        """Return the twelve numbers by name, what a record keeps."""
        return {field: getattr(self, field) for field, *_ in _METRICS}


def evaluate_coco(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> Evaluation:
    """Score results against ground truth; neither argument is changed.

    Annotation ids are renumbered from 1 on the way in: pycocotools takes a match with annotation 0
    for no match, and duplicate ids for one box. An annotation without area counts with its box's.

    Raises:
        InputError: a result names an unknown image or category, or its box or score is no number.
    """
    _require_valid_results(ground_truth, results)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports progress by print
        referee = COCOeval(
            _index(ground_truth, map(_true_box, ground_truth["annotations"])),
            _index(ground_truth, map(_detected_box, results)),
            "bbox",
        )
        referee.evaluate()
        referee.accumulate()
        referee.summarize()
    twelve = {
        metric[0]: _none_if_absent(value)
        for metric, value in zip(_METRICS, referee.stats.tolist(), strict=True)
    }
    return Evaluation(
        **twelve,
        per_class_ap=_per_class_ap(referee, ground_truth["categories"]),
        num_images=len(ground_truth["images"]),
        num_detections=len(results),
    )


def detections_to_results(
    image_id: int,
    boxes_xyxy: Tensor | NDArray[Any],
    scores: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any],
    category_ids: Sequence[int],
) -> list[dict[str, Any]]:
    """Turn one image's detections into COCO results.

    Boxes are rounded to a thousandth of a pixel and scores to six decimals: small files, the order
    of nearly all float32 scores kept, and a written file evaluates to what was evaluated in memory.

    Args:
        boxes_xyxy: [D,4], pixels of the original image.
        scores: [D].
        labels: [D], positions in `category_ids`.
    """
    boxes = _float64(boxes_xyxy).reshape(-1, 4)
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    columns = zip(
        boxes_xywh.round(BOX_DECIMALS).tolist(),
        _float64(scores).round(SCORE_DECIMALS).tolist(),
        _float64(labels).astype(np.int64).tolist(),
        strict=True,
    )
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in columns
    ]


def format_evaluation(evaluation: Evaluation) -> str:
    """Render the twelve numbers and the AP of every class as tables, in percent."""
    numbers = evaluation.numbers()
    twelve = tabulate(
        [
            [name, iou, area, max_dets, _percent(numbers[field])]
            for field, name, iou, area, max_dets, _ in _METRICS
        ],
        headers=["metric", "IoU", "area", "max dets", "%"],
        colalign=("left", "left", "left", "right", "right"),
        disable_numparse=True,
    )
    counts = f"{evaluation.num_images} images, {evaluation.num_detections} detections"
    return f"{twelve}\n\n{_per_class_table(evaluation.per_class_ap)}\n\n{counts}"


def modelzoo_line(evaluation: Evaluation) -> str:
    """Render the line that the Ascend ModelZoo training logs end with; absent numbers are -1.0."""
    values = evaluation.numbers().values()
    named = {
        modelzoo_name: -1.0 if value is None else value
        for (*_, modelzoo_name), value in zip(_METRICS, values, strict=True)
    }
    return f"Eval results: {named}"


def load_ground_truth(path: Path) -> dict[str, Any]:
    """Read a COCO annotation file and check what the evaluation relies on.

    Raises:
        InputError: not a readable COCO annotation file; says where.
    """
    content = _load_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a COCO object, got {type(content).__name__}")
    for section in ("images", "annotations", "categories"):
        if not _is_list_of_objects(content.get(section)):
            raise InputError(f"{path}: {section}: expected a list of objects as in COCO's format")
    image_ids = _require_unique_ids(content["images"], f"{path}: images")
    category_ids = _require_unique_ids(content["categories"], f"{path}: categories")
    for index, category in enumerate(content["categories"]):
        name = category.get("name")
        if not (isinstance(name, str) and name.isprintable()):
            raise InputError(f"{path}: categories[{index}]: expected a name, got {name!r}")
    for index, annotation in enumerate(content["annotations"]):
        problem = _box_problem(annotation, image_ids, category_ids) or _region_problem(annotation)
        if problem is not None:
            raise InputError(f"{path}: annotations[{index}]: {problem}")
    return content


def load_results(path: Path) -> list[dict[str, Any]]:
    """Read a COCO result file; `evaluate_coco` checks its entries against the ground truth.

    Raises:
        InputError: not a readable JSON list of objects.
    """
    content = _load_json(path)
    if not _is_list_of_objects(content):
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


def _require_valid_results(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    image_ids = {image["id"] for image in ground_truth["images"]}
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for index, result in enumerate(results):
        problem = _box_problem(result, image_ids, category_ids)
        if problem is None and not _is_finite(result.get("score")):
            problem = f"score: expected a finite number, got {result.get('score')!r}"
        if problem is not None:
            raise InputError(f"results[{index}]: {problem}")


def _box_problem(entry: dict[str, Any], image_ids: set[Any], category_ids: set[Any]) -> str | None:
    image_id, category_id, bbox = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
    if not isinstance(image_id, Hashable) or image_id not in image_ids:
        return f"image_id: {image_id!r} is not an image of the ground truth"
    if not isinstance(category_id, Hashable) or category_id not in category_ids:
        return f"category_id: {category_id!r} is not a category of the ground truth"
    if not (isinstance(bbox, list | tuple) and len(bbox) == 4 and all(map(_is_finite, bbox))):
        return f"bbox: expected four finite numbers [x, y, width, height], got {bbox!r}"
    if bbox[2] < 0 or bbox[3] < 0:
        return f"bbox: expected a width and a height of at least 0, got {bbox!r}"
    return None


def _region_problem(annotation: dict[str, Any]) -> str | None:
    area, crowd = annotation.get("area", 0), annotation.get("iscrowd", 0)
    if not _is_finite(area):
        return f"area: expected a finite number, got {area!r}"
    return None if crowd in (0, 1) else f"iscrowd: expected 0 or 1, got {crowd!r}"


def _is_finite(value: object) -> bool:
    # A comparison instead of math.isfinite, which overflows on JSON's integers of any length.
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # mypy does not carry the first test over to the second.
    return is_number and -1e30 < value < 1e30  # type: ignore[operator]


def _index(ground_truth: dict[str, Any], boxes: Iterable[dict[str, Any]]) -> COCO:
    # Not `COCO.loadRes`, which fails on an empty list and writes into the caller's dictionaries.
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image["id"]} for image in ground_truth["images"]],
        "categories": [{"id": category["id"]} for category in ground_truth["categories"]],
        "annotations": [{**box, "id": number} for number, box in enumerate(boxes, start=1)],
    }
    coco.createIndex()
    return coco


def _true_box(annotation: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    return {
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": annotation["bbox"],
        "area": annotation.get("area", width * height),
        "iscrowd": annotation.get("iscrowd", 0),
    }


def _detected_box(result: dict[str, Any]) -> dict[str, Any]:
    _, _, width, height = result["bbox"]
    return {
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "bbox": result["bbox"],
        "area": width * height,
        "iscrowd": 0,
        "score": result["score"],
    }


def _none_if_absent(value: float) -> float | None:
    return None if value == -1 else value


def _per_class_ap(referee: COCOeval, categories: list[dict[str, Any]]) -> dict[str, float | None]:
    # precision: [IoU, recall, class, area, max dets]; first area: all sizes, last max dets: 100.
    precision = referee.eval["precision"][:, :, :, 0, -1]
    return {
        name: _none_if_absent(float(precision[:, :, position].mean()))
        for position, name in enumerate(_class_names(categories))
    }


def _class_names(categories: list[dict[str, Any]]) -> list[str]:
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [str(category.get("name", category["id"])) for category in ordered]
    uses = Counter(names)
    return [
        name if uses[name] == 1 else f"{name} ({category['id']})"
        for name, category in zip(names, ordered, strict=True)
    ]


def _float64(values: Tensor | NDArray[Any]) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _per_class_table(per_class_ap: dict[str, float | None]) -> str:
    pairs = [[name, _percent(value)] for name, value in per_class_ap.items()]
    num_columns = 1 if len(pairs) <= 20 else 4
    num_rows = -(-len(pairs) // num_columns)
    rows = [list(chain.from_iterable(pairs[row::num_rows])) for row in range(num_rows)]
    return tabulate(
        rows,
        headers=["class", "AP %"] * num_columns,
        colalign=("left", "right") * num_columns if rows else None,
        disable_numparse=True,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _load_json(path: Path) -> Any:
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise InputError(
                f"{path}: {num_bytes} bytes are more than the {MAX_FILE_BYTES} we read"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


def _is_list_of_objects(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(entry, dict) for entry in content)


def _require_unique_ids(entries: list[dict[str, Any]], place: str) -> set[int]:
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        entry_id = entry.get("id")
        if not isinstance(entry_id, int) or isinstance(entry_id, bool):
            raise InputError(f"{place}[{index}]: id: expected an integer, got {entry_id!r}")
        if entry_id in seen:
            raise InputError(f"{place}[{index}]: id {entry_id} is given twice")
        seen.add(entry_id)
    return seen
