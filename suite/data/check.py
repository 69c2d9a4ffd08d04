"""What is wrong with a dataset, found before a long run meets it.

A finding is an ``error`` (training or evaluation would stop or mean nothing), a ``warning`` (they
would run on something other than a person expects) or a ``note``. What repeats for many boxes is
one finding, with their number and a few examples.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from suite.data.coco import locate_boxes, stack_boxes_xyxy
from suite.data.images import ImageSizeError, read_image
from suite.data.repair import repair_boxes
from suite.data.sample import Dataset, Sample
from suite.errors import InputError
from suite.files import file_sha256

Severity = Literal["error", "warning", "note"]
Progress = Callable[[int, int], None]

_NUM_EXAMPLES: Final = 3
_MAX_ROWS_PER_RULE: Final = 20
_BOX_RULES: Final[dict[str, tuple[Severity, str]]] = {
    "not_finite": ("warning", "dropped in training; evaluation can never match them"),
    "degenerate": ("warning", "dropped in training; evaluation can never match them"),
    "outside": ("warning", "dropped in training; evaluation can never match them"),
    "clipped": ("note", "cut at the image's edge in training; evaluation keeps them whole"),
    "tiny": ("warning", "kept, but a box of one pixel is rarely meant"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know about a dataset.

    Attributes:
        severity: error, warning or note.
        rule: its short name, the same for all findings of a kind.
        file: the file it is about; empty where it is about the whole dataset.
        item: the image, annotation or class in question, or how many there are.
        value: what was found.
        consequence: what happens if nothing is done.
    """

    severity: Severity
    rule: str
    file: str
    item: str
    value: str
    consequence: str


def check_dataset(
    dataset: Dataset, *, decode: bool, progress: Progress | None = None
) -> list[Finding]:
    """Look for missing and damaged images, repaired boxes, duplicates, and classes without boxes.

    Args:
        dataset: one split.
        decode: also decode every image, which takes about as long as an epoch of reading.
        progress: called with (images done, images) after each image.
    """
    findings = []
    for index, sample in enumerate(dataset.samples, start=1):
        finding = _check_image(sample, expected_hw=sample.image_hw if decode else None)
        if finding:
            findings.append(finding)
        if progress:
            progress(index, len(dataset.samples))
    findings += _check_boxes(dataset)
    findings += _check_duplicates(dataset)
    findings += _check_counts(dataset)
    return findings


def check_splits(train: Dataset, val: Dataset) -> list[Finding]:
    """Compare two splits: their classes must agree, and no image should be in both."""
    findings = []
    classes_of_train = dict(zip(train.category_ids, train.class_names, strict=True))
    classes_of_val = dict(zip(val.category_ids, val.class_names, strict=True))
    if classes_of_train != classes_of_val:
        differing = sorted(classes_of_train.items() ^ classes_of_val.items())
        shown = _join([f"{category_id} {name}" for category_id, name in differing])
        message = "labels would mean different classes in training and evaluation"
        findings.append(Finding("error", "classes_differ", "", "train and val", shown, message))
    for path, twin in _find_same_content(train, val):
        message = "evaluation would measure memory of training images"
        findings.append(Finding("warning", "in_both_splits", str(path), "", str(twin), message))
    return findings


def check_class_count(dataset: Dataset, num_classes: int) -> list[Finding]:
    """Compare the classes of the data with those of the detector, `detector.num_classes`."""
    found = len(dataset.class_names)
    if found == num_classes:
        return []
    value = f"{num_classes}, the data has {found}: {_join(dataset.class_names)}"
    message = f"training and evaluation stop; set detector.num_classes to {found}"
    return [Finding("error", "class_count", "", "detector.num_classes", value, message)]


def check_crowd(dataset: Dataset, *, use_crowd: bool) -> list[Finding]:
    """Count the crowd boxes (VOC: `difficult`) of the training split and say what becomes of them.

    Args:
        dataset: the training split.
        use_crowd: `data.use_crowd` of the recipe.
    """
    counts = [int(sample.crowd.sum()) for sample in dataset.samples]
    if not any(counts):
        return []
    item = _count(sum(counts), "box", many="boxes")
    value = f"in {_count(sum(map(bool, counts)), 'image', many='images')}"
    becomes = "trained on like all others" if use_crowd else "not trained on"
    message = f"{becomes}, as data.use_crowd is {str(use_crowd).lower()}"
    return [Finding("note", "crowd", "", item, value, message)]


def format_findings(findings: Sequence[Finding]) -> str:
    """Return a table, errors first; of each rule at most 20 rows, then how many more there are."""
    if not findings:
        return "no findings"
    rows = []
    by_rule: dict[tuple[int, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        severity_rank = ("error", "warning", "note").index(finding.severity)
        by_rule[severity_rank, finding.rule].append(finding)
    for _, group in sorted(by_rule.items()):
        rows += [_to_row(finding) for finding in group[:_MAX_ROWS_PER_RULE]]
        if len(group) > _MAX_ROWS_PER_RULE:
            rest = f"and {len(group) - _MAX_ROWS_PER_RULE} more"
            rows.append([group[0].severity, group[0].rule, rest, "", "", ""])
    headers = ["severity", "rule", "file", "item", "value", "consequence"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def _check_image(sample: Sample, *, expected_hw: tuple[int, int] | None) -> Finding | None:
    path, item = sample.path, f"image {sample.image_id}"
    stops = "training and evaluation stop at this image"
    if not path.is_file():
        return Finding("error", "missing_image", str(path), item, "no such file", stops)
    if expected_hw is None:
        return None
    try:
        read_image(path, expected_hw=expected_hw)
    except ImageSizeError as error:
        return Finding("error", "size_mismatch", str(path), item, _cause(error, path), stops)
    except InputError as error:
        return Finding("error", "undecodable_image", str(path), item, _cause(error, path), stops)
    return None


def _cause(error: InputError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").partition(";")[0]


def _check_boxes(dataset: Dataset) -> Iterable[Finding]:
    annotations = dataset.coco["annotations"]
    boxes_xyxy = stack_boxes_xyxy(annotations)
    owner, hw = locate_boxes(dataset.coco)
    repaired = repair_boxes(boxes_xyxy, hw)
    masks = repaired.masks | {"tiny": _find_tiny(repaired.boxes_xyxy, repaired.keep)}
    for rule, (severity, consequence) in _BOX_RULES.items():
        rows = np.flatnonzero(masks[rule])
        if not rows.size:
            continue
        examples = [
            f"annotation {annotations[row]['id']} of {dataset.samples[owner[row]].path.name}: "
            f"xywh {annotations[row]['bbox']} in {hw[row, 1]} x {hw[row, 0]}"
            for row in rows[:_NUM_EXAMPLES]
        ]
        file = str(dataset.samples[owner[rows[0]]].path)
        value = "; ".join(examples)
        yield Finding(
            severity, rule, file, _count(rows.size, "box", many="boxes"), value, consequence
        )


def _find_tiny(boxes_xyxy: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
    tiny = np.zeros(keep.shape, np.bool_)
    tiny[keep] = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] <= 1).all(axis=1)
    return tiny


def _check_duplicates(dataset: Dataset) -> Iterable[Finding]:
    owners: dict[Path, list[int]] = defaultdict(list)
    for sample in dataset.samples:
        owners[sample.path].append(sample.image_id)
    for path, image_ids in owners.items():
        if len(image_ids) > 1:
            shown = _join([str(image_id) for image_id in image_ids])
            message = "the file is trained on and evaluated more than once"
            item = _count(len(image_ids), "image", many="images")
            yield Finding("warning", "duplicate_image", str(path), item, f"ids {shown}", message)


def _check_counts(dataset: Dataset) -> Iterable[Finding]:
    empty = [sample.path.name for sample in dataset.samples if not sample.labels.size]
    if empty:
        item = _count(len(empty), "image", many="images")
        message = "not trained on; in evaluation every detection there is wrong"
        yield Finding("note", "no_boxes", "", item, _join(empty), message)
    labels = np.concatenate([sample.labels for sample in dataset.samples])
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    unseen = [name for name, count in zip(dataset.class_names, counts, strict=True) if not count]
    if unseen:
        item = _count(len(unseen), "class", many="classes")
        message = "cannot be learned from this split, and has no AP in it"
        yield Finding("warning", "class_without_boxes", "", item, _join(unseen), message)


def _find_same_content(train: Dataset, val: Dataset) -> Iterable[tuple[Path, Path]]:
    # Only files of equal size are read: a large dataset is compared without reading it whole.
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted({sample.path for sample in train.samples if sample.path.is_file()}):
        by_size[path.stat().st_size].append(path)
    digest_of = functools.cache(file_sha256)
    for path in sorted({sample.path for sample in val.samples if sample.path.is_file()}):
        for candidate in by_size.get(path.stat().st_size, []):
            if digest_of(path) == digest_of(candidate):
                yield path, candidate
                break


def _count(number: int, one: str, *, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _join(names: Sequence[str]) -> str:
    rest = len(names) - 5
    return ", ".join(names[:5]) + (f" and {rest} more" if rest > 0 else "")


def _to_row(finding: Finding) -> list[str]:
    columns = (finding.file, finding.item, finding.value, finding.consequence)
    return [finding.severity, finding.rule, *map(_make_printable, columns)]


def _make_printable(text: str) -> str:
    # Names come from annotation files, and a terminal obeys control characters.
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
