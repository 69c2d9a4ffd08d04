"""Training images kept decoded, in one memory-mapped file.

The file holds the pixels of all images, uint8 [H,W,3] one after another, then an index with the
sha256 of every encoded image, then the length of that index. Its name follows from the images'
names and annotated sizes and from what decodes them, so that whatever else would give other pixels
has another file.

At each start every image is asked whether it is still the one that was decoded. Beside the cache
stands what the file system said of the images (sizes, inodes, times of change, of which one cannot
be set); an image of which it now says something else is read and its sha256 compared, and where
that differs the cache is made anew. An image that cannot be decoded stays out of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from suite.data.images import describe_decoders, read_image
from suite.data.sample import DecodedImage, ImageFile, Sample
from suite.data.shared_memory import open_shared_folder
from suite.data.workers import Workers, load_batches
from suite.errors import InputError, MissingEnvironment
from suite.files import cache_folder, replacing, write_text
from suite.locking import alone
from suite.provenance import available_memory_bytes

_IMAGES_A_TURN: Final = 16
_SPARE_BYTES: Final = 2**30  # nobody wants a full disk, and a run needs shared memory itself
_GIB: Final = 2**30
_FOOTER: Final = struct.Struct("<Q")

Where = Literal["ram", "disk"]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CacheBuild:
    """How a cache is made.

    Attributes:
        workers: who decodes.
        say: called with sentences about size and place.
        progress: called with (images done, images) while images are decoded or compared.
    """

    workers: Workers
    say: Say
    progress: Callable[[int, int], None]


@contextmanager
def keep_decoded(
    samples: Sequence[Sample], *, where: Where, build: CacheBuild
) -> Iterator[tuple[tuple[Sample, ...], Path]]:
    """Yield the samples with their images decoded, and the file; one in memory goes at the end.

    Args:
        where: ram: shared memory, filled anew. disk: the user's cache folder, kept for later runs.

    Raises:
        MissingEnvironment: there is no room.
        SuiteError: a process that decodes failed or hangs.
    """
    if where == "ram":
        with open_shared_folder() as folder:
            path = folder / "images.pixels"
            yield _fill(samples, path, where, build), path
        return
    path = cache_folder("decoded") / f"{_digest_of(samples)[:32]}.pixels"
    try:
        kept = _open(samples, path, build) or _build_alone(samples, path, build)
    except OSError as error:
        raise MissingEnvironment(
            f"{path.parent}: the cache cannot be written ({error.strerror}); train without --cache"
        ) from error
    yield kept, path


def open_decoded(samples: Sequence[Sample], path: Path) -> tuple[Sample, ...]:
    """Return the samples with the images of a file that another process keeps with `keep_decoded`.

    Raises:
        InputError: the file does not belong to them.
    """
    index = _load_index(path, samples)
    if index is None:
        raise InputError(f"{path}: not the decoded images of this data; train without --cache")
    return _with_pixels(samples, path, index["token"], index["sha256"])


def _build_alone(samples: Sequence[Sample], path: Path, build: CacheBuild) -> tuple[Sample, ...]:
    """Make a cache on disk while no other process makes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent / "building.lock", say=build.say):
        _delete_leftovers(path.parent)
        made = _open(samples, path, build)  # another process may have made it meanwhile
        return _fill(samples, path, "disk", build) if made is None else made


def _digest_of(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(describe_decoders().encode())
    for sample in samples:
        file = _encoded(sample)
        place = str(file.path.absolute()), file.offset, file.length
        digest.update(repr((place, sample.image_hw)).encode())
    return digest.hexdigest()


def _encoded(sample: Sample) -> ImageFile:
    assert isinstance(sample.image, ImageFile)
    return sample.image


def _open(samples: Sequence[Sample], path: Path, build: CacheBuild) -> tuple[Sample, ...] | None:
    """Return the samples with the images of a cache that is not stale; None where there is none."""
    index = _load_index(path, samples)
    if index is None:
        return None
    seen = _load_seen(path, index["token"], len(samples))
    now = [_describe_file(_encoded(sample).path) for sample in samples]
    for done, (sample, digest) in enumerate(zip(samples, index["sha256"], strict=True), start=1):
        if now[done - 1] != seen[done - 1]:
            if _digest_image(sample) != digest:
                return None
            build.progress(done, len(samples))
    if now != seen:
        with suppress(OSError):  # the cache is sound all the same
            _write_seen(path, index["token"], now)
    build.say(f"using the cache of an earlier run: {_describe(samples, path)}")
    return _with_pixels(samples, path, index["token"], index["sha256"])


def _load_index(path: Path, samples: Sequence[Sample]) -> dict[str, Any] | None:
    """Return the index of a cache: token, and sha256 of each image, null for those left out."""
    num_bytes = _offsets(samples)[-1]
    try:
        with path.open("rb") as file:
            file.seek(num_bytes)
            tail = file.read()
        (length,) = _FOOTER.unpack(tail[-_FOOTER.size :])
        index: dict[str, Any] = json.loads(tail[: -_FOOTER.size])
        sound = length == len(tail) - _FOOTER.size and len(index["sha256"]) == len(samples)
    except (OSError, ValueError, LookupError, TypeError, struct.error):
        return None
    return index if sound else None


def _load_seen(path: Path, token: str, count: int) -> list[Any]:
    try:
        seen = json.loads(_seen_path(path).read_bytes())
        if seen["token"] == token and len(seen["files"]) == count:
            files: list[Any] = seen["files"]
            return files
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return [None] * count


def _write_seen(path: Path, token: str, files: list[Any]) -> None:
    write_text(_seen_path(path), json.dumps({"token": token, "files": files}))


def _seen_path(path: Path) -> Path:
    return path.with_suffix(".seen.json")


def _describe_file(path: Path) -> list[int] | None:
    """Return what changes with a file's content; the time of its last change cannot be set."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _digest_image(sample: Sample) -> str | None:
    """Return the sha256 of an image; None where it cannot be decoded, as in the index."""
    try:
        content = _encoded(sample).read()
        read_image(sample.image, content=content, expected_hw=sample.image_hw)
    except InputError:
        return None
    return hashlib.sha256(content).hexdigest()


def _fill(
    samples: Sequence[Sample], path: Path, where: Where, build: CacheBuild
) -> tuple[Sample, ...]:
    """Decode all images into a new file, which appears with its index or not at all."""
    build.say(f"decoding into a cache: {_describe(samples, path)}")
    offsets = _offsets(samples)
    _require_room(path.parent, offsets[-1], where)
    token, digests, files = secrets.token_hex(8), [], []
    try:
        with replacing(path) as temporary:
            _reserve(temporary, offsets[-1])
            source = _Filling(tuple(samples), temporary, offsets)
            turns = [
                list(range(start, min(start + _IMAGES_A_TURN, len(samples))))
                for start in range(0, len(samples), _IMAGES_A_TURN)
            ]
            filled = load_batches(source, turns, collate=list, workers=build.workers)
            with closing(filled):
                for batch in filled:
                    digests += [entry.digest for entry in batch]
                    files += [entry.file for entry in batch]
                    build.progress(len(digests), len(samples))
            index = json.dumps({"token": token, "sha256": digests}).encode()
            with temporary.open("ab") as file:
                file.write(index + _FOOTER.pack(len(index)))
        _write_seen(path, token, files)
    except OSError as error:
        raise MissingEnvironment(
            f"{path.parent}: the cache cannot be written ({error.strerror}); train without --cache"
        ) from error
    left_out = digests.count(None)
    if left_out:
        build.say(f"{left_out} images cannot be decoded and stay out; run `suite data check`")
    return _with_pixels(samples, path, token, digests)


def _with_pixels(
    samples: Sequence[Sample], path: Path, token: str, digests: Sequence[str | None]
) -> tuple[Sample, ...]:
    decoded = []
    for sample, digest, offset in zip(samples, digests, _offsets(samples)[:-1], strict=True):
        if digest is not None:
            image = DecodedImage(path, token, offset, sample.image_hw, _encoded(sample))
            decoded.append(replace(sample, image=image))
        else:
            decoded.append(sample)
    return tuple(decoded)


def _offsets(samples: Sequence[Sample]) -> list[int]:
    """Return where each image begins, and where the last one ends."""
    sizes = [3 * math.prod(sample.image_hw) for sample in samples]
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]


def _describe(samples: Sequence[Sample], path: Path) -> str:
    size = _offsets(samples)[-1] / _GIB
    return f"{len(samples):,} images, {size:.2f} GiB decoded, in {path}"


def _require_room(folder: Path, num_bytes: int, where: Where) -> None:
    free = shutil.disk_usage(folder).free
    remedy = "--cache disk"
    if where == "ram":
        free = min(free, available_memory_bytes() or free)
    else:
        remedy = "XDG_CACHE_HOME on a larger disk"
    if num_bytes + _SPARE_BYTES > free:
        raise MissingEnvironment(
            f"{folder}: the decoded images need {num_bytes / _GIB:.2f} GiB and 1 GiB to spare, "
            f"{free / _GIB:.2f} GiB are free; make room, or train with {remedy}, or without"
        )


def _reserve(path: Path, num_bytes: int) -> None:
    """Make a file of a size, its room taken: a full memory-mapped disk would kill the process."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)


def _delete_leftovers(folder: Path) -> None:
    """Delete what a killed process was building; who has the lock knows that none is alive."""
    for path in folder.glob(".*.pixels"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.pixels", path.name):
            path.unlink()


@dataclass(frozen=True)
class _Filled:
    """An image that was looked at: its sha256, None where it cannot be decoded, and its file."""

    digest: str | None
    file: list[int] | None


@dataclass(frozen=True)
class _Filling:
    """Decodes images into their places."""

    samples: tuple[Sample, ...]
    path: Path
    offsets: list[int]

    def load(self, index: int, starting: Callable[[int], None]) -> _Filled:
        """Decode one image."""
        starting(index)
        sample = self.samples[index]
        # Before it is read: a change from now on shows at the next start.
        file = _describe_file(_encoded(sample).path)
        try:
            content = _encoded(sample).read()
            pixels = read_image(sample.image, content=content, expected_hw=sample.image_hw)
        except InputError:
            return _Filled(None, file)
        place = np.memmap(
            self.path, np.uint8, "r+", offset=self.offsets[index], shape=(pixels.size,)
        )
        place[:] = pixels.reshape(-1)
        return _Filled(hashlib.sha256(content).hexdigest(), file)

    def name_of(self, index: int) -> str:
        """Return the name of an image."""
        return str(self.samples[index].image)
