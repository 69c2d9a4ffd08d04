"""COCO annotation files of any size, read without holding them in memory.

The file is taken apart once into a temporary SQLite file of about its size; images then come in the
order of the file, joined with their boxes. Checks, problems and digest are those of
`suite.data.formats.coco`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from suite.data.formats.annotated import (
    AnnotatedImage,
    AnnotatedSet,
    Report,
    refuse,
)
from suite.data.formats.coco_items import (
    Json,
    count_dropped,
    find_list_problem,
    is_id,
    load_json,
    locate_image,
    parse_box,
    parse_categories,
    parse_image,
)
from suite.data.formats.containment import ContainedFolder
from suite.data.formats.json_lists import JsonLists
from suite.data.sample import ImageFile
from suite.errors import InputError

_CHUNK_BYTES: Final = 1024**2
_TABLES: Final = """
    CREATE TABLE images (position INTEGER PRIMARY KEY, item TEXT);
    CREATE TABLE annotations (position INTEGER PRIMARY KEY, item TEXT);
    CREATE TABLE image_ids (position INTEGER PRIMARY KEY, id INTEGER UNIQUE, usable INTEGER);
    CREATE TABLE box_ids (id INTEGER PRIMARY KEY);
    CREATE TABLE boxes (image_id INTEGER, position INTEGER, repeats_id INTEGER);
"""
_INSERT_IMAGE: Final = "INSERT INTO images (item) VALUES (?)"
_INSERT_ANNOTATION: Final = "INSERT INTO annotations (item) VALUES (?)"
_USABLE_IMAGES: Final = """
    SELECT item FROM image_ids JOIN images USING (position) WHERE usable ORDER BY position
"""
_BOXES_OF: Final = """
    SELECT item, repeats_id FROM boxes JOIN annotations USING (position)
    WHERE image_id = ? ORDER BY position
"""

Known = Mapping[str, Container[int]]


@contextmanager
def stream_coco(
    annotations: Path, image_folder: Path, *, report: Report = refuse
) -> Iterator[AnnotatedSet]:
    """Yield what `read_coco` returns, for as long as the block lasts; images are not opened.

    Args:
        annotations: the JSON file.
        image_folder: where its file names lead; none may leave it.
        report: called with each entry that cannot be used, before this yields.

    Raises:
        InputError: the file is missing or not COCO; by `report`, an entry is unusable.
    """
    folder = ContainedFolder(image_folder)
    with tempfile.TemporaryDirectory(prefix="suite-coco-") as temporary:
        try:
            with closing(_open_store(Path(temporary) / "annotations.sqlite")) as store:
                digest, categories, dropped = _take_apart(annotations, store)
                names = parse_categories(categories, source=str(annotations))
                num_images = _check_images(annotations, store, folder, report=report)
                known: Known = {
                    "image_id": _ImageIds(store, usable=True),
                    "category_id": names,
                }
                _check_boxes(annotations, store, known, report=report)

                def images() -> Iterator[AnnotatedImage]:
                    return _join(annotations, store, folder, known)

                yield AnnotatedSet(names, num_images, images, digest, dropped)
        except sqlite3.Error as error:
            raise InputError(
                f"{annotations}: cannot be taken apart in {temporary} ({error}); set TMPDIR to a "
                "folder with as much room as the file is large"
            ) from error


def _open_store(path: Path) -> sqlite3.Connection:
    store = sqlite3.connect(path, isolation_level=None)
    # It lives no longer than this process, so nothing needs to survive a crash.
    store.execute("PRAGMA journal_mode=OFF")
    store.execute("PRAGMA synchronous=OFF")
    store.executescript(_TABLES)
    return store


def _take_apart(path: Path, store: sqlite3.Connection) -> tuple[str, list[Json], Counter[str]]:
    """Put images and annotations, as text, into the store; return the digest, the categories and
    what an `AnnotatedSet` has no place for.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the annotation file of the dataset")
    lists, digest = JsonLists(), hashlib.sha256()
    categories: list[Json] = []
    store.execute("BEGIN")
    try:
        for chunk in _read_chunks(path):
            digest.update(chunk)
            for key, item in lists.split(chunk):
                if key == "images":
                    store.execute(_INSERT_IMAGE, (item.decode(),))
                elif key == "annotations":
                    store.execute(_INSERT_ANNOTATION, (item.decode(),))
                elif key == "categories":
                    categories.append(load_json(item))
                else:
                    load_json(item)
        rest = load_json(lists.finish())
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error) from error
    store.execute("COMMIT")
    problem = find_list_problem(rest)
    if problem:
        raise InputError(f"{path}: not COCO: {problem}")
    if not rest["images"]:
        raise InputError(f"{path}: 'images' is empty; a dataset needs at least one")
    return digest.hexdigest(), categories, count_dropped(rest, categories)


def _not_json(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not JSON ({error}); give a COCO annotation file")


def _read_chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _each(path: Path, store: sqlite3.Connection, table: str) -> Iterator[tuple[int, Json]]:
    """Yield the position, from 1, and the content of each item, in the order of the file."""
    query = f"SELECT position, item FROM {table} ORDER BY position"  # noqa: S608  (our own name)
    for position, text in store.execute(query):
        try:
            yield position, load_json(text)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, error) from error


class _ImageIds:
    """The ids of the images: of all that were read, or only of those that can be used."""

    def __init__(self, store: sqlite3.Connection, *, usable: bool) -> None:
        self._store = store
        self._condition = "usable" if usable else "1"

    def __contains__(self, value: object) -> bool:
        # The condition is one of our own two, see above.
        query = f"SELECT 1 FROM image_ids WHERE id = ? AND {self._condition}"  # noqa: S608
        return self._store.execute(query, (value,)).fetchone() is not None


class _BoxIds:
    """The ids of the boxes so far; asking for one also adds it."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self._store = store

    def __contains__(self, value: object) -> bool:
        added = self._store.execute("INSERT OR IGNORE INTO box_ids VALUES (?)", (value,))
        return added.rowcount == 0


def _check_images(
    path: Path, store: sqlite3.Connection, folder: ContainedFolder, *, report: Report
) -> int:
    """Report the images that cannot be used, note the others; return how many those are."""
    seen = _ImageIds(store, usable=False)
    num_usable = 0
    store.execute("BEGIN")
    for position, item in _each(path, store, "images"):
        entry = parse_image(item, position - 1, seen=seen, source=str(path), report=report)
        if entry is None:
            continue
        usable = locate_image(entry, folder, source=str(path), report=report) is not None
        row = (position, entry.image_id, usable)
        store.execute("INSERT INTO image_ids VALUES (?, ?, ?)", row)
        num_usable += usable
    store.execute("COMMIT")
    return num_usable


def _check_boxes(path: Path, store: sqlite3.Connection, known: Known, *, report: Report) -> None:
    """Report the boxes that cannot be used, and note to which image the others belong."""
    seen = _BoxIds(store)
    store.execute("BEGIN")
    for position, item in _each(path, store, "annotations"):
        box = parse_box(item, position - 1, known=known, seen=seen, source=str(path), report=report)
        if box is not None:
            repeats_id = is_id(item.get("id")) and box.box_id != item["id"]
            row = (item["image_id"], position, repeats_id)
            store.execute("INSERT INTO boxes VALUES (?, ?, ?)", row)
    store.execute("CREATE INDEX by_image ON boxes (image_id, position)")
    store.execute("COMMIT")


def _join(
    path: Path, store: sqlite3.Connection, folder: ContainedFolder, known: Known
) -> Iterator[AnnotatedImage]:
    """Yield every image with its boxes; all were checked, so none is refused here."""
    for (text,) in store.execute(_USABLE_IMAGES):
        entry = parse_image(json.loads(text), 0, seen=(), source=str(path), report=refuse)
        assert entry is not None
        boxes = []
        for item, repeats_id in store.execute(_BOXES_OF, (entry.image_id,)):
            box = parse_box(
                json.loads(item), 0, known=known, seen=(), source=str(path), report=refuse
            )
            assert box is not None
            boxes.append(replace(box, box_id=0) if repeats_id else box)
        yield AnnotatedImage(
            image_id=entry.image_id,
            file_name=entry.file_name,
            image=ImageFile(folder.root / entry.file_name),
            image_hw=entry.image_hw,
            boxes=tuple(boxes),
            extra=entry.extra,
        )
