"""Fetching one file so that what stands under its name is whole and was checked.

A transfer that breaks off goes on where it stopped, also in a later process. Until it is complete,
``NAME.part`` holds the bytes so far, and ``NAME.part.from`` says of which version of which URL they
are: its strong ETag, else its date (RFC 9110, 13.1.5). A server that has another version by then,
or that cannot send the rest of a file, sends the whole, and the transfer begins again.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from suite.connection import Answer, Failed, request, require_fetchable
from suite.errors import InputError
from suite.files import file_sha256, replacing, write_text
from suite.locking import alone

Progress = Callable[[int, int], None]
Say = Callable[[str], None]

RETRY_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0)
_WORTH_BYTES: Final = 1 << 20  # a try that brought as much was not in vain
_MAX_NOTE_BYTES: Final = 1 << 14


def say_on_stderr(sentence: str) -> None:
    """Print a sentence where it does not mix with results."""
    print(sentence, file=sys.stderr)


def show_nothing(done: int, total: int) -> None:
    """Take progress and show none."""


def fetch(
    url: str,
    path: Path,
    *,
    digest: str | None = None,
    progress: Progress = show_nothing,
    say: Say = say_on_stderr,
    delays_s: Sequence[float] = RETRY_DELAYS_S,
) -> str:
    """Make `path` the file of a URL; one that is there already, from wherever, is checked and kept.

    Without a published digest the first file counts once its content has proved that it is no other
    (such as the page of a network that wants a login): callers then pass the sha256 that they got
    to `keep_digest`.

    Args:
        url: https; http is for this machine alone.
        path: missing folders are made.
        digest: its sha256 in hexadecimal, or how that begins, where the publisher states it.
        progress: called with the bytes done and the bytes in all.
        say: called with what a person should know, a sentence at a time.
        delays_s: seconds to wait before each further try, while tries are in vain.

    Returns:
        the sha256 of the file in hexadecimal.

    Raises:
        InputError: it cannot be had, or is another file than expected; `path` stays as it was.
        UsageError: a URL of another kind.
    """
    require_fetchable(url)
    part, kept = _Part(url, path), _beside(path, ".sha256")
    try:
        expected = _Expected(digest) if digest else _read_kept(kept)
        found = _digest_there(path, expected)
        if found is None:
            found = _bring(part, expected, progress=progress, say=say, delays_s=delays_s)
    except OSError as error:
        raise InputError(f"{path}: cannot be written or read ({error})") from error
    return found


def keep_digest(path: Path, digest: str, *, say: Say = say_on_stderr) -> None:
    """Make a file without a published digest the one that counts, as ``NAME.sha256`` beside it.

    Args:
        path: of the file.
        digest: its sha256; one that is kept already has been compared by `fetch` and stays.
        say: see `fetch`.

    Raises:
        InputError: the place cannot be written.
    """
    kept = _beside(path, ".sha256")
    if kept.exists():
        return
    try:
        write_text(kept, digest + "\n")
    except OSError as error:
        raise InputError(f"{kept}: cannot be written ({error})") from error
    say(f"{path.name}: no digest is published; kept for the next time: sha256 {digest}")


def require_room(folder: Path, num_bytes: int) -> None:
    """Raise InputError where a folder's disk has less than `num_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{folder}: {num_bytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free; "
            "make room or choose another folder"
        )


@dataclass(frozen=True)
class _Expected:
    """How a file's sha256 must begin, and a note on who says so."""

    digest: str
    note: str = ""

    def require(self, found: str, *, source: str, remedy: str = "") -> None:
        """Raise InputError for another sha256."""
        if not found.startswith(self.digest):
            raise InputError(
                f"{source}: its sha256 is {found}, expected {self.digest}{self.note}{remedy}"
            )


@dataclass(frozen=True)
class _Origin:
    """Of which version of a file the bytes of a part are, and how many it has in all."""

    validator: str
    total: int


class _Part:
    """A file that is not complete yet, of the URL that it is to have; `path` is its final name."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.place = _beside(path, ".part")
        self._note = _beside(path, ".part.from")

    def size(self) -> int:
        """Return the bytes so far."""
        return self.place.stat().st_size if self.place.exists() else 0

    def origin(self) -> _Origin | None:
        """Return what the bytes are of, None where they are of no use."""
        try:
            with self._note.open(encoding="utf-8") as file:
                url, validator, total = file.read(_MAX_NOTE_BYTES).split("\n")
            origin = _Origin(validator, int(total))
        except (OSError, ValueError):
            return None
        fits = url == self.url and self.place.exists() and self.size() <= origin.total
        return origin if fits else None

    def begin(self, origin: _Origin) -> None:
        """Say what the bytes will be of."""
        write_text(self._note, f"{self.url}\n{origin.validator}\n{origin.total}")

    def finish(self, expected: _Expected) -> str:
        """Give the complete file its name and return its sha256."""
        found = file_sha256(self.place)
        try:
            expected.require(found, source=self.url)
        except InputError:
            self.discard()
            raise
        with replacing(self.path) as temporary:
            self.place.rename(temporary)
        self.discard()
        return found

    def discard(self) -> None:
        """Forget the bytes and the note."""
        self.place.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _bring(
    part: _Part, expected: _Expected, *, progress: Progress, say: Say, delays_s: Sequence[float]
) -> str:
    """Return the sha256 of the file that is there now."""
    part.path.parent.mkdir(parents=True, exist_ok=True)
    with alone(_beside(part.path, ".lock"), say=say):
        # Another process may have brought it while this one waited.
        found = _digest_there(part.path, expected)
        if found is None:
            say(f"fetching {part.url}")
            _complete(part, progress=progress, say=say, delays_s=delays_s)
            found = part.finish(expected)
        return found


def _complete(part: _Part, *, progress: Progress, say: Say, delays_s: Sequence[float]) -> None:
    """Transfer until the part is whole; what has begun is tried again."""
    furthest = num_vain = 0
    begun = False
    while True:
        try:
            return _transfer(part, progress=progress)
        except Failed as failure:
            if part.size() >= furthest + _WORTH_BYTES:
                num_vain = 0
            furthest = max(furthest, part.size())
            ends = failure.retry == "never" or (failure.retry == "once begun" and not begun)
            if ends or num_vain == len(delays_s):
                raise InputError(
                    f"cannot fetch {part.url} ({failure}); start again later, or place a copy of "
                    f"the file at {part.path}"
                ) from failure
            if failure.retry == "afresh":
                part.discard()
            say(f"{part.path.name}: {failure}; trying again in {delays_s[num_vain]:g} s")
            time.sleep(delays_s[num_vain])
            num_vain += 1
            begun = True


def _transfer(part: _Part, *, progress: Progress) -> None:
    """Bring what is missing, over one connection."""
    origin, start = part.origin(), part.size()
    if origin is not None and start == origin.total:
        return
    if origin is None or not origin.validator:
        origin, start = None, 0
    with request(part.url, start=start, validator=origin.validator if origin else "") as answer:
        if origin is None or answer.start == 0:
            origin = None
            part.discard()
        elif answer.total != origin.total or answer.validator not in ("", origin.validator):
            raise Failed("the file has changed", retry="afresh")
        require_room(part.place.parent, answer.total - answer.start)
        if origin is None:
            part.begin(_Origin(answer.validator, answer.total))
        _receive(answer, part, progress=progress)


def _receive(answer: Answer, part: _Part, *, progress: Progress) -> None:
    done = answer.start
    progress(done, answer.total)
    with part.place.open("ab") as file:
        while chunk := answer.read():
            file.write(chunk)
            done += len(chunk)
            progress(done, answer.total)
    if done != answer.total:
        raise Failed(f"the connection ended after {done} of {answer.total} bytes", retry="always")


def _digest_there(path: Path, expected: _Expected) -> str | None:
    """Return the sha256 of a file that is there, None where none is."""
    if not path.exists():
        return None
    found = file_sha256(path)
    expected.require(found, source=str(path), remedy="; delete the file to fetch it again")
    return found


def _read_kept(path: Path) -> _Expected:
    if not path.exists():
        return _Expected("")
    with path.open(encoding="ascii", errors="replace") as file:
        digest = file.read(_MAX_NOTE_BYTES).strip()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise InputError(f"{path}: not a sha256; delete it")
    return _Expected(digest, f" as {path} says (delete that to accept another)")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
