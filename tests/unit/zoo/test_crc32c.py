"""The checksum against its published values, and against its definition bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from suite.zoo.crc32c import crc32c, unmask

# RFC 3720, B.4, and the check value of every catalogue of CRCs.
PUBLISHED = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
]


def bit_by_bit(content: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in content:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(("content", "expected"), PUBLISHED)
def test_published_values(content: bytes, expected: int) -> None:
    assert crc32c(content) == expected


@pytest.mark.parametrize("size", [1, 3, 1023, 1024, 1025, 2048, 3071, 5 * 1024, 40_001])
def test_any_length(size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    assert crc32c(content) == bit_by_bit(content)
    assert crc32c(bytearray(content)) == bit_by_bit(content)


def test_zeros_in_front_count() -> None:
    assert len({crc32c(bytes(size)) for size in (1, 2, 1024, 1025, 2048, 4096)}) == 6


def test_mask_is_leveldbs() -> None:
    masked = ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmask(masked) == 0xE3069283
