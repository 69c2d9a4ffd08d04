"""TFRecord files of detection examples, read without TensorFlow.

The keys are those of the TF Object Detection API and of the MLPerf SSD data sets; all but
``image/encoded`` may be absent. `suite.data.formats.tf_detection` says what they mean, and how
normalised boxes become `_xywh` in pixels.

- Without ``image/height`` and ``image/width``, the size is that of the image as it is seen.
- Image ids are the ``image/source_id`` where all records have one and all are different decimal
  numbers, else the positions of the records, from 1.
- File names are the ``image/filename`` where all records have one, all are different and none leads
  out of a folder, else they are made of the position and the format of the bytes. Those that are
  not used are counted as dropped, and so are source ids, unless they repeat the name.
- With a label map, ``class/text`` decides, by name or display name; a label beside it must agree,
  and stands in for it where there is none. Without one, all objects must have both, one-to-one.

All checksums are looked at once, when the set is opened. A pass over the images then skips their
bytes; an `ImageFile` says where they lie in the record file, so training reads no others. Ranks
divide the samples, not the files: any number of ranks goes with any number of files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from suite.data.formats.annotated import (
    AnnotatedBox,
    AnnotatedImage,
    AnnotatedSet,
    Problem,
    Report,
    refuse,
)
from suite.data.formats.coco_items import parse_id
from suite.data.formats.containment import ContainedFolder, UnsafeName
from suite.data.formats.image_header import SUFFIXES, find_image_format, find_image_hw
from suite.data.formats.label_map import LabelMap
from suite.data.formats.record_file import RecordFile, find_record_files, scan_records
from suite.data.formats.tf_detection import ENCODED, DetectedObject, Detection, read_detection
from suite.data.formats.tf_example import BadExample, SplitExample, parse_features, split_example
from suite.data.sample import ImageFile
from suite.errors import InputError

_KEY: Final = ENCODED.encode()


@dataclass(frozen=True, slots=True)
class _Place:
    """A record: of which file, which of it, and which of all; both numbers from 1."""

    path: Path
    number: int
    position: int

    def __str__(self) -> str:
        return f"{self.path}: record {self.number}"

    def describe(self, error: BadExample, item: str = "") -> Problem:
        name = f"record {self.number}{item}"
        return Problem(error.rule, str(self.path), name, error.value, error.remedy)


@dataclass
class _Survey:
    """What the first pass over all records found.

    Attributes:
        files: each with the number of records before it.
        num_images: the records whose checksum is right.
        ids: all source_ids, as long as they can be the image ids.
        names: all filenames, as long as they can be the file names.
        num_ids, num_names: the records that state one; ids that repeat the name are not counted.
        classes: all pairs of label and text, each with the first record that has it.
        digest: over the features but the image, and the checksums.
        dropped: what the records say and no image or box can, by name, and how often.
        first_problem: None: each record could be used.
    """

    files: list[tuple[RecordFile, int]] = field(default_factory=list)
    num_images: int = 0
    ids: set[int] = field(default_factory=set)
    has_ids: bool = True
    names: set[str] = field(default_factory=set)
    has_names: bool = True
    num_ids: int = 0
    num_names: int = 0
    classes: dict[tuple[int | None, str], _Place] = field(default_factory=dict)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    dropped: Counter[str] = field(default_factory=Counter)
    first_problem: Problem | None = None

    def add(self, data: bytes, checksum: bytes, *, place: _Place, folder: ContainedFolder) -> None:
        """Take note of one record.

        Raises:
            BadExample: it is none.
        """
        self.num_images += 1
        split = split_example(BytesIO(data), len(data), key=_KEY)
        self.digest.update(split.features + checksum)
        detection = _read_parts(split)
        for item in detection.objects:
            self.classes.setdefault((item.label, item.text), place)
        self.dropped.update(detection.dropped)
        image_id, name = parse_id(detection.source_id), detection.file_name
        self.num_ids += detection.source_id not in ("", name)
        self.num_names += name != ""
        if self.has_ids:
            self.has_ids = image_id is not None and image_id not in self.ids
            self.ids.add(image_id or 0)
        if self.has_names:
            self.has_names = name not in self.names and _is_safe(name, folder)
            self.names.add(name)

    def finish(self) -> None:
        """Forget the ids and names, of which is known now whether they are used."""
        if self.num_ids and not self.has_ids:
            self.dropped["source_id of an image"] += self.num_ids
        if self.num_names and not self.has_names:
            self.dropped["filename of an image"] += self.num_names
        self.ids.clear()
        self.names.clear()

    def note(self, problem: Problem) -> None:
        """Take note of a problem."""
        self.first_problem = self.first_problem or problem


def read_tfrecord(
    pattern: Path, *, label_map: LabelMap | None = None, report: Report = refuse
) -> AnnotatedSet:
    """Read all files that a pattern matches, in the order of their names.

    Args:
        pattern: a file or, with wildcards in its last component, several: DIR/train2017*.
        label_map: which category id is which name; None: what labels and texts say together.
        report: called with damaged records before this returns, with others as `images` meets them.

    Raises:
        InputError: no file matches, or the categories cannot be known; by `report`, a record cannot
            be used.
    """
    survey = _make_survey(pattern, report)
    known = label_map or _learn_label_map(survey, pattern)
    names = "".join(f"{number} {name!a}\n" for number, name in known.category_names.items())
    survey.digest.update(names.encode())

    def images() -> Iterator[AnnotatedImage]:
        for record_file, num_before in survey.files:
            for number, length, file in record_file.walk():
                place = _Place(record_file.path, number, num_before + number)
                try:
                    split = split_example(file, length, key=_KEY)
                    detection = _read_parts(split)
                except BadExample as error:
                    report(place.describe(error))
                    continue
                name = detection.file_name if survey.has_names else _make_name(place, split)
                image = ImageFile(place.path, split.offset, split.length, name)
                image_hw = detection.image_hw or find_image_hw(image, report=report)
                if image_hw is None:
                    continue
                image_id = parse_id(detection.source_id) if survey.has_ids else None
                yield AnnotatedImage(
                    image_id=place.position if image_id is None else image_id,
                    file_name=name,
                    image=image,
                    image_hw=image_hw,
                    boxes=tuple(
                        _build_boxes(
                            detection.objects, image_hw, known=known, place=place, report=report
                        )
                    ),
                    extra=detection.extra,
                )

    return AnnotatedSet(
        known.category_names,
        survey.num_images,
        images,
        survey.digest.hexdigest(),
        survey.dropped,
    )


def _make_survey(pattern: Path, report: Report) -> _Survey:
    survey = _Survey()

    def report_damage(problem: Problem) -> None:
        survey.note(problem)
        report(problem)

    paths = find_record_files(pattern)
    folder = ContainedFolder(pattern.parent)
    num_records = 0
    for path in paths:
        num_before = num_records
        damaged = set()
        for record in scan_records(path, report=report_damage):
            num_records += 1
            if record.data is None:
                damaged.add(record.number)
                continue
            place = _Place(path, record.number, num_records)
            try:
                survey.add(record.data, record.checksum, place=place, folder=folder)
            except BadExample as error:  # reported when the images are read
                survey.note(place.describe(error))
        file = RecordFile(path, num_records - num_before, frozenset(damaged))
        survey.files.append((file, num_before))
    survey.finish()
    return survey


def _read_parts(split: SplitExample) -> Detection:
    features = parse_features(split.features)
    if not split.length:
        stated = "is not one byte string" if ENCODED in features else "is missing or empty"
        raise BadExample(f"{ENCODED} {stated}, so there is no image", rule="missing_image")
    return read_detection(features)


def _is_safe(name: str, folder: ContainedFolder) -> bool:
    try:
        folder.locate(name, source="")
    except UnsafeName:
        return False
    return PurePosixPath(name).as_posix() == name


def _make_name(place: _Place, split: SplitExample) -> str:
    head = ImageFile(place.path, split.offset, min(split.length, 12)).read()
    image_format = find_image_format(head)
    return f"{place.position:012d}{SUFFIXES.get(image_format, '.jpg')}"


def _build_boxes(
    objects: Iterable[DetectedObject],
    image_hw: tuple[int, int],
    *,
    known: LabelMap,
    place: _Place,
    report: Report,
) -> Iterator[AnnotatedBox]:
    for index, item in enumerate(objects, start=1):
        try:
            category_id = _find_category(item, known)
        except BadExample as error:
            report(place.describe(error, f", object {index}"))
            continue
        yield AnnotatedBox(
            box_id=0,
            category_id=category_id,
            box_xywh=item.box_xywh(image_hw),
            crowd=item.crowd,
            area=item.area,
            extra=item.extra,
        )


def _find_category(item: DetectedObject, known: LabelMap) -> int:
    if not item.text:
        if item.label is None or item.label not in known.category_names:
            stated = "nothing" if item.label is None else f"label {item.label}"
            raise BadExample(
                f"its class is stated as {stated}, which the label map does not have",
                rule="unknown_category",
            )
        return item.label
    category_id = known.id_of.get(item.text)
    if category_id is None:
        raise BadExample(
            f"class {item.text!r} is not in the label map",
            rule="unknown_category",
            remedy="add it there, or give the label map that the records were made with",
        )
    if item.label not in (None, category_id):
        raise BadExample(
            f"label {item.label} stands beside class {item.text!r}, which is {category_id} in the "
            "label map",
            rule="class_mismatch",
            remedy="give the label map that the records were made with",
        )
    return category_id


def _learn_label_map(survey: _Survey, pattern: Path) -> LabelMap:
    """Return what labels and texts say together, if they are one-to-one."""
    if not survey.classes:
        if survey.first_problem is not None:  # which may be why nothing was found
            raise InputError(str(survey.first_problem))
        raise InputError(
            f"{pattern}: no record holds an object, so there are no classes; give a label map"
        )
    names: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for (label, text), place in survey.classes.items():
        if label is None or not text:
            raise InputError(f"{place}: {_describe_half(label, text)}")
        if names.setdefault(label, text) != text:
            _refuse_both(survey.classes, (label, text), (label, names[label]))
        if id_of.setdefault(text, label) != label:
            _refuse_both(survey.classes, (label, text), (id_of[text], text))
    return LabelMap(dict(sorted(names.items())), id_of)


def _describe_half(label: int | None, text: str) -> str:
    """Say what is missing in a class of which not both parts are stated, and what to do."""
    if label is None and not text:
        return "an object has neither class/label nor class/text; state one of them or remove it"
    if label is None:
        return (
            f"class {text!r} stands without class/label; give a label map, which says the id of "
            "each name"
        )
    return (
        f"label {label} stands without class/text; give a label map: {label} may be a category id "
        "or a position among the classes, which is never guessed"
    )


def _refuse_both(
    classes: Mapping[tuple[int | None, str], _Place], later: tuple[int, str], first: tuple[int, str]
) -> NoReturn:
    """Raise InputError for two classes that have their label or their text in common."""
    shared, other, before = f"class {later[1]!r}", f"label {later[0]}", f"label {first[0]}"
    if later[0] == first[0]:
        shared, other, before = other, shared, f"class {first[1]!r}"
    raise InputError(
        f"{classes[later]}: {shared} stands with {other}, but with {before} in {classes[first]}; "
        "correct one of them or give the label map that is right"
    )
