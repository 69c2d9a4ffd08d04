"""TensorFlow's checkpoints (SaveV2's "tensor bundle"), read without TensorFlow.

A checkpoint `NAME` is `NAME.index`, a table (`suite.zoo.sstable`), and the bytes of the tensors,
row by row, in `NAME.data-00000-of-00001` and so on. The table holds protocol buffers: a
BundleHeaderProto under the empty key, and a BundleEntryProto under each tensor's name, which says
where the tensor lies and its CRC-32C (tensorflow/core/protobuf/tensor_bundle.proto).

The names of the data files follow from the index file's own name, never from its content.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from suite.crc32c import crc32c, unmask
from suite.errors import InputError
from suite.files import read_bounded
from suite.zoo.sstable import read_table, read_varint

_MAX_INDEX_BYTES: Final = 16 * 1024**2
_MAX_TENSORS: Final = 100_000
_MAX_DIMS: Final = 254  # TensorFlow's own limit
_VERSION: Final = 1
_REMEDY: Final = (
    "give the name of a TensorFlow checkpoint, such as model.ckpt-1 for model.ckpt-1.index"
)
_SHARD_NAME: Final = re.compile(r"(.+)\.(index|data-\d{5}-of-\d{5})")
_MAX_ELEMENTS: Final = 2**60
# DataType of tensorflow/core/framework/types.proto, those that torch has.
_DTYPES: Final = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies.

    Attributes:
        dtype: None for one that torch does not have, such as strings.
        shape: as stored.
        shard, offset, size: the number of the data file, and the bytes in it.
        checksum: CRC-32C of these bytes, masked.
        sliced: whether the tensor is stored in pieces under other keys.
    """

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


@dataclass(frozen=True)
class TensorBundle(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name; one is read when it is asked for.

    Attributes:
        prefix: the checkpoint's name, without `.index`.
        num_shards: how many data files there are.
        entries: by the tensor's name.
    """

    prefix: Path
    num_shards: int
    entries: Mapping[str, Entry]

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            InputError: its bytes are damaged, or it is of a kind that is not read.
        """
        entry = self.entries[name]
        if entry.sliced:
            raise InputError(
                f"{self.prefix}.index: '{name}' is a partitioned variable, stored in slices, which "
                "are not read; save the checkpoint from an unpartitioned model"
            )
        if entry.dtype is None:
            raise InputError(f"{self.prefix}.index: '{name}' is of a type that torch does not have")
        path = self.shard_path(entry.shard)
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                content = bytearray(file.read(entry.size))  # writable, as torch wants it
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        if crc32c(content) != unmask(entry.checksum):
            raise InputError(f"{path}: damaged, the checksum of '{name}' is wrong; copy it again")
        if not content:
            return torch.empty(entry.shape, dtype=entry.dtype)
        return torch.frombuffer(content, dtype=entry.dtype).reshape(entry.shape)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shard_path(self, shard: int) -> Path:
        """Return where a data file stands."""
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.num_shards:05d}")


def open_bundle(path: Path) -> TensorBundle:
    """Read a checkpoint's index and hold it against its data files.

    Args:
        path: the checkpoint's name, its index file or one of its data files.

    Raises:
        InputError: a file is missing, damaged, hostile or of a kind that is not read.
    """
    prefix = find_prefix(path)
    index = Path(f"{prefix}.index")
    if prefix.is_dir() and not index.is_file():
        raise InputError(f"{path}: a folder; {_REMEDY}")
    content = read_bounded(index, limit=_MAX_INDEX_BYTES, remedy=_REMEDY)
    try:
        entries, num_shards = _read_index(content)
    except ValueError as error:
        raise InputError(
            f"{index}: not a sound TensorFlow checkpoint index ({error}); copy it again, or save "
            "the checkpoint again"
        ) from error
    bundle = TensorBundle(prefix, num_shards, entries)
    _check_places(bundle)
    return bundle


def find_prefix(path: Path) -> Path:
    """Return the name of the checkpoint that a path means."""
    if Path(f"{path}.index").is_file():
        return path
    match = _SHARD_NAME.fullmatch(path.name)
    return path.with_name(match[1]) if match else path


def _check_places(bundle: TensorBundle) -> None:
    """Hold every tensor against its data file; they cannot share bytes, or a file could grow."""
    sizes: dict[int, int] = {}
    stored: Counter[int] = Counter()
    for name, entry in bundle.entries.items():
        path = bundle.shard_path(entry.shard)
        if entry.shard not in sizes:
            sizes[entry.shard] = _measure(path)
        stored[entry.shard] += entry.size
        if entry.offset + entry.size > sizes[entry.shard]:
            raise InputError(f"{path}: cut short, '{name}' ends after it; copy it again")
        if stored[entry.shard] > sizes[entry.shard]:
            raise InputError(f"{path}: smaller than its tensors are together; it is not sound")


def _measure(path: Path) -> int:
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; a TensorFlow checkpoint is its .index file and all its .data "
            "files side by side"
        )
    return path.stat().st_size


def _read_index(content: bytes) -> tuple[dict[str, Entry], int]:
    rows = read_table(content)
    key, value = next(rows, (b"no key", b""))
    if key:
        raise ValueError("it has no header")
    num_shards = _read_header(value)
    entries: dict[str, Entry] = {}
    for key, value in rows:
        # Names that are no text belong to slices; they are shown, not read.
        name = key.decode("utf-8", "backslashreplace")
        if name in entries or len(entries) == _MAX_TENSORS:
            raise ValueError(f"'{name}' is there twice, or there are over {_MAX_TENSORS} tensors")
        entries[name] = _read_entry(value, name, num_shards=num_shards)
    return entries, num_shards


def _read_header(content: bytes) -> int:
    fields = _read_fields(content)
    version = _read_fields(_last_bytes(fields, 3))
    if _last_number(fields, 2) != 0:
        raise ValueError("it is big-endian, which is not read")
    if _last_number(version, 2) > _VERSION:
        raise ValueError("it is of a newer version than we know")
    num_shards = _last_number(fields, 1)
    if not 1 <= num_shards <= 99_999:
        raise ValueError(f"{num_shards} data files cannot be")
    return num_shards


def _read_entry(content: bytes, name: str, *, num_shards: int) -> Entry:
    fields = _read_fields(content)
    shape_fields = _read_fields(_last_bytes(fields, 2))
    dims = [_read_fields(v) for number, v in shape_fields if number == 2 and isinstance(v, bytes)]
    entry = Entry(
        dtype=_DTYPES.get(_last_number(fields, 1)),
        shape=tuple(_last_number(dim, 1) for dim in dims),
        shard=_last_number(fields, 3),
        offset=_last_number(fields, 4),
        size=_last_number(fields, 5),
        checksum=_last_number(fields, 6),
        sliced=any(number == 7 for number, _ in fields),
    )
    if entry.shard >= num_shards:
        raise ValueError(f"'{name}' lies in data file {entry.shard} of {num_shards}")
    if len(dims) > _MAX_DIMS or math.prod(max(size, 1) for size in entry.shape) > _MAX_ELEMENTS:
        raise ValueError(f"'{name}' has a shape that no tensor has")
    if entry.dtype is not None and not entry.sliced:
        wanted = math.prod(entry.shape) * entry.dtype.itemsize
        if entry.size != wanted:
            raise ValueError(f"'{name}' has {entry.size} bytes, its shape needs {wanted}")
    return entry


Field = tuple[int, int | bytes]


def _read_fields(message: bytes) -> list[Field]:
    """Return the fields of a protocol buffer as (number, value), bytes for what has a length."""
    fields: list[Field] = []
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = read_varint(message, position)
            case 2:
                length, position = read_varint(message, position)
                value = _cut(message, position, length)
                position += length
            case 1 | 5 as kind:
                length = 8 if kind == 1 else 4
                value = int.from_bytes(_cut(message, position, length), "little")
                position += length
            case other:
                raise ValueError(f"a field of the unknown wire type {other}")
        fields.append((tag >> 3, value))
    return fields


def _cut(message: bytes, position: int, length: int) -> bytes:
    if position + length > len(message):
        raise ValueError("a field is cut off")
    return message[position : position + length]


def _last_number(fields: list[Field], number: int) -> int:
    found = [value for key, value in fields if key == number]
    if not found:
        return 0
    if isinstance(found[-1], bytes):
        raise ValueError(f"field {number} is not a number")
    return found[-1]


def _last_bytes(fields: list[Field], number: int) -> bytes:
    found = [value for key, value in fields if key == number]
    if not found:
        return b""
    if not isinstance(found[-1], bytes):
        raise ValueError(f"field {number} is not a message")
    return found[-1]
