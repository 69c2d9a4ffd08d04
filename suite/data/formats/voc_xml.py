"""One XML file of a Pascal VOC folder, parsed: no document type, no entities, numbers checked.

``folder`` and ``size/depth`` say nothing of an image that its file does not; of other elements,
what is not kept is counted, if there is something in them: those of an image (``source``,
``owner``, ``segmented``), and of an object all but the last of several with one name (``part``) and
what stands more than one level deep in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from suite.data.formats.annotated import Problem, Report
from suite.data.formats.coco_items import MAX_SIDE, parse_id

_CORNERS: Final = ("xmin", "ymin", "xmax", "ymax")
_KNOWN: Final = frozenset(("name", "difficult", "bndbox"))
_KNOWN_OF_IMAGE: Final = frozenset(("folder", "filename", "image_id", "size", "object"))


class WrongXml(Exception):
    """What is wrong in a file: `item` (may be empty), value, remedy."""

    def __init__(self, item: str, value: str, remedy: str) -> None:
        super().__init__(item, value, remedy)
        self.item, self.value, self.remedy = item, value, remedy


@dataclass(frozen=True)
class VocObject:
    """One object: `box_xywh` 0-based, `extra` what else stands there, by its tag."""

    name: str
    difficult: bool
    box_xywh: tuple[float, float, float, float]
    extra: dict[str, Any]


@dataclass(frozen=True)
class VocAnnotation:
    """One XML file; `image_hw` and `image_id` are None where it does not say, and `dropped` is
    what it says that has no place here.
    """

    path: Path
    filename: str | None
    image_id: int | None
    image_hw: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    dropped: Counter[str]


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, which are where entities (and their expansion) come from."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise ValueError(f"document type {name!r} is not allowed")


def parse_annotation(path: Path, content: bytes, report: Report) -> VocAnnotation:
    """Parse the content of the file at `path`; objects that cannot be used are reported.

    Raises:
        WrongXml: nothing of the file can be used.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314  (no DOCTYPE, no entities)
    try:
        parser.feed(content)
        tree = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise WrongXml("", f"not a VOC annotation ({error})", "repair or remove it") from error
    objects, dropped = [], Counter(_find_dropped(tree))
    for index, element in enumerate(tree.findall("object"), start=1):
        try:
            objects.append(_parse_object(element, f"object {index}"))
        except WrongXml as error:
            report(Problem("invalid_box", str(path), error.item, error.value, error.remedy))
            continue
        dropped.update(_find_dropped_of_box(element))
    return VocAnnotation(
        path=path,
        filename=tree.findtext("filename"),
        image_id=parse_id((tree.findtext("image_id") or "").strip()),
        image_hw=_parse_hw(tree),
        objects=tuple(objects),
        dropped=dropped,
    )


def _find_dropped(tree: ElementTree.Element) -> Iterator[str]:
    for child in tree:
        if child.tag not in _KNOWN_OF_IMAGE and _holds_text(child):
            yield f"{child.tag} of an image"


def _find_dropped_of_box(element: ElementTree.Element) -> Iterator[str]:
    kept = {child.tag: child for child in element if child.tag not in _KNOWN}
    for child in element:
        if child is kept.get(child.tag):
            kept_inside = {inner.tag: inner for inner in child}
            for inner in child:
                if len(inner) or inner is not kept_inside[inner.tag]:
                    yield f"{inner.tag} in {child.tag} of a box"
        elif child.tag in kept:
            yield f"{child.tag} of a box, all but the last"


def _holds_text(element: ElementTree.Element) -> bool:
    return any(text.strip() for text in element.itertext())


def _parse_hw(tree: ElementTree.Element) -> tuple[int, int] | None:
    sides = [
        _parse_number(tree.findtext(f"size/{key}") or "0", f"size/{key}")
        for key in ("height", "width")
    ]
    for side in sides:
        if not (0 <= side <= MAX_SIDE and side.is_integer()):
            value = f"image side {side:g} is not an integer from 0 to {MAX_SIDE}"
            raise WrongXml("", value, "correct it")
    height, width = map(int, sides)
    return (height, width) if height and width else None


def _parse_object(element: ElementTree.Element, item: str) -> VocObject:
    parts = _by_tag(element)
    name = _text_of(parts, "name").strip()
    if not name:
        raise WrongXml(item, "has no name", "name its class or remove it")
    item = f"{item} ({name})"
    corners = _by_tag(parts["bndbox"]) if "bndbox" in parts else {}
    values = []
    for corner in _CORNERS:
        if corner not in corners:
            raise WrongXml(item, f"bndbox/{corner} is missing", "add or remove the box")
        values.append(_parse_number(_text_of(corners, corner), f"{item}: bndbox/{corner}"))
    x0, y0, x1, y1 = values
    difficult = _parse_number(_text_of(parts, "difficult") or "0", f"{item}: difficult")
    extra = {child.tag: _plain(child) for child in element if child.tag not in _KNOWN}
    return VocObject(name, difficult != 0, (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), extra)


def _by_tag(element: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Return the children, of equal ones the first: much faster than `find` for each."""
    return {child.tag: child for child in reversed(element)}


def _text_of(parts: dict[str, ElementTree.Element], tag: str) -> str:
    return (parts[tag].text or "") if tag in parts else ""


def _plain(element: ElementTree.Element) -> Any:
    """Return an element's text, or that of its children by tag, one level deep."""
    if len(element):
        return {child.tag: (child.text or "").strip() for child in element}
    return (element.text or "").strip()


def _parse_number(text: str, item: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise WrongXml(item, f"{text!r} is not a number", "correct it") from error
