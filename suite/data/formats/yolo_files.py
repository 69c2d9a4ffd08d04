"""The files of a YOLO split: its images, the label files that belong to them, and the image ids."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from suite.data.formats.annotated import Problem, Report
from suite.data.formats.coco_items import parse_id
from suite.data.images import IMAGE_SUFFIXES
from suite.errors import InputError
from suite.files import read_bounded

IDS_NAME: Final = "image_ids.tsv"
CLASSES_NAME: Final = "classes.txt"  # what labelling programs put beside the label files
_MAX_IDS_BYTES: Final = 512 * 1024**2


def list_images(images: Path, report: Report) -> list[str]:
    """Return the names of the images, in order; folders inside are followed, links to them not.

    Raises:
        InputError: there is none.
    """
    names = _list_files(images, IMAGE_SUFFIXES, report)
    if not names:
        raise InputError(f"{images}: no image file in it; check the dataset's root")
    return names


def report_orphans(labels: Path, names: list[str], report: Report) -> None:
    """Report label files without an image."""
    stems = {name.rpartition(".")[0] for name in names}
    for label in _list_files(labels, frozenset((".txt",)), report):
        if label.removesuffix(".txt") not in stems and label != CLASSES_NAME:
            value = "has no image of its name in the folder of images"
            remedy = "add the image or remove the file"
            report(Problem("missing_image", str(labels / label), "", value, remedy))


def leave_out_sharing(labels: Path, names: list[str], report: Report) -> list[str]:
    """Return the names without those whose label file an earlier one has; report each such file."""
    sharing: dict[str, list[str]] = {}
    for name in names:
        sharing.setdefault(name.rpartition(".")[0], []).append(name)
    left_out: set[str] = set()
    for stem, (first, *others) in sharing.items():
        if others and (label := labels / f"{stem}.txt").exists():
            value = f"belongs to {', '.join(map(repr, (first, *others)))}"
            remedy = "give each image a name and a label file of its own, or remove all but one"
            report(Problem("shared_label", str(label), "", value, remedy))
            left_out.update(others)
    return [name for name in names if name not in left_out]


def load_ids(labels: Path, names: list[str]) -> dict[str, int]:
    """Return name -> id of the images, nothing where the folder of labels does not say.

    Raises:
        InputError: the file cannot be used, or an image is not in it.
    """
    path = labels / IDS_NAME
    if not path.exists():
        return {}
    try:
        remedy = "remove it to number the images"
        text = read_bounded(path, limit=_MAX_IDS_BYTES, remedy=remedy).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; remove it to number the images") from error
    ids: dict[str, int] = {}
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        name, _, stated = line.partition("\t")
        identifier = parse_id(stated)
        if identifier is None:
            raise InputError(f"{path}:{number}: expected name, tab, id, got {line[:80]!r}")
        if name in ids:
            raise InputError(f"{path}:{number}: {name!r} stands there twice; remove one")
        ids[name] = identifier
    if len(set(ids.values())) < len(ids):
        raise InputError(f"{path}: two images have the same id; give each its own")
    missing = next((name for name in names if name not in ids), None)
    if missing is not None:
        raise InputError(f"{path}: {missing!r} is not in it; add it or remove the file")
    return ids


def _list_files(root: Path, suffixes: frozenset[str], report: Report) -> list[str]:
    """Return the names of files in a folder and those inside it, in order, by "/"."""
    names = []
    for parent, folders, files in os.walk(root):
        for folder in folders:
            path = Path(parent, folder)
            if path.is_symlink():
                value = "is a link to a folder, and these are not followed"
                report(Problem("unsafe_name", str(path), "", value, "put the folder itself there"))
        inner = Path(parent).relative_to(root)
        names += [
            (inner / file).as_posix() for file in files if Path(file).suffix.lower() in suffixes
        ]
    return sorted(names)
