"""TFRecord files, record by record: the frame around the data, not what the data mean.

A record is its length (uint64), the masked CRC-32C of these eight bytes, the data, and the masked
CRC-32C of the data, all little-endian (tensorflow/core/lib/io/record_writer.h). There is no header
and no index, so behind a wrong length nothing can be found; behind wrong data the next record can.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Final

from suite.crc32c import crc32c, mask, unmask
from suite.data.formats.annotated import Problem, Report
from suite.data.formats.containment import ContainedFolder
from suite.data.sample import MAX_IMAGE_BYTES
from suite.errors import InputError

MAX_RECORD_BYTES: Final = MAX_IMAGE_BYTES + 64 * 1024**2  # an image and its annotations
_HEADER: Final = struct.Struct("<QI")
_FOOTER: Final = struct.Struct("<I")
_FRAME_BYTES: Final = _HEADER.size + _FOOTER.size
_SHARD: Final = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<suffix>.*)")
_REMEDY: Final = "copy the file again from where it was made"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file.

    Attributes:
        number: from 1.
        data: None: its checksum is wrong, which was reported.
        checksum: of its data, as stored.
    """

    number: int
    data: bytes | None
    checksum: bytes


@dataclass(frozen=True, slots=True)
class RecordFile:
    """A file after its checksums were looked at: how many records it has, which are damaged."""

    path: Path
    num_records: int
    damaged: frozenset[int]

    def walk(self) -> Iterator[tuple[int, int, BinaryIO]]:
        """Yield number, length, and the file at the start of the data, for each sound record.

        The reader may move the file and need not read the data.

        Raises:
            InputError: the file was changed since, or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                following = 0
                for number in range(1, self.num_records + 1):
                    file.seek(following)
                    header = file.read(_HEADER.size)
                    if len(header) < _HEADER.size or not _is_header(header):
                        raise InputError(f"{self.path}: changed while it was read; start again")
                    length, _ = _HEADER.unpack(header)
                    following += length + _FRAME_BYTES
                    if number not in self.damaged:
                        yield number, length, file
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error


def scan_records(path: Path, *, report: Report) -> Iterator[Record]:
    """Read a file and check both checksums of each record.

    Args:
        report: called with each damage; where it returns, records with wrong data go on being
            counted, and a wrong length ends the file.

    Raises:
        InputError: the file cannot be read; by `report`, it is damaged.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            number = 1
            while (start := file.tell()) < size:
                header = file.read(_HEADER.size)
                fault = _find_fault(header, size - start)
                if fault:
                    _report_damage(path, number, fault, report)
                    return
                data = file.read(_HEADER.unpack(header)[0])
                checksum = file.read(_FOOTER.size)
                sound = checksum == _FOOTER.pack(mask(crc32c(data)))
                if not sound:
                    value = "the checksum of its data is wrong, so bytes of it were changed"
                    _report_damage(path, number, value, report)
                yield Record(number, data if sound else None, checksum)
                number += 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append a record."""
    length = struct.pack("<Q", len(data))
    file.write(length + _FOOTER.pack(mask(crc32c(length))))
    file.write(data)
    file.write(_FOOTER.pack(mask(crc32c(data))))


def find_record_files(pattern: Path) -> list[Path]:
    """Return the files that a pattern names, ordered by name.

    Args:
        pattern: a file, or one whose last component holds the wildcards ``*``, ``?`` or ``[...]``.

    Raises:
        InputError: nothing matches, a link leads out of the folder, or of files that call
            themselves ``-00003-of-00032`` some that match are missing or of two sets.
    """
    folder = pattern.parent
    if pattern.is_file():
        names = [pattern.name]
    elif folder.is_dir():
        names = sorted(
            path.name
            for path in folder.iterdir()
            if fnmatchcase(path.name, pattern.name) and path.is_file()
        )
    else:
        names = []
    if not names:
        raise InputError(
            f"{pattern}: no file matches; give TFRecord files, such as {folder}/train2017*"
        )
    _require_all_shards(names, pattern)
    contained = ContainedFolder(folder)
    return [contained.locate(name, source=str(pattern)) for name in names]


def _require_all_shards(names: list[str], pattern: Path) -> None:
    counts: dict[tuple[str, str], int] = {}
    for shard in filter(None, map(_SHARD.fullmatch, names)):
        key, count = (shard["prefix"], shard["suffix"]), int(shard["count"])
        if counts.setdefault(key, count) != count:
            raise InputError(
                f"{pattern}: matches shards of {counts[key]} and of {count}, two writings of one "
                "set; remove one of them or narrow the pattern"
            )
    present = set(names)
    for (prefix, suffix), count in counts.items():
        for index in range(count):
            name = f"{prefix}-{index:05d}-of-{count:05d}{suffix}"
            if name not in present and fnmatchcase(name, pattern.name):
                raise InputError(
                    f"{pattern}: {name} is missing; add it, or narrow the pattern to what is there"
                )


def _is_header(header: bytes) -> bool:
    _, stored = _HEADER.unpack(header)
    return crc32c(header[:8]) == unmask(stored)


def _find_fault(header: bytes, num_left: int) -> str:
    """Return what is wrong at the start of a record; `num_left`: bytes from here to the end."""
    if len(header) < _HEADER.size:
        return f"the file ends {len(header)} bytes into it"
    if not _is_header(header):
        return "the checksum of its length is wrong, so its end cannot be found"
    length, _ = _HEADER.unpack(header)
    if length > MAX_RECORD_BYTES:
        return f"has {length} bytes, more than {MAX_RECORD_BYTES}, the most we read"
    if length + _FRAME_BYTES > num_left:
        return f"the file ends {num_left} bytes into it, of {length + _FRAME_BYTES}"
    return ""


def _report_damage(path: Path, number: int, value: str, report: Report) -> None:
    remedy = _REMEDY
    if number == 1:
        remedy = "give a TFRecord file that is not compressed, or copy it again"
    report(Problem("damaged_record", str(path), f"record {number}", value, remedy))
