"""Writing and digesting files so that no reader ever sees half of one."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what is written there becomes `path`.

    The content is on the disk before the name is, and the name before this returns. Where the block
    fails, the temporary file goes and `path` stays as it was. Missing folders are made.

    Raises:
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def completing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` that becomes it; where the block fails, it goes.

    Raises:
        InputError: the place cannot be written, or something is there already.
    """
    temporary = folder.with_name(f".{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, all or nothing.

    Raises:
        OSError: the place cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bounded(path: Path, *, limit: int, remedy: str) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Args:
        path: the file.
        limit: in bytes.
        remedy: what to do when the file is missing, as the end of a sentence.

    Raises:
        InputError: it is missing, no regular file, unreadable or larger.
    """
    if not is_file(path):
        value = "not a regular file" if os.path.lexists(path) else "no such file"
        raise InputError(f"{path}: {value}; {remedy}")
    try:
        size = path.stat().st_size
        # By its size: asked for as much as the limit, Python first makes room for that.
        with path.open("rb") as file:
            content = file.read(size + 1) if size <= limit else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if max(size, len(content)) > limit:
        raise InputError(f"{path}: larger than {limit} bytes, the most we read of such a file")
    return content


def is_file(path: Path) -> bool:
    """Whether a regular file is there; False, too, for names that none can have or closed folders.

    `Path.is_file` raises for those in Python 3.11. Pipes and devices, which would be waited for,
    are no files.
    """
    return os.path.isfile(path)  # noqa: PTH113 - see above


def cache_folder(name: str) -> Path:
    """Return where the suite keeps what can be made again: below XDG_CACHE_HOME, else ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "npu-detection-suite" / name


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
