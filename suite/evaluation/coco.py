"""COCO's twelve numbers for box detections, judged by pycocotools or its equal.

Ground truth is a COCO dictionary (images, annotations, categories); results are COCO's result list,
one dictionary a detection with image_id, category_id, bbox (xywh, pixels of the original image) and
score. Every image of the ground truth counts, those without annotations or detections included.
Numbers are fractions; `None` where the ground truth has nothing of the kind (pycocotools' -1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor

from suite.evaluation.columns import Columns, Floats, read_columns
from suite.evaluation.referees import (
    Referee,
    choose_referee,
    judge_by_hotcoco,
    judge_by_pycocotools,
)

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
        referee: who judged, with its version.
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
    referee: str

    def numbers(self) -> dict[str, float | None]:
        """Return the twelve numbers by name, what a record keeps."""
        return {field: getattr(self, field) for field, *_ in _METRICS}


def evaluate_coco(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    *,
    referee: Referee | None = None,
) -> Evaluation:
    """Score results against ground truth; neither argument is changed.

    Args:
        referee: who judges; None: hotcoco where it is installed, else pycocotools.

    Raises:
        InputError: a result names an unknown image or category, or its box or score is no number.
        MissingEnvironment: the referee is not installed.
    """
    return judge_columns(
        read_columns(ground_truth, results), ground_truth, results, referee=referee
    )


def judge_columns(
    columns: Columns,
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    *,
    referee: Referee | None = None,
) -> Evaluation:
    """Do what `evaluate_coco` does, for one who has read the columns of the same two already."""
    if choose_referee(referee) == "hotcoco":
        verdict = judge_by_hotcoco(columns)
    else:
        verdict = judge_by_pycocotools(ground_truth, results)
    twelve = {
        metric[0]: _none_if_absent(value)
        for metric, value in zip(_METRICS, verdict.stats, strict=True)
    }
    return Evaluation(
        **twelve,
        per_class_ap=_per_class_ap(verdict.precision, columns.class_names),
        num_images=len(ground_truth["images"]),
        num_detections=len(results),
        referee=verdict.referee,
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


def _none_if_absent(value: float) -> float | None:
    return None if value == -1 else value


def _per_class_ap(precision: Floats, names: Sequence[str]) -> dict[str, float | None]:
    return {
        name: _none_if_absent(float(precision[:, :, position].mean()))
        for position, name in enumerate(names)
    }


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
