"""Pascal VOC folders to a `Dataset`.

A root holds ``Annotations/<stem>.xml``, ``ImageSets/Main/<image_set>.txt`` (one stem a line) and
``JPEGImages/<stem>.jpg`` (or .jpeg, .png, or what the XML's ``filename`` says). Pixels in the files
are 1-based and inclusive, so a box becomes `_xyxy` = (xmin - 1, ymin - 1, xmax, ymax).

A `difficult` object becomes a crowd region and, in `Dataset.coco`, ``iscrowd`` 1: pycocotools
overwrites ``ignore`` by ``iscrowd``, so only this makes it neither demanded nor counted wrong.
Image ids are positions, from 1, in the sorted image set; category ids are label + 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final
from xml.etree import ElementTree

from suite.data.coco import MAX_SIDE, assemble_dataset
from suite.data.containment import ContainedFolder, read_bounded
from suite.data.images import read_image_hw
from suite.data.sample import Dataset
from suite.errors import InputError

MAX_XML_BYTES: Final = 16 * 1024**2
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Object:
    name: str
    difficult: bool
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Annotation:
    """One XML file; `image_hw` is None where it does not say."""

    path: Path
    filename: str | None
    image_hw: tuple[int, int] | None
    objects: tuple[_Object, ...]


def load_voc(root: Path, *, image_set: str, class_names: tuple[str, ...] | None = None) -> Dataset:
    """Load one image set of a VOC folder; images are opened only where an XML lacks their size.

    Args:
        root: the folder above Annotations, ImageSets and JPEGImages.
        image_set: name of a list in ImageSets/Main, without ``.txt``.
        class_names: label -> name. None: the sorted names of all files of Annotations, so that
            every image set of a root agrees.

    Raises:
        InputError: a file is missing, damaged or hostile, or names an unknown class.
    """
    stems, list_bytes = _read_stems(root, image_set)
    contents = {stem: _read_xml(root, stem) for stem in stems}
    annotations = [_parse(_xml_path(root, stem), contents[stem]) for stem in stems]
    if class_names is None:
        class_names = _find_class_names(root, contents, annotations=annotations)
    folder = ContainedFolder(root / "JPEGImages")
    paths = [
        _locate_image(folder, stem, annotation=item)
        for stem, item in zip(stems, annotations, strict=True)
    ]
    coco = _build_coco(annotations, paths, image_root=folder.root, class_names=class_names)
    digest = _hash([*(name.encode() for name in class_names), list_bytes, *contents.values()])
    return assemble_dataset(coco, paths=paths, digest=digest)


def _read_stems(root: Path, image_set: str) -> tuple[list[str], bytes]:
    _require_plain(image_set, f"image set {image_set!r}")
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    content = read_bounded(
        path, limit=MAX_XML_BYTES, remedy="check the dataset's root and set name"
    )
    try:
        lines = [line.strip() for line in content.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error}); it must list one stem a line"
        ) from error
    stems = sorted(line for line in lines if line)
    if not stems:
        raise InputError(f"{path}: lists no image")
    for stem, following in zip(stems, [*stems[1:], ""], strict=True):
        _require_plain(stem, f"{path}: {stem!r}")
        if stem == following:
            raise InputError(f"{path}: {stem!r} is listed twice; list every image once")
    return stems, content


def _require_plain(name: str, described: str) -> None:
    if not name or name != PurePath(name).name or "\\" in name or "\0" in name or name == "..":
        raise InputError(f"{described} must be a plain name, without folders")


def _xml_path(root: Path, stem: str) -> Path:
    return root / "Annotations" / f"{stem}.xml"


def _read_xml(root: Path, stem: str) -> bytes:
    remedy = "add it or take the image out of the image set"
    return read_bounded(_xml_path(root, stem), limit=MAX_XML_BYTES, remedy=remedy)


def _find_class_names(
    root: Path, contents: dict[str, bytes], *, annotations: Iterable[_Annotation]
) -> tuple[str, ...]:
    names = {item.name for annotation in annotations for item in annotation.objects}
    for path in sorted((root / "Annotations").glob("*.xml")):
        if path.stem not in contents:
            others = _parse(path, _read_xml(root, path.stem)).objects
            names.update(item.name for item in others)
    if not names:
        raise InputError(
            f"{root / 'Annotations'}: no file holds an object, so there are no classes"
        )
    return tuple(sorted(names))


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, which are where entities (and their expansion) come from."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise ValueError(f"document type {name!r} is not allowed")


def _parse(path: Path, content: bytes) -> _Annotation:
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314  (no DOCTYPE, no entities)
    try:
        parser.feed(content)
        tree = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not a VOC annotation ({error}); repair or remove it") from error
    objects = tuple(
        _parse_object(element, f"{path}: object {index}")
        for index, element in enumerate(tree.findall("object"), start=1)
    )
    return _Annotation(path, tree.findtext("filename"), _parse_hw(tree, path), objects)


def _parse_hw(tree: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    sides = [
        _parse_number(tree.findtext(f"size/{key}") or "0", f"{path}: size/{key}")
        for key in ("height", "width")
    ]
    for side in sides:
        if not (0 <= side <= MAX_SIDE and side.is_integer()):
            raise InputError(f"{path}: image side {side:g} is not an integer from 0 to {MAX_SIDE}")
    height, width = map(int, sides)
    return (height, width) if height and width else None


def _parse_object(element: ElementTree.Element, where: str) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{where}: has no name; name its class or remove it")
    values = []
    for corner in _CORNERS:
        text = element.findtext(f"bndbox/{corner}")
        if text is None:
            raise InputError(f"{where} ({name}): bndbox/{corner} is missing; add or remove the box")
        values.append(_parse_number(text, f"{where} ({name}): bndbox/{corner}"))
    x0, y0, x1, y1 = values
    difficult = _parse_number(element.findtext("difficult") or "0", f"{where} ({name}): difficult")
    return _Object(name, difficult != 0, (x0 - 1, y0 - 1, x1, y1))


def _parse_number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is not a number; correct it") from error


def _locate_image(folder: ContainedFolder, stem: str, *, annotation: _Annotation) -> Path:
    source = str(annotation.path)
    names = [stem + suffix for suffix in _SUFFIXES]
    if annotation.filename:
        names.append(annotation.filename.strip())
    for name in names:
        path = folder.locate(name, source=source)
        if path.is_file():
            return path
    return folder.root / names[0]


def _build_coco(
    annotations: Sequence[_Annotation],
    paths: Sequence[Path],
    *,
    image_root: Path,
    class_names: tuple[str, ...],
) -> dict[str, Any]:
    category_id_of = {name: index for index, name in enumerate(class_names, start=1)}
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for image_id, (annotation, path) in enumerate(zip(annotations, paths, strict=True), start=1):
        height, width = annotation.image_hw or read_image_hw(path)
        name = path.relative_to(image_root).as_posix()
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for item in annotation.objects:
            if item.name not in category_id_of:
                raise InputError(
                    f"{annotation.path}: class {item.name!r} is unknown; known are "
                    + ", ".join(class_names)
                )
            place = {"id": len(boxes) + 1, "image_id": image_id}
            boxes.append(place | _to_coco(item, category_id_of[item.name]))
    categories = [{"id": index, "name": name} for name, index in category_id_of.items()]
    return {"images": images, "annotations": boxes, "categories": categories}


def _to_coco(item: _Object, category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = item.box_xyxy
    return {
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": int(item.difficult),
    }


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
