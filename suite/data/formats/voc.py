"""Pascal VOC folders: one XML file an image, one list of images a split.

A root holds ``Annotations/<stem>.xml``, ``ImageSets/Main/<image_set>.txt`` (one stem a line) and
``JPEGImages/<stem>.jpg`` (or .jpeg, .png, or what the XML's ``filename`` says). Pixels in the files
are 1-based and inclusive, so a box becomes `_xywh` = (xmin - 1, ymin - 1, xmax - xmin + 1, ...).

A `difficult` object becomes a crowd region: pycocotools overwrites ``ignore`` by ``iscrowd``, so
only this makes it neither demanded nor counted wrong. Image ids are what ``image_id`` in the files
says where all say one (the suite's own do), else positions, from 1, in the sorted image set.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from suite.data.formats.annotated import (
    AnnotatedBox,
    AnnotatedImage,
    AnnotatedSet,
    Problem,
    Report,
    refuse,
)
from suite.data.formats.containment import ContainedFolder, UnsafeName
from suite.data.formats.image_header import find_image_hw
from suite.data.formats.voc_xml import VocAnnotation, WrongXml, parse_annotation
from suite.data.sample import ImageFile
from suite.errors import InputError
from suite.files import read_bounded

MAX_XML_BYTES: Final = 16 * 1024**2
_ADD_XML: Final = "add it or take the image out of the image set"
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def read_voc(
    image_set: Path,
    image_folder: Path,
    *,
    category_names: Mapping[int, str] | None = None,
    report: Report = refuse,
) -> AnnotatedSet:
    """Read one image set of a VOC folder; images are opened only where an XML lacks their size.

    Args:
        image_set: ROOT/ImageSets/Main/NAME.txt.
        image_folder: ROOT/JPEGImages.
        category_names: category id -> name. None: the sorted names of all files of Annotations,
            from 1, so that every image set of a root agrees.
        report: called with each file or object that cannot be used, as `images` meets it.

    Raises:
        InputError: a folder or the list is missing or unusable; by `report`, an entry is.
    """
    root = image_set.parent.parent.parent / "Annotations"
    stems, list_bytes = _read_stems(image_set, report)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder of annotations; check the dataset's root")
    folder = ContainedFolder(root)
    names, digest, stated_ids = _scan(folder, stems, everything=category_names is None)
    if category_names is None:
        category_names = dict(enumerate(names, start=1))
    category_id_of = {name: category_id for category_id, name in category_names.items()}
    images = ContainedFolder(image_folder)
    dropped: Counter[str] = Counter()

    def iterate() -> Iterator[AnnotatedImage]:
        dropped.clear()
        for position, stem in enumerate(stems, start=1):
            annotation = _load_annotation(folder, stem, report)
            if annotation is None:
                continue
            file = _locate_image(images, stem, annotation, report)
            if file is None:
                continue
            image_hw = annotation.image_hw or find_image_hw(ImageFile(file), report=report)
            if image_hw is None:
                continue
            dropped.update(annotation.dropped)
            yield AnnotatedImage(
                image_id=position if not stated_ids else annotation.image_id or 0,
                file_name=file.relative_to(image_folder).as_posix(),
                image=ImageFile(file),
                image_hw=image_hw,
                boxes=_build_boxes(annotation, category_id_of, report),
            )

    whole = _hash([*(name.encode() for name in category_names.values()), list_bytes, digest])
    return AnnotatedSet(category_names, len(stems), iterate, whole, dropped)


def require_plain_name(name: str, described: str) -> None:
    """Raise InputError where a name has folders in it or cannot be a file name."""
    if not name or name != PurePath(name).name or "\\" in name or "\0" in name or name == "..":
        raise InputError(f"{described} must be a plain name, without folders")


def _read_stems(path: Path, report: Report) -> tuple[list[str], bytes]:
    content = read_bounded(
        path, limit=MAX_XML_BYTES, remedy="check the dataset's root and set name"
    )
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error}); it must list one stem a line"
        ) from error
    uses = Counter(line for line in lines if line)
    if not uses:
        raise InputError(f"{path}: lists no image")
    for stem, count in uses.items():
        require_plain_name(stem, f"{path}: {stem!r}")
        if count > 1:
            value, remedy = f"{stem!r} is listed {count} times", "list every image once"
            report(Problem("duplicate_image", str(path), "", value, remedy))
    return sorted(uses), content


def _scan(
    folder: ContainedFolder, stems: Sequence[str], *, everything: bool
) -> tuple[list[str], bytes, bool]:
    """Return the class names, a digest of the listed files, and whether all state an id.

    Args:
        everything: also take the class names of files that are not listed.
    """
    names: set[str] = set()
    ids: set[int | None] = set()
    digest = hashlib.sha256()
    for stem in stems:
        try:
            path = _locate_xml(folder, stem)
            content = _read_xml(path)
            annotation = parse_annotation(path, content, _ignore)
        except (InputError, WrongXml):  # reported when the images are read
            continue
        digest.update(len(content).to_bytes(8, "big") + content)
        names.update(item.name for item in annotation.objects)
        ids.add(annotation.image_id)
    if everything:
        names |= _find_other_names(folder, set(stems))
        if not names:
            raise InputError(f"{folder.root}: no file holds an object, so there are no classes")
    return sorted(names), digest.digest(), len(ids - {None}) == len(stems)


def _find_other_names(folder: ContainedFolder, listed: set[str]) -> set[str]:
    names: set[str] = set()
    for stem in sorted(path.stem for path in folder.root.glob("*.xml")):
        if stem not in listed:
            try:
                path = _locate_xml(folder, stem)
                others = parse_annotation(path, _read_xml(path), _ignore).objects
            except (InputError, WrongXml):
                continue
            names.update(item.name for item in others)
    return names


def _ignore(_problem: Problem) -> None:
    """Take no notice of a problem that another pass reports."""


def _locate_xml(folder: ContainedFolder, stem: str) -> Path:
    return folder.locate(f"{stem}.xml", source=str(folder.root))


def _read_xml(path: Path) -> bytes:
    return read_bounded(path, limit=MAX_XML_BYTES, remedy=_ADD_XML)


def _load_annotation(folder: ContainedFolder, stem: str, report: Report) -> VocAnnotation | None:
    try:
        path = _locate_xml(folder, stem)
    except UnsafeName as error:
        report(Problem("unsafe_name", str(folder.root), "", error.reason, error.remedy))
        return None
    if not path.exists():
        report(Problem("missing_annotation", str(path), "", "no such file", _ADD_XML))
        return None
    try:
        content = _read_xml(path)
    except InputError as error:
        value = str(error).removeprefix(f"{path}: ").partition(";")[0]
        remedy = "replace it or take the image out of the image set"
        report(Problem("invalid_annotation", str(path), "", value, remedy))
        return None
    try:
        return parse_annotation(path, content, report)
    except WrongXml as error:
        report(Problem("invalid_annotation", str(path), error.item, error.value, error.remedy))
        return None


def _locate_image(
    folder: ContainedFolder, stem: str, annotation: VocAnnotation, report: Report
) -> Path | None:
    source = str(annotation.path)
    names = [stem + suffix for suffix in _SUFFIXES]
    if annotation.filename:
        names.append(annotation.filename.strip())
    try:
        for name in names:
            path = folder.locate(name, source=source)
            if path.is_file():
                return path
    except UnsafeName as error:
        report(Problem("unsafe_name", source, "", error.reason, error.remedy))
        return None
    return folder.root / names[0]


def _build_boxes(
    annotation: VocAnnotation, category_id_of: Mapping[str, int], report: Report
) -> tuple[AnnotatedBox, ...]:
    boxes = []
    for item in annotation.objects:
        if item.name not in category_id_of:
            known = ", ".join(category_id_of)
            value = f"class {item.name!r} is unknown"
            report(
                Problem("unknown_category", str(annotation.path), "", value, f"known are {known}")
            )
            continue
        category_id = category_id_of[item.name]
        boxes.append(
            AnnotatedBox(0, category_id, item.box_xywh, crowd=item.difficult, extra=item.extra)
        )
    return tuple(boxes)


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
