"""The checksum against its published values, and against its definition bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from suite.crc32c import compute_crc32c, crc32c, mask, unmask

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
    assert crc32c(content) == compute_crc32c(content) == expected


@pytest.mark.parametrize("size", [1, 3, 1023, 1024, 1025, 2048, 3071, 5 * 1024, 40_001])
def test_any_length(size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    expected = bit_by_bit(content)
    for compute in (crc32c, compute_crc32c):  # with the C code, where it is installed, and without
        assert compute(content) == compute(bytearray(content)) == expected


def test_zeros_in_front_count() -> None:
    assert len({compute_crc32c(bytes(size)) for size in (1, 2, 1024, 1025, 2048, 4096)}) == 6


def test_mask_is_leveldbs() -> None:
    masked = ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmask(masked) == 0xE3069283
    assert mask(0xE3069283) == masked


@pytest.mark.parametrize("checksum", [0, 1, 0x7FFF, 0x8000, 0xFFFFFFFF])
def test_mask_undoes_unmask(checksum: int) -> None:
    assert unmask(mask(checksum)) == checksum
    assert mask(checksum) <= 0xFFFFFFFF
