"""Tables of our own making, sound and hostile. TensorFlow's are in test_tensor_bundle.py."""

from __future__ import annotations

import struct
import time

import pytest

from suite.crc32c import crc32c
from suite.zoo.sstable import read_table, read_varint

Row = tuple[bytes, bytes]


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def entry(shared: int, rest: bytes, value: bytes) -> bytes:
    return varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value


def block(entries: bytes, *, kind: int = 0, restarts: bytes | None = None) -> bytes:
    """A block with its trailer."""
    content = entries + (struct.pack("<II", 0, 1) if restarts is None else restarts) + bytes([kind])
    crc = crc32c(content)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return content + struct.pack("<I", masked)


def table(blocks: list[bytes], *, handles: list[tuple[int, int]] | None = None) -> bytes:
    """A table; `handles` replaces what the index says of the blocks."""
    places, content = [], b""
    for one in blocks:
        places.append((len(content), len(one) - 5))
        content += one
    rows = enumerate(handles if handles is not None else places)
    index = block(b"".join(entry(0, b"%05d" % n, varint(o) + varint(s)) for n, (o, s) in rows))
    footer = bytes(2) + varint(len(content)) + varint(len(index) - 5)
    return content + index + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def test_prefixes_and_blocks_are_joined() -> None:
    first = entry(0, b"", b"head") + entry(0, b"layer/a", b"1") + entry(6, b"b", b"22")
    content = table([block(first), block(entry(0, b"layer/c", b"") + entry(7, b"c", b"x"))])
    assert list(read_table(content)) == [
        (b"", b"head"),
        (b"layer/a", b"1"),
        (b"layer/b", b"22"),
        (b"layer/c", b""),
        (b"layer/cc", b"x"),
    ]


def test_no_rows() -> None:
    assert list(read_table(table([]))) == []
    assert list(read_table(table([block(b"")]))) == []


A = entry(0, b"a", b"1")
HOSTILE = {
    "empty": (b"", "too few"),
    "other magic": (table([block(A)])[:-1] + b"\0", "last bytes"),
    "snappy": (table([block(A, kind=1)]), "Snappy"),
    "unknown type": (table([block(A, kind=7)]), "type 7"),
    "wrong checksum": (b"\7" + table([block(A)])[1:], "checksum"),
    "same key": (table([block(A + A)]), "not in order"),
    "descending": (table([block(entry(0, b"b", b"") + A)]), "not in order"),
    "same block": (table([block(A)], handles=[(0, 13), (0, 13)]), "lies in the one before"),
    "beyond the end": (table([block(A)], handles=[(1000, 13)]), "ends after the file"),
    "huge block": (table([block(A)], handles=[(0, 2**63)]), "ends after the file"),
    "shares too much": (table([block(entry(1, b"a", b""))]), "does not fit"),
    "value too long": (table([block(b"\0\1\x7fa1")]), "does not fit"),
    "key too long": (table([block(entry(0, b"k" * 2000, b""))]), "1024"),
    "restarts": (table([block(A, restarts=struct.pack("<I", 2**32 - 1))]), "restart"),
    "too short": (table([block(b"", restarts=b"\0\0")]), "too short"),
    "cut number": (table([block(b"\x80")]), "cut off"),
    "long number": (table([block(b"\xff" * 11)]), "64 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tables_are_refused(name: str) -> None:
    content, words = HOSTILE[name]
    with pytest.raises(ValueError, match=words):
        list(read_table(content))


def test_a_table_cannot_unfold() -> None:
    """Keys that share nearly all of their bytes cost no more than the limit of one each."""
    entries = entry(0, b"k" * 1000, b"")
    for number in range(2000):
        entries += entry(1000, b"%04d" % number, b"")
    start = time.monotonic()
    assert len(list(read_table(table([block(entries)])))) == 2001
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**64 - 1])
def test_varints(number: int) -> None:
    encoded = varint(number)
    assert read_varint(b"\1" + encoded + b"\1", 1) == (number, 1 + len(encoded))
    with pytest.raises(ValueError, match="cut off"):
        read_varint(encoded[:-1], 0)
