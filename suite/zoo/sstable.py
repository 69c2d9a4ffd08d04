"""LevelDB's sorted table, the form of TensorFlow's `.index` files: bytes keys to bytes values.

Blocks lie one after the other, each followed by a type byte and a masked CRC-32C. In a block a key
is stored as the number of bytes it shares with the key before it, and the rest. The last block but
the footer maps to the data blocks; the footer of 48 bytes says where that block is. Numbers are
little-endian, most of them varints.

Nothing in a file is trusted: every offset is checked against the file, blocks may not overlap and
keys must ascend, so that reading takes time and memory in proportion to the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from suite.crc32c import crc32c, unmask

_FOOTER_BYTES: Final = 48
_MAGIC: Final = 0xDB4775248B80FB57
_TRAILER_BYTES: Final = 5  # the type of the block and its checksum
_PLAIN, _SNAPPY = 0, 1
_MAX_KEY_BYTES: Final = 1024
_MAX_VARINT_BYTES: Final = 10


def read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table in order.

    Raises:
        ValueError: the table is damaged, hostile or compressed; the message says where.
    """
    if len(content) < _FOOTER_BYTES:
        raise ValueError(f"{len(content)} bytes are too few for a footer")
    footer = content[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("its last bytes are not a table's")
    blocks = content[:-_FOOTER_BYTES]
    _, _, position = _read_handle(footer, 0)
    offset, size, _ = _read_handle(footer, position)
    end, last_key = 0, b""
    first = True
    for _, handle in _read_block(blocks, offset, size):
        offset, size, _ = _read_handle(handle, 0)
        if offset < end:
            raise ValueError(f"the block at byte {offset} lies in the one before it")
        end = offset + size
        for key, value in _read_block(blocks, offset, size):
            if key <= last_key and not first:
                raise ValueError(f"the key {key!r} is not in order")
            first, last_key = False, key
            yield key, value


def read_varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number that starts at a position, and where it ends.

    Raises:
        ValueError: it does not end, or has more than 64 bits.
    """
    number = 0
    for count in range(_MAX_VARINT_BYTES):
        if position + count >= len(content):
            raise ValueError("a number is cut off")
        byte = content[position + count]
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if number >= 2**64:
                break
            return number, position + count + 1
    raise ValueError("a number has more than 64 bits")


def _read_handle(content: bytes, position: int) -> tuple[int, int, int]:
    offset, position = read_varint(content, position)
    size, position = read_varint(content, position)
    return offset, size, position


def _read_block(blocks: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    end = offset + size
    if end + _TRAILER_BYTES > len(blocks):
        raise ValueError(f"a block of {size} bytes at {offset} ends after the file")
    kind, stored = struct.unpack("<BI", blocks[end : end + _TRAILER_BYTES])
    if crc32c(blocks[offset : end + 1]) != unmask(stored):
        raise ValueError(f"the checksum of the block at byte {offset} is wrong")
    if kind == _SNAPPY:
        raise ValueError(
            "its blocks are compressed with Snappy, which TensorFlow's savers never use; "
            "save the checkpoint again with TensorFlow"
        )
    if kind != _PLAIN:
        raise ValueError(f"the block at byte {offset} has the unknown type {kind}")
    yield from _read_entries(blocks[offset:end])


def _read_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(block) < 4:
        raise ValueError("a block is too short")
    # The restart points at the block's end are for searching; we read from the front.
    num_restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (num_restarts + 1)
    if end < 0:
        raise ValueError(f"{num_restarts} restart points do not fit their block")
    entries, position, key = block[:end], 0, b""
    while position < end:
        shared, position = read_varint(entries, position)
        unshared, position = read_varint(entries, position)
        value_bytes, position = read_varint(entries, position)
        value_start = position + unshared
        if shared > len(key) or value_start + value_bytes > end:
            raise ValueError("an entry does not fit its block")
        if shared + unshared > _MAX_KEY_BYTES:
            raise ValueError(f"a key has more than {_MAX_KEY_BYTES} bytes")
        key = key[:shared] + entries[position:value_start]
        position = value_start + value_bytes
        yield key, entries[value_start:position]
