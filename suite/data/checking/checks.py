"""The whole check of one or two splits: annotations, pictures, the splits against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tabulate import tabulate

from suite.data.checking.anchors import REACHED_IOU, build_detector_anchors
from suite.data.checking.annotations import Expectations, Scan, scan_annotations
from suite.data.checking.findings import Detail, Findings, format_findings, make_printable
from suite.data.checking.ground_truth import check_ground_truth
from suite.data.checking.pictures import Progress, Unusable, check_pictures
from suite.data.formats import Location, open_annotated
from suite.recipe import Recipe

_NUM_WORST: Final = 5

ShowProgress = Callable[[int, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        locations: split name -> where it lies.
        scans: split name -> what its annotations hold.
        findings: all of them.
        unusable: pictures that a corrected set leaves out.
    """

    locations: Mapping[str, Location]
    scans: Mapping[str, Scan]
    findings: Findings
    unusable: Unusable


def check_splits(
    locations: Mapping[str, Location],
    *,
    findings: Findings | None = None,
    recipe: Recipe | None = None,
    decode: bool = True,
    workers: int = 0,
    show: ShowProgress | None = None,
) -> Check:
    """Check one split, or the splits train and val of a set, in this order.

    Args:
        locations: split name -> where it lies.
        findings: what is found is added here as it is found; None: to new ones.
        recipe: whose detector and data section the set is held against.
        decode: also decode every image.
        workers: processes that decode; 0: this one.
        show: from a total and a label to a context that yields what is called with (done, total).

    Raises:
        InputError: the annotations of a split are missing, of another format or without categories.
    """
    show = show or _show_nothing
    findings = findings or Findings()
    expectations = Expectations(
        detectors=build_detector_anchors(recipe),
        use_crowd=None if recipe is None else recipe.data.use_crowd,
    )
    scans = {}
    for name, location in locations.items():
        annotated = open_annotated(location, report=findings.report_to(name))
        with show(annotated.num_images, f"{name}: annotations") as progress:
            scans[name] = scan_annotations(
                annotated, name, expectations=expectations, findings=findings, progress=progress
            )
    _compare_classes(scans, findings)
    if recipe is not None:
        _compare_class_count(scans, recipe.detector.num_classes, findings)
        truth = recipe.data.val.ground_truth
        if truth is not None and "val" in scans:
            check_ground_truth(Path(recipe.data.root) / truth, scans["val"], "val", findings)
    pictures = [picture for scan in scans.values() for picture in scan.pictures]
    with show(len(pictures), "images") as progress:
        unusable = check_pictures(
            pictures, decode=decode, workers=workers, findings=findings, progress=progress
        )
    return Check(locations, scans, findings, unusable)


def format_check(check: Check) -> str:
    """Return the table of findings, and one of what the anchors reach."""
    rows = []
    for split, row in _iterate_reaches(check):
        worst = ", ".join(f"{name} {share:.1%}" for name, share in row["worst_classes"].items())
        counts = [row["detector"], row["boxes"], row["unreached"], f"{row['share']:.2%}"]
        rows.append([split, *counts, make_printable(worst)])
    headers = ["split", "detector", "boxes", f"no anchor at IoU {REACHED_IOU}", "share", "worst"]
    return f"{format_findings(check.findings)}\n\n{tabulate(rows, headers=headers)}"


def to_json(check: Check) -> dict[str, Any]:
    """Return the findings, each with its file and id, and the counts, as plain data."""
    splits = {
        name: {
            "annotations": str(check.locations[name].annotations),
            "images": scan.num_images,
            "boxes": scan.num_boxes,
            "crowd": scan.num_crowd,
            "anchors": [row for split, row in _iterate_reaches(check) if split == name],
        }
        for name, scan in check.scans.items()
    }
    return {
        "splits": splits,
        "limit_per_rule": check.findings.limit,
        "rules": check.findings.summary(),
        "findings": [asdict(finding) for finding in check.findings.kept],
    }


def _iterate_reaches(check: Check) -> list[tuple[str, dict[str, Any]]]:
    return [
        (
            split,
            {
                "detector": detector,
                "boxes": reach.boxes_of_class.total(),
                "unreached": reach.unreached_of_class.total(),
                "share": reach.share,
                "worst_classes": {
                    scan.category_names[category_id]: share
                    for category_id, share in reach.worst_classes(_NUM_WORST)
                },
            },
        )
        for split, scan in check.scans.items()
        for detector, reach in scan.reaches.items()
    ]


def _compare_classes(scans: Mapping[str, Scan], findings: Findings) -> None:
    if len(scans) < 2:
        return
    (first, train), (second, val) = list(scans.items())[:2]
    differing = dict(train.category_names).items() ^ dict(val.category_names).items()
    for category_id, name in sorted(differing):
        place = first if train.category_names.get(category_id) == name else second
        findings.add(
            "error",
            "classes_differ",
            Detail("", f"category {category_id}", f"{name} only in {place}"),
            split="",
            consequence="training stops: labels would mean different classes in the two splits",
        )


def _compare_class_count(scans: Mapping[str, Scan], num_classes: int, findings: Findings) -> None:
    for split, scan in scans.items():
        found = len(scan.category_names)
        if found != num_classes:
            names = ", ".join(list(scan.category_names.values())[:5])
            more = f" and {found - 5} more" if found > 5 else ""
            findings.add(
                "error",
                "class_count",
                Detail("", "detector.num_classes",
                       f"{num_classes}, the data has {found}: {names}{more}"),
                split=split,
                consequence=f"training and evaluation stop; set detector.num_classes to {found}",
            )  # fmt: skip


def _show_nothing(_total: int, _label: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda *_: None)
