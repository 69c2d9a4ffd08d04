"""Why AP is what it is: `eval/analysis.json`, schema ``suite.eval-analysis/1``.

One JSON object. A class is named by its position in ``classes``; fractions are 0 to 1; boxes are
xywh in pixels of the original image; null stands where there is nothing to measure.

- ``num_images``, ``num_detections`` (those COCO judges: the best 100 of a class in an image)
- ``iou`` (0.5), ``background_iou`` (0.1), ``min_score``: of ``confusion`` and ``worst_images``
- ``classes``: [{``id``, ``name``, ``true_boxes``, ``ap``, ``ap50``, ``ap75``}]
- ``errors``: {``ap50``; ``lost``: AP at IoU 0.5 that each kind of error costs (``localisation``,
  ``classification``, ``duplicate``, ``background``, ``both``, ``missed``, and the wider
  ``false_positive`` and ``false_negative``); ``counts`` by kind}, see `suite.evaluation.tide`
- ``confusion``: {``cells``: [[true class, class of the detection, count]], without the zeros; the
  position after the last class is the background}, see `suite.evaluation.confusion`
- ``curves``: {``recall``: 101 values; ``all`` and, by class, ``classes``: {``iou50``, ``iou75``,
  ``mean``: 101 precisions each; the mean is over the ten IoU thresholds}, null without true boxes}
- ``calibration``: {``bins``: [{``low``, ``high``, ``detections``, ``mean_score``, ``precision``}],
  ``d_ece``, ``d_ece_from_score`` (from ``min_score`` on)}, null where scores are no probabilities,
  see `suite.evaluation.calibration`
- ``worst_images``: [{``image_id``, ``true_boxes``, ``mistakes``, ``kinds``: count by kind, ``why``:
  the commonest, ``boxes``: [{``kind``, ``category_id``, ``bbox``, ``score``}], 50 at most}]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from tabulate import tabulate

from suite.errors import SuiteError
from suite.evaluation.calibration import measure_calibration
from suite.evaluation.columns import Floats
from suite.evaluation.confusion import count_confusions
from suite.evaluation.matching import BACKGROUND_IOU, IOU_THRESHOLDS, Matched
from suite.evaluation.precision import RECALLS, compute_precision, mean_precision
from suite.evaluation.tide import find_errors, measure_lost_ap
from suite.evaluation.worst import find_worst
from suite.files import write_text

SCHEMA: Final = "suite.eval-analysis/1"
ANALYSIS_PATH: Final = Path("eval", "analysis.json")
MIN_SCORE: Final = 0.3  # what `suite predict` draws
_DECIMALS: Final = 4  # of a precision in a curve
_NUM_SHOWN: Final = 3
_AT_75: Final = 5  # IoU 0.75


def analyse(matched: Matched, *, min_score: float = MIN_SCORE) -> dict[str, Any]:
    """Return what the module describes."""
    errors = find_errors(matched)
    ap50, lost = measure_lost_ap(matched, errors)
    precision = compute_precision(matched)
    return {
        "schema": SCHEMA,
        "num_images": len(matched.columns.image_ids),
        "num_detections": len(matched.found.score),
        "iou": float(IOU_THRESHOLDS[0]),
        "background_iou": BACKGROUND_IOU,
        "min_score": min_score,
        "classes": _describe_classes(matched, precision),
        "errors": {"ap50": ap50, "lost": lost, "counts": errors.counts()},
        "confusion": {"cells": count_confusions(matched, min_score=min_score).tolist()},
        "curves": _describe_curves(precision),
        "calibration": measure_calibration(matched, min_score=min_score),
        "worst_images": find_worst(matched, errors, min_score=min_score),
    }


def write_analysis(analysis: dict[str, Any], path: Path) -> None:
    """Write an analysis, whole or not at all.

    Raises:
        SuiteError: the place cannot be written to.
    """
    try:
        write_text(path, json.dumps(analysis, allow_nan=False, separators=(",", ":")))
    except OSError as error:
        raise SuiteError(f"{path}: the analysis cannot be written: {error.strerror}") from error


def format_analysis(analysis: dict[str, Any]) -> str:
    """Render what AP50 is lost by, the commonest confusions, the calibration, the worst images."""
    errors = analysis["errors"]
    rows = [
        [name.replace("_", " "), errors["counts"].get(name, ""), f"{100 * value:.2f}"]
        for name, value in errors["lost"].items()
    ]
    table = tabulate(
        rows,
        headers=["error", "number", "AP50 lost"],
        colalign=("left", "right", "right") if rows else None,
        disable_numparse=True,
    )
    return "\n".join([table, "", *_say_confusions(analysis), *_say_rest(analysis)])


def _describe_classes(matched: Matched, precision: Floats) -> list[dict[str, Any]]:
    columns, num_truth = matched.columns, matched.num_truth().tolist()
    return [
        {
            "id": int(columns.category_ids[label]),
            "name": name,
            "true_boxes": num_truth[label],
            "ap": mean_precision(precision[:, :, label]),
            "ap50": mean_precision(precision[0, :, label]),
            "ap75": mean_precision(precision[_AT_75, :, label]),
        }
        for label, name in enumerate(columns.class_names)
    ]


def _describe_curves(precision: Floats) -> dict[str, Any]:
    known = precision[0, 0] >= 0
    return {
        "recall": RECALLS.round(2).tolist(),
        "all": _describe_curve(precision[:, :, known].mean(axis=2)) if known.any() else None,
        "classes": [
            _describe_curve(precision[:, :, label]) if is_known else None
            for label, is_known in enumerate(known.tolist())
        ],
    }


def _describe_curve(precision: Floats) -> dict[str, list[float]]:
    curves = {"iou50": precision[0], "iou75": precision[_AT_75], "mean": precision.mean(axis=0)}
    return {name: np.round(curve, _DECIMALS).tolist() for name, curve in curves.items()}


def _say_confusions(analysis: dict[str, Any]) -> list[str]:
    names = [entry["name"] for entry in analysis["classes"]]
    cells = analysis["confusion"]["cells"]
    wrong = [c for c in cells if c[0] != c[1] and max(c[:2]) < len(names)]
    return [
        f"taken for another class: {names[true]} for {names[found]}, {count} times"
        for true, found, count in sorted(wrong, key=lambda cell: -cell[2])[:_NUM_SHOWN]
    ]


def _say_rest(analysis: dict[str, Any]) -> list[str]:
    lines = [
        f"worst image: {entry['image_id']}, {entry['mistakes']} mistakes, mostly {entry['why']}"
        for entry in analysis["worst_images"][:_NUM_SHOWN]
    ]
    calibration = analysis["calibration"]
    if calibration is None:
        return [*lines, "calibration: not measured, there are no scores from 0 to 1 alone"]
    return [*lines, f"calibration error (D-ECE, IoU 0.5): {calibration['d_ece']:.4f}"]
