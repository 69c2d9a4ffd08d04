"""Label maps: both kinds of name, what is refused, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suite.data.formats.label_map import load_label_map, write_label_map
from suite.errors import InputError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def load(tmp_path: Path, text: str) -> dict[int, str]:
    (tmp_path / "a.pbtxt").write_text(text, encoding="utf-8")
    return dict(load_label_map(tmp_path / "a.pbtxt").category_names)


def test_people_read_the_display_name_and_files_may_use_either(tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text(
        """# COCO's begins like this
        item { name: "/m/0199g" id: 2 display_name: "bicycle" }
        item: < id: 1, name: 'person' keypoints { id: 3 label: "nose" } >
        """
    )
    label_map = load_label_map(tmp_path / "a.pbtxt")
    assert list(label_map.category_names.items()) == [(1, "person"), (2, "bicycle")]
    assert label_map.id_of == {"person": 1, "bicycle": 2, "/m/0199g": 2}


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("", "no item in it"),
        ("item { name: 'a' }", "item 1: has no id"),
        ("item { id: 1 }", "item 1: has no name"),
        ("item { id: 1 name: '' }", "item 1: has no name"),
        ("item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "item 2: id 1 stands there twice"),
        ("item { id: 1 name: 'a' } item { id: 2 name: 'a' }", "item 2: name 'a' stands there twi"),
        ("item { id: 1 name: 'a' } item { id: 2 display_name: 'a' name: 'b' }", "name 'a' stands"),
        ("\nitem { id: 'x' }", r"a\.pbtxt:2: not a label map; its items must look like item {"),
        ("item { id: 99999999999 name: 'a' }", "a.pbtxt:1: not a label map"),
        ('{"1": "person"}', "a.pbtxt:1: not a label map"),
        ("item { id: 1 name: '\\377' }", "not a label map"),
        ("x { " * 3000, "not a label map"),
        ("x: [" * 3000, "not a label map"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, stated: str) -> None:
    with pytest.raises(InputError, match=stated):
        load(tmp_path, text)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; give a label map, such as label_map\.pb"):
        load_label_map(tmp_path / "a.pbtxt")
    (tmp_path / "a.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a label map"):
        load_label_map(tmp_path / "a.pbtxt")
    with (tmp_path / "a.pbtxt").open("wb") as file:
        file.truncate(5 * 1024**2)
    with pytest.raises(InputError, match="larger than 4194304 bytes"):
        load_label_map(tmp_path / "a.pbtxt")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.dictionaries(st.integers(-(2**31), 2**31 - 1), NAMES, min_size=1, max_size=5))
@example(names={3: "quote ' and \" and \\ and \n", 1: "日本語"})
def test_a_round_trip_is_identity(tmp_path: Path, names: dict[int, str]) -> None:
    if len(set(names.values())) < len(names):
        names = {key: f"{name}{key}" for key, name in names.items()}
    path = tmp_path / "label_map.pbtxt"
    path.unlink(missing_ok=True)
    write_label_map(path, names)
    assert list(load_label_map(path).category_names.items()) == sorted(names.items())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("item{}<>[]:,;#'\"\\ \n0123-.eE/\0xdname"), max_size=60))
def test_no_text_breaks_the_reader(tmp_path: Path, text: str) -> None:
    try:
        assert load(tmp_path, text)
    except InputError as error:
        assert "a.pbtxt" in str(error)


@pytest.mark.parametrize(
    ("names", "stated"),
    [
        ({1: "a", 2: "a"}, "category 2: a label map needs a name for each category"),
        ({1: ""}, "category 1: a label map needs a name"),
        ({2**31: "a"}, r"category 2147483648 \('a'\) does not fit"),
        ({1: "\ud800"}, r"category 1 \('\\ud800'\) does not fit"),
    ],
    ids=["repeated", "empty", "large id", "no Unicode"],
)
def test_categories_that_do_not_fit(tmp_path: Path, names: dict[int, str], stated: str) -> None:
    with pytest.raises(InputError, match=stated):
        write_label_map(tmp_path / "a.pbtxt", names)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_must_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "label_map.pbtxt"
    for _ in range(2):
        write_label_map(path, {1: "cat"})
    with pytest.raises(InputError, match="holds other categories than this split"):
        write_label_map(path, {1: "cat", 2: "dog"})
    assert load_label_map(path).category_names == {1: "cat"}
