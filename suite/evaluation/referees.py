"""Who computes COCO's twelve numbers: pycocotools, or hotcoco with the same numbers sooner.

hotcoco (the extra `fast`) is a port to Rust whose numbers are those of pycocotools bit for bit;
the tests hold it to that. pycocotools stays the referee where the two should ever differ.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from suite.errors import MissingEnvironment
from suite.evaluation.columns import Columns, Floats

Referee = Literal["pycocotools", "hotcoco"]
REFEREES: Final[tuple[Referee, ...]] = ("pycocotools", "hotcoco")
INSTALLED: Final = importlib.util.find_spec("hotcoco") is not None
if INSTALLED:
    import hotcoco


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a referee says.

    Attributes:
        stats: the twelve numbers in the order of pycocotools; -1 where there is nothing to judge.
        precision: [IoU, recall, class], of all sizes and 100 detections an image; -1 likewise.
        referee: its name and version.
    """

    stats: list[float]
    precision: Floats
    referee: str


def choose_referee(name: Referee | None) -> Referee:
    """Return who judges: the one named, else the fast one where it is installed.

    Raises:
        MissingEnvironment: hotcoco is asked for and not installed.
    """
    if name == "hotcoco" and not INSTALLED:
        raise MissingEnvironment(
            '--referee hotcoco: not installed; run: pip install "npu-detection-suite[fast]"'
            ", or leave the flag out"
        )
    return name or ("hotcoco" if INSTALLED else "pycocotools")


def judge_by_pycocotools(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> Verdict:
    """Judge by the reference implementation; it sees the dictionaries, not our columns.

    Annotation ids are renumbered from 1 on the way in: pycocotools takes a match with annotation 0
    for no match, and duplicate ids for one box. An annotation without area counts with its box's.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports progress by print
        judge = COCOeval(
            _index(ground_truth, map(_true_box, ground_truth["annotations"])),
            _index(ground_truth, map(_detected_box, results)),
            "bbox",
        )
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return _read_verdict(judge, "pycocotools")


def judge_by_hotcoco(columns: Columns) -> Verdict:
    """Judge by hotcoco, which takes arrays."""
    truth, found = columns.truth, columns.found
    known = hotcoco.COCO.from_arrays(
        [{"id": number} for number in range(1, len(columns.image_ids) + 1)],
        [{"id": number, "name": str(number)} for number in range(1, len(columns.category_ids) + 1)],
        truth.image + 1,
        truth.label + 1,
        truth.xywh,
        area=truth.area,
        iscrowd=truth.is_crowd.astype(np.int64),
    )
    table = np.column_stack([found.image + 1, found.xywh, found.score, found.label + 1])
    with contextlib.redirect_stdout(io.StringIO()):
        judge = hotcoco.COCOeval(known, known.load_res(table), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return _read_verdict(judge, "hotcoco")


def _read_verdict(judge: Any, name: Referee) -> Verdict:
    # precision: [IoU, recall, class, area, max dets]; first area: all sizes, last max dets: 100.
    return Verdict(
        stats=np.asarray(judge.stats).tolist(),
        precision=np.asarray(judge.eval["precision"])[:, :, :, 0, -1],
        referee=f"{name} {metadata.version(name)}",
    )


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
