"""TFRecord files as files: patterns and shards, damage of any byte, and hostile records."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.crc32c import crc32c, mask
from suite.data.formats.annotated import Problem
from suite.data.formats.label_map import LabelMap
from suite.data.formats.record_file import find_record_files, scan_records, write_record
from suite.data.formats.tf_detection import KINDS
from suite.data.formats.tf_example import build_example
from suite.data.formats.tfrecord import read_tfrecord
from suite.errors import InputError

CATS = LabelMap({17: "cat"}, {"cat": 17})
EXAMPLE = build_example(
    {
        "image/height": [4],
        "image/width": [4],
        "image/encoded": [b"any bytes"],
        "image/object/bbox/xmin": [0.25],
        "image/object/bbox/xmax": [0.5],
        "image/object/bbox/ymin": [0.25],
        "image/object/bbox/ymax": [1.0],
        "image/object/class/label": [17],
    },
    KINDS,
)


def put(path: Path, *records: bytes) -> Path:
    with path.open("wb") as file:
        for data in records:
            write_record(file, data)
    return path


def read_all(path: Path) -> int:
    """Return how many images there are."""
    return len(list(read_tfrecord(path, label_map=CATS).images()))


def test_the_frame_is_tensorflows(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"123456789")
    # What tf.io.TFRecordWriter makes of it: length, checksum, data, checksum.
    assert path.read_bytes() == bytes.fromhex("090000000000000037f97139313233343536373839e5b08ac7")


def test_no_byte_can_change_unnoticed(tmp_path: Path) -> None:
    whole = put(tmp_path / "a", EXAMPLE, b"").read_bytes()
    assert read_all(put(tmp_path / "good", EXAMPLE, EXAMPLE)) == 2
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        (tmp_path / "b").write_bytes(damaged)
        number = 1 if index < len(EXAMPLE) + 16 else 2
        with pytest.raises(InputError, match=rf"b: record {number}: "):
            list(read_tfrecord(tmp_path / "b", label_map=CATS).images())


def test_a_file_cut_short(tmp_path: Path) -> None:
    whole = put(tmp_path / "a", EXAMPLE, EXAMPLE).read_bytes()
    half = len(whole) // 2
    for size in range(len(whole)):
        (tmp_path / "b").write_bytes(whole[:size])
        if size % half == 0:
            assert read_all(tmp_path / "b") == size // half
            continue
        number = 1 if size < half else 2
        with pytest.raises(InputError, match=rf"b: record {number}: the file ends \d+ bytes into"):
            read_all(tmp_path / "b")


def test_sound_records_behind_a_damaged_one_are_read(tmp_path: Path) -> None:
    whole = bytearray(put(tmp_path / "a", EXAMPLE, EXAMPLE, EXAMPLE).read_bytes())
    whole[12 + len(EXAMPLE) + 16] ^= 1  # the first byte of the second record's data
    (tmp_path / "a").write_bytes(whole)
    problems: list[Problem] = []
    annotated = read_tfrecord(tmp_path / "a", label_map=CATS, report=problems.append)
    assert annotated.num_images == 2
    assert [image.image_id for image in annotated.images()] == [1, 3]
    assert [image.image.read() for image in annotated.images()] == [b"any bytes"] * 2
    assert [(problem.rule, problem.item) for problem in problems] == [
        ("damaged_record", "record 2")
    ]


def test_what_stands_before_a_cut_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, EXAMPLE, EXAMPLE)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    problems: list[Problem] = []
    annotated = read_tfrecord(tmp_path / "[ab]", label_map=CATS, report=problems.append)
    assert annotated.num_images == len(list(annotated.images())) == 3
    assert [(problem.file, problem.item) for problem in problems] == [
        (str(tmp_path / "a"), "record 2")
    ]


@pytest.mark.parametrize(
    ("damage", "stated", "remedy"),
    [
        (gzip.compress, "the checksum of its length is wrong", "that is not compressed"),
        (lambda whole: b"\0" + whole[1:], "the checksum of its length is wrong", "copy it again"),
        (lambda whole: whole[:5], "the file ends 5 bytes into it", "copy it again"),
        (lambda whole: whole[:-1] + b"\0", "the checksum of its data is wrong", "copy it again"),
    ],
    ids=["gzip", "length", "five bytes", "data"],
)
def test_a_file_of_which_nothing_can_be_read_is_not_said_to_lack_classes(
    tmp_path: Path, damage: Callable[[bytes], bytes], stated: str, remedy: str
) -> None:
    path = put(tmp_path / "a", EXAMPLE)
    path.write_bytes(damage(path.read_bytes()))
    problems: list[Problem] = []
    with pytest.raises(InputError, match=f"a: record 1: {stated}.*{remedy}") as caught:
        read_tfrecord(path, report=problems.append)
    assert [str(problem) for problem in problems] == [str(caught.value)]
    assert list(read_tfrecord(path, label_map=CATS, report=problems.append).images()) == []


def test_records_of_other_data_are_not_said_to_lack_classes(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"no example", b"nor this")
    with pytest.raises(InputError, match=r"a: record 1: not a tf\.train\.Example; correct or"):
        read_tfrecord(path)


def test_a_record_larger_than_any_image(tmp_path: Path) -> None:
    header = put(tmp_path / "a", b"").read_bytes()
    # A length of 2^40 under its right checksum, in a file of a few bytes.
    length = (2**40).to_bytes(8, "little")
    (tmp_path / "a").write_bytes(length + mask(crc32c(length)).to_bytes(4, "little") + header)
    with pytest.raises(InputError, match="record 1: has 1099511627776 bytes, more than"):
        read_all(tmp_path / "a")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = put(tmp_path / "a", EXAMPLE, EXAMPLE)
    annotated = read_tfrecord(path, label_map=CATS)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="a: "):
        list(annotated.images())


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_record_of_any_content_breaks_the_reader(tmp_path: Path, data: st.DataObject) -> None:
    """The checksums are right; what they protect is not."""
    content = bytearray(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(start + 8, len(content))))
        content[start:end] = data.draw(st.binary(max_size=8))
    path = put(tmp_path / "a", bytes(content))
    try:
        assert read_all(path) <= 1
    except InputError as error:
        assert str(path) in str(error)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64))
def test_no_file_of_any_content_breaks_the_reader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    try:
        assert read_all(tmp_path / "a") == 0
    except InputError as error:
        assert "record 1" in str(error)


@pytest.mark.parametrize("pattern", ["val*", "nowhere/train*", "train"])
def test_nothing_matches(tmp_path: Path, pattern: str) -> None:
    put(tmp_path / "train-a", EXAMPLE)
    with pytest.raises(InputError, match="no file matches") as caught:
        read_tfrecord(tmp_path / pattern, label_map=CATS)
    assert str(tmp_path / pattern) in str(caught.value)


def test_patterns(tmp_path: Path) -> None:
    for name in ("train2", "train1", "train[1]", "val1"):
        put(tmp_path / name, EXAMPLE)
    (tmp_path / "train-folder").mkdir()
    assert [path.name for path in find_record_files(tmp_path / "train?")] == ["train1", "train2"]
    assert [path.name for path in find_record_files(tmp_path / "train[1]")] == ["train[1]"]
    assert read_all(tmp_path / "train*") == 3


def test_shards_are_complete_or_chosen(tmp_path: Path) -> None:
    for index in (0, 1, 3):
        put(tmp_path / f"train-{index:05d}-of-00004.tfrecord", EXAMPLE)
    with pytest.raises(InputError, match=r"train-00002-of-00004\.tfrecord is missing"):
        find_record_files(tmp_path / "train*")
    assert len(find_record_files(tmp_path / "train-0000[01]-of-*")) == 2
    put(tmp_path / "train-00002-of-00004.tfrecord", EXAMPLE)
    assert read_all(tmp_path / "train*") == 4
    put(tmp_path / "train-00000-of-00001.tfrecord", EXAMPLE)
    with pytest.raises(InputError, match="two writings of one set"):
        find_record_files(tmp_path / "train*")


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", EXAMPLE)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train1").symlink_to(outside)
    with pytest.raises(InputError, match="is a link that leads out of"):
        find_record_files(tmp_path / "set" / "train*")


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone: cannot be read \(No such file"):
        list(scan_records(tmp_path / "gone", report=lambda _: None))
