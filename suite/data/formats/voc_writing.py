"""Writing Pascal VOC folders: ``Annotations``, ``ImageSets/Main/<split>.txt``, ``JPEGImages`` and
``label_map.pbtxt``, which holds the category ids that VOC itself has no place for.

Pixels in the files are 1-based and inclusive. Whole numbers are written as such, fractions with all
their digits; read back, a box is the same to within 1e-8 pixels. An element ``image_id``, which
VOC's own files do not have, keeps the image's id, and ``difficult`` says crowd. Of what else the
source says of a box, text and flags become elements (``pose``, ``truncated``, ...); the depth is
always 3, as the suite reads images. The order of images becomes that of their names.

Files are called after the image, without its folders; `suite.data.formats.naming` says what becomes
of equal names, here of names that differ in folder or suffix only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.formats.destination import Destination, place_image
from suite.data.formats.label_map import write_label_map
from suite.data.formats.naming import find_free_name, is_plain, plain_name, require_names

_TAG: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NAMES: Final = (
    "VOC names its classes by text without control characters and without space at its ends"
)
_USED: Final = frozenset(("name", "difficult", "bndbox"))
_FLAGS: Final = ("truncated", "occluded")


def write_voc(annotated: AnnotatedSet, destination: Destination) -> Counter[str]:
    """Write one split; return what could not be carried.

    Raises:
        InputError: an image cannot be read, or a category name cannot stand in a VOC file.
        OSError: the place cannot be written.
    """
    names = annotated.category_names
    require_names(names, lambda name: name != "" and _is_trimmed(name), _NAMES)
    folder = destination.folder
    list_path = folder / "ImageSets" / "Main" / f"{destination.split}.txt"
    for path in (folder / "Annotations", folder / "JPEGImages", list_path.parent):
        path.mkdir(parents=True, exist_ok=True)
    write_label_map(folder / "label_map.pbtxt", names)
    lost: Counter[str] = Counter()
    with list_path.open("x", encoding="utf-8", newline="\n") as listed:
        for image in annotated.images():
            name = find_free_name(
                plain_name(image), image.image_id, lambda name: _annotation(folder, name).exists()
            )
            place_image(image, folder / "JPEGImages" / name, destination=destination)
            lost["folder or letters of a file name"] += name != image.file_name
            tree = _build_annotation(image, name, names, lost)
            ElementTree.indent(tree)
            _annotation(folder, name).write_bytes(ElementTree.tostring(tree, "utf-8") + b"\n")
            listed.write(f"{PurePosixPath(name).stem}\n")
    return +lost


def _annotation(folder: Path, image_name: str) -> Path:
    return folder / "Annotations" / f"{PurePosixPath(image_name).stem}.xml"


def _build_annotation(
    image: AnnotatedImage, name: str, names: Mapping[int, str], lost: Counter[str]
) -> Element:
    tree = Element("annotation")
    _add(tree, "folder", "JPEGImages")
    _add(tree, "filename", name)
    _add(tree, "image_id", str(image.image_id))
    size = SubElement(tree, "size")
    for key, value in zip(("height", "width", "depth"), (*image.image_hw, 3), strict=True):
        _add(size, key, str(value))
    lost.update(f"{key} of an image" for key in image.extra)
    for box in image.boxes:
        tree.append(_build_object(box, names[box.category_id], lost))
    return tree


def _build_object(box: AnnotatedBox, name: str, lost: Counter[str]) -> Element:
    element = Element("object")
    _add(element, "name", name)
    for key, value in box.extra.items():
        if not _add_extra(element, key, value):
            lost[f"{key} of a box"] += 1
    _add(element, "difficult", str(int(box.crowd)))
    x, y, width, height = box.box_xywh
    corners = SubElement(element, "bndbox")
    _add(corners, "xmin", _spell(x + 1))
    _add(corners, "ymin", _spell(y + 1))
    _add(corners, "xmax", _spell(x + width))
    _add(corners, "ymax", _spell(y + height))
    lost["box id"] += box.box_id != 0
    lost["area that is not width x height"] += box.area not in (None, width * height)
    return element


def _add_extra(element: Element, key: str, value: Any) -> bool:
    """Add what the source says under `key`; return whether VOC's readers will find it so."""
    if key in _USED or not _TAG.fullmatch(key):
        return False
    if key in _FLAGS and isinstance(value, int) and value in (0, 1):
        value = str(int(value))
    if isinstance(value, Mapping):
        fit = bool(value) and all(
            isinstance(text, str) and _TAG.fullmatch(tag) and _is_trimmed(text)
            for tag, text in value.items()
        )
        if fit:
            child = SubElement(element, key)
            for tag, text in value.items():
                _add(child, tag, text)
        return fit
    if isinstance(value, str) and _is_trimmed(value):
        _add(element, key, value)
        return True
    return False


def _is_trimmed(text: str) -> bool:
    return text == text.strip() and is_plain(text)


def _add(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text


def _spell(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))
