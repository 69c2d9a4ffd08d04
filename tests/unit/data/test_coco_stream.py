"""COCO files read in pieces: the same content and problems as whole, in memory that stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.data.formats import coco_stream, json_lists
from suite.data.formats.annotated import AnnotatedSet, Problem
from suite.data.formats.coco import read_coco
from suite.data.formats.coco_stream import stream_coco
from suite.errors import InputError

NAMES = [{"id": 3, "name": "c"}, {"id": 1, "name": "a", "supercategory": "x"}]


def image_entry(image_id: Any, file_name: str = "a.jpg", **extra: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name, "width": 64, "height": 48, **extra}


def box_entry(box_id: Any, image_id: Any, **extra: Any) -> dict[str, Any]:
    return {
        "id": box_id, "image_id": image_id, "category_id": 3, "bbox": [1, 2.5, 3, 4], **extra
    }  # fmt: skip


def put(folder: Path, document: Any) -> Path:
    path = folder / "annotations.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    return path


def read_both(path: Path) -> tuple[list[Any], list[Any]]:
    """Return content and problems as read whole, and as read in pieces."""
    whole: list[Problem] = []
    pieces: list[Problem] = []
    first = read_coco(path, path.parent, report=whole.append)
    with stream_coco(path, path.parent, report=pieces.append) as second:
        return [*content_of(first), sort(whole)], [*content_of(second), sort(pieces)]


def content_of(annotated: AnnotatedSet) -> list[Any]:
    images = [repr(image) for image in annotated.images()]  # which tells 1 from 1.0
    assert len(images) == annotated.num_images
    assert images == [repr(image) for image in annotated.images()]  # a second pass is the same
    return [dict(annotated.category_names), annotated.digest, images, annotated.dropped]


def sort(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=str)


numbers = st.one_of(st.integers(-(2**54), 2**54), st.floats(), st.just("x"))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
ids = st.one_of(st.integers(0, 4), st.just(2**63 - 1), st.none(), st.booleans(), st.just(1.0))
names = st.sampled_from(["a.jpg", "b/c.png", "../a.jpg", "", "ü [{\\.jpg", 'q"".jpg'])
images = st.builds(image_entry, ids, names, extra=values)
boxes = st.builds(
    box_entry, ids, ids, bbox=st.lists(numbers, min_size=3, max_size=4), segmentation=values
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(images, min_size=1, max_size=5),
    st.lists(boxes, max_size=6),
    values,
    st.permutations("iacn"),
    st.sampled_from([None, 1]),
    st.sampled_from([1, 2, 7, 64, 10_000]),
)
def test_content_and_problems_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[Any],
    boxes: list[Any],
    info: Any,
    order: list[str],
    indent: int | None,
    chunk_bytes: int,
) -> None:
    parts = {
        "i": ("images", images),
        "a": ("annotations", boxes),
        "c": ("categories", NAMES),
        "n": ("info", info),
    }
    folder = tmp_path_factory.mktemp("set")
    document = json.dumps(dict(parts[key] for key in order), indent=indent, ensure_ascii=False)
    path = folder / "annotations.json"
    path.write_text(document, "utf-8", errors="replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_stream, "_CHUNK_BYTES", chunk_bytes)
        whole, pieces = read_both(path)
    assert pieces == whole


def test_what_has_no_place_is_counted(tmp_path: Path) -> None:
    document = {
        "info": {"year": {"of": 2017}},
        "licenses": [{"id": 1}, {"id": 2}],
        "empty": {},
        "images": [image_entry(1, licence=2)],
        "annotations": [box_entry(1, 1, segmentation=[])],
        "categories": [*NAMES, {"id": 7, "name": "d", "supercategory": "x", "skeleton": [[1, 2]]}],
    }
    whole, pieces = read_both(put(tmp_path, document))
    assert pieces == whole
    assert whole[3] == {
        "info of the data set": 1,
        "licenses of the data set": 1,
        "supercategory of a category": 2,
        "skeleton of a category": 1,
    }


def test_real_annotations_read_alike(shared: Path) -> None:
    folder = shared / "data" / "coco_photos"
    whole, pieces = read_both(folder / "annotations" / "instances_train2017.json")
    assert pieces == whole


EMPTY = '"annotations": [], "categories": [{"id": 1, "name": "a"}]'
IMAGE = json.dumps(image_entry(1))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "must hold one JSON object"),
        ('{"images": [], ' + EMPTY + "}", "'images' is empty"),
        ({"images": [image_entry(1)], "categories": NAMES}, "'annotations' must be a list"),
        ({"images": [1], "annotations": [], "categories": NAMES}, "'images' must be a list"),
        ({"images": {"item": {}}, "annotations": [], "categories": NAMES}, "'images' must be"),
        ({"images": [image_entry(1)], "annotations": [], "categories": []}, "'categories' is emp"),
        ('{"images": [', "not JSON"),
        ('{"images": [' + IMAGE + ' {"id": 2}], ' + EMPTY + "}", "not JSON"),
        ('{"images": [' + IMAGE + ', {"id": 2}], ' + EMPTY + "}x", "not JSON"),
        ('{"images": [' + IMAGE + ',], ' + EMPTY + "}", "not JSON"),
        ('{"images": [' + IMAGE + ', {"id": 2]], ' + EMPTY + "}", "not JSON"),
        ('{"images": [' + IMAGE + ', {"id": }], ' + EMPTY + "}", "not JSON"),
        ('{"x": [{"id" 1}], "images": [' + IMAGE + "], " + EMPTY + "}", "not JSON"),
        ('{"images": [' + IMAGE + '], "images": [], ' + EMPTY + "}", "'images' stands 2 times"),
        ('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested more than 64 deep"),
        ({"images": [image_entry(1), image_entry(1)], "annotations": [], "categories": NAMES},
         "image 1: its id stands 2 times"),
        ({"images": [image_entry(1)], "annotations": [box_entry(1, 2)], "categories": NAMES},
         "annotation 1: image_id 2 is the id of none"),
    ],
)  # fmt: skip
def test_unusable_files_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    with (
        pytest.raises(InputError, match=message),
        stream_coco(put(tmp_path, document), tmp_path) as annotated,
    ):
        list(annotated.images())


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"no\.json: no such file"),
        stream_coco(tmp_path / "no.json", tmp_path),
    ):
        pass


def test_what_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_stream, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(json_lists, "MAX_OBJECT_BYTES", 5000)
    monkeypatch.setattr(json_lists, "MAX_REST_BYTES", 9000)
    images = [image_entry(number, note="[" * 4000) for number in range(20)]
    document = {"info": "{" * 7000, "images": images, "annotations": [], "categories": NAMES}
    with stream_coco(put(tmp_path, document), tmp_path) as annotated:
        assert annotated.num_images == 20
    for text, message in (
        ('{"images": [{"id": "' + "x" * 7000, "an object of more than 5000 bytes"),
        ('{"images": [{"id": [' + "[]," * 7000, "an object of more than 5000 bytes"),
        ('{"info": "' + "x" * 11_000, "more than 9000 bytes outside"),
        ('{"images": [' + "1," * 11_000, "more than 9000 bytes outside"),
    ):
        with (
            pytest.raises(InputError, match=message),
            stream_coco(put(tmp_path, text), tmp_path),
        ):
            pass


MEASURE = """
import resource, sys
from pathlib import Path
from suite.data.formats.coco_stream import stream_coco
for path in map(Path, sys.argv[1:]):
    with stream_coco(path, path.parent) as annotated:
        boxes = sum(len(image.boxes) for image in annotated.images())
    print(boxes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    paths = []
    for num_images in (400, 4000):
        (tmp_path / str(num_images)).mkdir()
        images = [image_entry(number, f"{number}.jpg") for number in range(num_images)]
        boxes = [
            box_entry(number, number // 5, segmentation=[[0.5] * 60])
            for number in range(num_images * 5)
        ]
        document = {"images": images, "annotations": boxes, "categories": NAMES}
        paths.append(put(tmp_path / str(num_images), document))
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = (tuple(map(int, line.split())) for line in finished.stdout.splitlines())
    assert (small[0], large[0]) == (2000, 20_000)
    assert large[1] < small[1] + 5000  # kB; the larger file is 8 MB, read whole 60 MB
