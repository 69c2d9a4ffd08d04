"""TensorFlow's checkpoints: what it wrote is read, what nobody should have written is refused."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from suite.crc32c import crc32c
from suite.errors import InputError
from suite.zoo.tensor_bundle import TensorBundle, open_bundle

FILES = ("types", "shards", "objects", "slices", "imagenet", "detector")


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def read_all(bundle: TensorBundle) -> None:
    for name in bundle:
        bundle[name]


@pytest.mark.parametrize("name", FILES)
def test_values_are_tensorflows(tensorflow_files: Path, name: str) -> None:
    bundle = open_bundle(tensorflow_files / name)
    expected = np.load(tensorflow_files / f"{name}.npz")
    assert len(expected.files) > 0
    for key in expected.files:
        value = as_numpy(bundle[key])
        assert value.dtype == expected[key].dtype
        assert value.shape == expected[key].shape
        assert np.array_equal(value, expected[key]), key


def test_an_index_of_several_blocks(tensorflow_files: Path) -> None:
    index = tensorflow_files / "many.index"
    assert index.stat().st_size > 2 * 256 * 1024  # TensorFlow's size of a block
    bundle = open_bundle(index)
    expected = np.load(tensorflow_files / "many.npz")
    assert list(bundle) == sorted(expected["names"].tolist())
    assert [int(bundle[name]) for name in expected["names"].tolist()] == expected["values"].tolist()


@pytest.mark.parametrize("ending", ["", ".index", ".data-00001-of-00003"])
def test_any_of_its_names_means_the_checkpoint(tensorflow_files: Path, ending: str) -> None:
    assert len(open_bundle(tensorflow_files / f"shards{ending}")) == 6


def test_what_is_no_plain_tensor_is_listed_and_refused(tensorflow_files: Path) -> None:
    sliced = open_bundle(tensorflow_files / "slices")
    assert "cut" in sliced
    with pytest.raises(InputError, match="'cut' is a partitioned variable"):
        sliced["cut"]
    with pytest.raises(InputError, match="'text' is of a type"):
        open_bundle(tensorflow_files / "types")["text"]


def test_missing_files_are_named(tensorflow_files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.index: no such file; give the name of"):
        open_bundle(tmp_path / "absent")
    with pytest.raises(InputError, match=r"\.: a folder; give the name of"):
        open_bundle(Path())
    shutil.copy(tensorflow_files / "shards.index", tmp_path)
    with pytest.raises(InputError, match=r"shards\.data-00000-of-00003: no such file; .* side by"):
        open_bundle(tmp_path / "shards")


def test_a_large_index_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.index").open("wb") as file:
        file.truncate(17 * 1024**2)
    with pytest.raises(InputError, match=r"large\.index: larger than 16777216 bytes"):
        open_bundle(tmp_path / "large")


def copy_of(name: str, source: Path, folder: Path) -> Path:
    for path in source.glob(f"{name}.*"):
        shutil.copy(path, folder)
    return folder / name


def test_data_cut_short_or_damaged(tensorflow_files: Path, tmp_path: Path) -> None:
    prefix = copy_of("types", tensorflow_files, tmp_path)
    data = tmp_path / "types.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(InputError, match="cut short"):
        open_bundle(prefix)
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(InputError, match=r"the checksum of '.*' is wrong"):
        read_all(open_bundle(prefix))


def block_end(index: bytes) -> int:
    """Where the first block of a small index ends: its handle is the first key of the last."""
    return index.index(b"\x00\x00\x00\x00\x01\x00\x00\x00") + 8


def with_checksum(index: bytearray, end: int) -> bytes:
    crc = crc32c(bytes(index[: end + 1]))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    index[end + 1 : end + 5] = struct.pack("<I", masked)
    return bytes(index)


@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "with a right checksum"])
def test_a_damaged_index_is_an_input_error(
    tensorflow_files: Path, tmp_path: Path, sealed: bool
) -> None:
    """Every byte of an index, turned in several ways: refused, or harmless."""
    prefix = copy_of("types", tensorflow_files, tmp_path)
    index = tmp_path / "types.index"
    content = index.read_bytes()
    end = block_end(content)
    refused = 0
    for position in range(end if sealed else len(content)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= flip
            index.write_bytes(with_checksum(damaged, end) if sealed else bytes(damaged))
            try:
                read_all(open_bundle(prefix))
            except InputError:
                refused += 1
    assert refused > (1.5 if sealed else 2.5) * end


def test_an_index_cut_anywhere_is_an_input_error(tensorflow_files: Path, tmp_path: Path) -> None:
    prefix = copy_of("shards", tensorflow_files, tmp_path)
    index = tmp_path / "shards.index"
    content = index.read_bytes()
    for size in range(len(content)):
        index.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"shards\.index: not a sound"):
            open_bundle(prefix)


# Indexes of our own making


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    out = bytes([number << 3])
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def shape(*sides: int) -> bytes:
    return b"".join(field(2, field(1, side)) for side in sides)


HEADER = field(1, 1)
SOUND = field(1, 1) + field(2, shape(2)) + field(5, 8)


def write_index(folder: Path, rows: list[tuple[bytes, bytes]], *, data: int = 8) -> Path:
    entries = b""
    for key, value in rows:
        entries += bytes([0, len(key), len(value)]) + key + value
    first = bytearray(entries + struct.pack("<II", 0, 1) + bytes(5))
    second_content = b"\0\1" + bytes([len(place := field(0, len(first) - 5)[1:]) + 1]) + b"~\0"
    second = bytearray(second_content + place + struct.pack("<II", 0, 1) + bytes(5))
    for part in (first, second):
        with_checksum(part, len(part) - 5)
    handle = field(0, len(first))[1:] + field(0, len(second) - 5)[1:]
    footer = (b"\0\0" + handle).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "made.index").write_bytes(bytes(first + second) + footer)
    (folder / "made.data-00000-of-00001").write_bytes(bytes(data))
    return folder / "made"


def test_our_own_index_is_one(tmp_path: Path) -> None:
    bundle = open_bundle(write_index(tmp_path, [(b"", HEADER), (b"w", SOUND)]))
    assert bundle.entries["w"].shape == (2,)
    with pytest.raises(InputError, match="the checksum of 'w'"):
        bundle["w"]


HOSTILE = {
    "no rows": ([], "no header"),
    "no header": ([(b"w", SOUND)], "no header"),
    "big endian": ([(b"", HEADER + field(2, 1))], "big-endian"),
    "newer": ([(b"", HEADER + field(3, field(2, 2)))], "newer version"),
    "no files": ([(b"", b"")], "0 data files"),
    "a million files": ([(b"", field(1, 10**6))], "1000000 data files"),
    "other file": ([(b"", HEADER), (b"w", SOUND + field(3, 1))], "data file 1 of 1"),
    "wrong size": ([(b"", HEADER), (b"w", SOUND + field(5, 7))], "7 bytes, its shape needs 8"),
    "huge": (
        [(b"", HEADER), (b"w", field(1, 1) + field(2, shape(2**40, 2**40)))],
        "a shape that no tensor has",
    ),
    "huge and empty": (
        [(b"", HEADER), (b"w", field(1, 1) + field(2, shape(0, 2**63)))],
        "a shape that no tensor has",
    ),
    "negative": ([(b"", HEADER), (b"w", field(1, 1) + field(2, shape(2**64 - 1)))], "no tensor"),
    "dimensions": ([(b"", HEADER), (b"w", field(1, 1) + field(4, 2**64 - 1))], "its shape needs 4"),
    "outside": ([(b"", HEADER), (b"w", SOUND + field(4, 2**63))], "'w' ends after it"),
    "shared bytes": (
        [(b"", HEADER), (b"v", SOUND), (b"w", SOUND)],
        "smaller than its tensors are together",
    ),
    "number for a message": ([(b"", HEADER), (b"w", field(2, 5))], "field 2 is not a message"),
    "message for a number": ([(b"", HEADER), (b"w", field(1, b"1"))], "field 1 is not a number"),
    "group": ([(b"", HEADER), (b"w", b"\x0b")], "wire type 3"),
    "cut field": ([(b"", HEADER), (b"w", b"\x12\x7f")], "cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_indexes_are_refused(tmp_path: Path, name: str) -> None:
    rows, words = HOSTILE[name]
    with pytest.raises(InputError, match=words):
        open_bundle(write_index(tmp_path, rows))
