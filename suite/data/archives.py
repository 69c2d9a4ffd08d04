"""Taking named files and folders out of an archive by others: zip, or tar that is not compressed.

Nothing is written outside the given folder: a name that would leave it ends the unpacking, and only
ordinary files and folders are made. How much an archive may hold is limited, and the disk is asked
before the first byte.
"""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from suite.data.formats.containment import ContainedFolder
from suite.download import Progress, require_room, show_nothing
from suite.errors import InputError

MAX_MEMBERS: Final = 1_000_000
MAX_BYTES: Final = 64 * 1024**3
_CHUNK_BYTES: Final = 1 << 20
_ENCRYPTED: Final = 1  # bit of a zip member's flags
_PLAIN_TYPES: Final = (0, stat.S_IFREG, stat.S_IFDIR)  # 0 by packers that know no types
_COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What the two modules raise on bytes that are not theirs, depending on where the parsing stops.
_DAMAGES: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
)


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive; `refusal` says why it is not unpacked, empty where it is."""

    name: str
    num_bytes: int
    is_folder: bool
    refusal: str
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path, folder: Path, *, wanted: Sequence[str], progress: Progress = show_nothing
) -> None:
    """Write what is wanted of an archive into a folder, under the names that it has there.

    Args:
        archive: the file.
        folder: exists; nothing of what is wanted is in it.
        wanted: names of files, and of folders with all that is in them; what is not in the archive
            is left out.
        progress: called with the bytes written and the bytes in all.

    Raises:
        InputError: the archive is damaged, hostile or too large; some of it may have been written.
        OSError: the place cannot be written.
    """
    inside = ContainedFolder(folder)
    try:
        with _open_members(archive) as members:
            chosen = _choose(members, wanted, inside=inside, source=str(archive))
            total, done = sum(member.num_bytes for member in chosen), 0
            if total > MAX_BYTES:
                raise InputError(
                    f"{archive}: {total} bytes unpacked, at most {MAX_BYTES} are taken"
                )
            require_room(folder, total)
            for member in chosen:
                _write(member, folder / member.name)
                done += member.num_bytes
                progress(done, total)
    except _DAMAGES as error:
        raise InputError(
            f"{archive}: damaged, or neither zip nor tar ({error}); delete it to fetch it again"
        ) from error


@contextmanager
def _open_members(archive: Path) -> Iterator[Iterable[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    else:
        with tarfile.open(archive, "r:") as taped:
            yield _tar_members(taped)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    refusal = ""
    if stat.S_IFMT(info.external_attr >> 16) not in _PLAIN_TYPES:
        refusal = "a link or device"
    elif info.flag_bits & _ENCRYPTED:
        refusal = "encrypted"
    elif info.compress_type not in _COMPRESSIONS:
        refusal = f"compressed in way {info.compress_type}"
    return _Member(
        info.filename, info.file_size, info.is_dir(), refusal, lambda: archive.open(info)
    )


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        yield _tar_member(archive, info)
    # The module takes any damage after the first member for the end, which is a block of zeros.
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"no end, but something else at byte {archive.offset}")


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    def open_file() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None  # as it is of an ordinary file
        return file

    refusal = "" if info.isdir() or info.isreg() else "a link or device"
    if info.issparse():
        refusal = "sparse"  # so that it can be far larger than the archive
    return _Member(info.name, max(info.size, 0), info.isdir(), refusal, open_file)


def _choose(
    members: Iterable[_Member], wanted: Sequence[str], *, inside: ContainedFolder, source: str
) -> list[_Member]:
    chosen = []
    folders = tuple(f"{name}/" for name in wanted)
    for num_before, member in enumerate(members):
        if num_before == MAX_MEMBERS:
            raise InputError(f"{source}: more than {MAX_MEMBERS} members, too many to unpack")
        inside.locate(member.name, source=source)
        if member.name in wanted or member.name.startswith(folders):
            if member.refusal:
                raise InputError(f"{source}: {member.name!r} is {member.refusal}, not unpacked")
            if not member.is_folder:
                chosen.append(member)
    return chosen


def _write(member: _Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            target.write(chunk)
        if target.tell() != member.num_bytes:
            raise ValueError(f"{member.name}: {target.tell()} of {member.num_bytes} bytes")
