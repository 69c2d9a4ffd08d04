"""The COCO file that a recipe has val judged by, held against the data as training does first."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from suite.data.assembly import Subjects, compare_ground_truth
from suite.data.checking.annotations import Scan
from suite.data.checking.findings import Detail, Findings
from suite.data.formats.annotated import Problem
from suite.data.formats.coco import read_coco
from suite.errors import InputError

_STOPS: Final = "training and evaluation stop"


def check_ground_truth(path: Path, scan: Scan, split: str, findings: Findings) -> None:
    """Find what keeps `path` from being read, and from being about the images of a split."""

    def add(rule: str, item: str, value: str, remedy: str) -> None:
        detail = Detail(str(path), item, value)
        consequence = f"{_STOPS}; {remedy}"
        findings.add("error", rule, detail, split=split, consequence=consequence)

    def report(problem: Problem) -> None:
        add(problem.rule, problem.item, problem.value, problem.remedy)

    try:
        truth = read_coco(path, path.parent, report=report)
    except InputError as error:
        value, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        add("ground_truth", "", value, remedy or "correct data.val.ground_truth")
        return
    judged = Subjects(truth.category_names, {image.image_id for image in truth.images()})
    seen = {picture.image_id for picture in scan.pictures} | scan.repeated
    for rule, value, remedy in compare_ground_truth(judged, Subjects(scan.category_names, seen)):
        add(rule, "", value, remedy)
