"""CRC-32C, the checksum in TensorFlow's files, with C code (google_crc32c, optional) or without.

The way without is fast enough for whole checkpoints. A CRC is linear: the checksum of a message is
the exclusive or of those of its parts, each moved on by the zeros that follow it. So the message is
cut into lanes that numpy walks side by side, and the lanes are joined pair by pair.
"""

from __future__ import annotations

import importlib.util
from typing import Final

import numpy as np
from numpy.typing import NDArray

INSTALLED: Final = importlib.util.find_spec("google_crc32c") is not None
if INSTALLED:
    import google_crc32c

_POLYNOMIAL: Final = 0x82F63B78  # Castagnoli's, lowest power first
_ONES: Final = 0xFFFFFFFF
_LANE_BYTES: Final = 128  # a power of two, see `_move_over`
_MASK_DELTA: Final = 0xA282EAD8

Words = NDArray[np.uint32]


def crc32c(content: bytes | bytearray) -> int:
    """Return the CRC-32C of some bytes."""
    if INSTALLED:
        return int(google_crc32c.value(bytes(content)))
    return compute_crc32c(content)


def compute_crc32c(content: bytes | bytearray) -> int:
    """Return the CRC-32C of some bytes, without the package."""
    message = np.frombuffer(content, np.uint8)
    if len(message) < _LANE_BYTES:
        return _walk_bytes(content)
    num_lanes = -(-len(message) // _LANE_BYTES)
    padded = np.zeros(num_lanes * _LANE_BYTES, np.uint8)  # zeros in front change nothing
    start = len(padded) - len(message)
    padded[start:] = message
    padded[start : start + 4] ^= 0xFF  # the same as starting with a register of ones
    columns = np.ascontiguousarray(padded.reshape(num_lanes, _LANE_BYTES).T)
    return _join_lanes(_walk_columns(columns)) ^ _ONES


def mask(checksum: int) -> int:
    """Return what LevelDB and TensorFlow store for a CRC; the inverse of `unmask`."""
    return (((checksum >> 15) | (checksum << 17)) + _MASK_DELTA) & _ONES


def unmask(stored: int) -> int:
    """Return the CRC that LevelDB and TensorFlow store masked (rotated, plus a constant)."""
    rotated = (stored - _MASK_DELTA) & _ONES
    return ((rotated >> 17) | (rotated << 15)) & _ONES


def _walk_bytes(content: bytes | bytearray) -> int:
    register = _ONES
    for byte in content:
        register = _TABLE_LIST[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register ^ _ONES


def _walk_columns(columns: NDArray[np.uint8]) -> Words:
    """Return the register of each lane [L] for bytes [_LANE_BYTES,L]."""
    registers = np.zeros(columns.shape[1], np.uint32)
    for column in columns:
        registers = _TABLE[(registers ^ column) & 0xFF] ^ (registers >> 8)
    return registers


def _join_lanes(registers: Words) -> int:
    moved = _move_over(_LANE_BYTES)
    while len(registers) > 1:
        if len(registers) % 2:
            registers = np.concatenate([np.zeros(1, np.uint32), registers])
        registers = _apply(moved, registers[0::2]) ^ registers[1::2]
        moved = _apply(moved, moved)
    return int(registers[0])


def _move_over(num_bytes: int) -> Words:
    """Return what moves a register over a power of two of zero bytes, as tables [4,256]."""
    values = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
    tables: Words = _TABLE[values & 0xFF] ^ (values >> 8)
    for _ in range(num_bytes.bit_length() - 1):
        tables = _apply(tables, tables)
    return tables


def _apply(tables: Words, registers: Words) -> Words:
    moved = np.zeros_like(registers)
    for position, table in enumerate(tables):
        moved ^= table[(registers >> np.uint32(8 * position)) & 0xFF]
    return moved


def _build_table() -> Words:
    table: Words = np.arange(256, dtype=np.uint32)
    one, polynomial = np.uint32(1), np.uint32(_POLYNOMIAL)
    for _ in range(8):
        table = (table >> one) ^ (table & one) * polynomial
    return table


_TABLE: Final = _build_table()
_TABLE_LIST: Final[list[int]] = _TABLE.tolist()
