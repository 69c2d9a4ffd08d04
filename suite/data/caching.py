"""Training images kept decoded, in one memory-mapped file beside an index of what is in it.

The file holds the pixels of all images, uint8 [H,W,3] one after another. Its name follows from the
annotations, the images' names and their sizes; the index has the sha256 of every encoded image and
what the file system says of its file. At each start every file is asked whether it is still the
same (size, inode, times of change); one that is not is read and its sha256 compared, and where that
differs the cache is made anew. An image that cannot be decoded stays out of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from suite.data.images import read_image
from suite.data.sample import DecodedImage, ImageFile, Sample
from suite.data.workers import Workers, load_batches
from suite.errors import InputError, MissingEnvironment
from suite.files import cache_folder, replacing, write_text

_SCHEMA: Final = "suite.decoded/1"
_RAM: Final = Path("/dev/shm")  # noqa: S108 - a folder of this process alone is made there
_IMAGES_A_TURN: Final = 16
_SPARE_BYTES: Final = 2**30  # of a disk: nobody wants it full
_GIB: Final = 2**30

Say = Callable[[str], None]
Progress = Callable[[int, int], None]


@contextmanager
def keep_decoded(
    samples: Sequence[Sample],
    *,
    where: Literal["ram", "disk"],
    workers: Workers,
    say: Say,
    progress: Progress,
) -> Iterator[tuple[Sample, ...]]:
    """Yield the samples with their images decoded; what is in memory goes at the end.

    Args:
        where: ram: shared memory, filled anew. disk: the user's cache folder, kept for later runs.
        say: called with sentences about size and place.
        progress: called with (images done, images) while images are decoded.

    Raises:
        MissingEnvironment: there is no room.
        SuiteError: a process that decodes failed or hangs.
    """
    build = _Build(samples, workers, say, progress)
    if where == "disk":
        yield _open_or_build(cache_folder("decoded"), build)
        return
    if not _RAM.is_dir():
        raise MissingEnvironment(f"--cache ram needs {_RAM}, which is not here; use --cache disk")
    with tempfile.TemporaryDirectory(dir=_RAM, prefix="npu-detection-suite-") as folder:
        yield _open_or_build(Path(folder), build)


@dataclass(frozen=True)
class _Build:
    """What a cache is made from, and by whom."""

    samples: Sequence[Sample]
    workers: Workers
    say: Say
    progress: Progress


def _open_or_build(folder: Path, build: _Build) -> tuple[Sample, ...]:
    samples = build.samples
    path = folder / f"{_digest_of(samples)[:32]}.pixels"
    entries = _load_entries(path, samples)
    num_bytes = _offsets(samples)[-1]
    size = f"{len(samples):,} images, {num_bytes / _GIB:.2f} GiB decoded, in {path}"
    if entries is None:
        build.say(f"decoding into a cache: {size}")
        entries = _fill(path, build)
    else:
        build.say(f"using the cache of an earlier run: {size}")
    offsets = _offsets(samples)
    return tuple(
        sample if entry is None else replace(sample, image=_decoded(sample, path, offset))
        for sample, entry, offset in zip(samples, entries, offsets[:-1], strict=True)
    )


def _decoded(sample: Sample, path: Path, offset: int) -> DecodedImage:
    assert isinstance(sample.image, ImageFile)
    return DecodedImage(path, offset, sample.image_hw, sample.image)


def _offsets(samples: Sequence[Sample]) -> list[int]:
    """Return where each image begins, and where the last one ends."""
    sizes = [3 * math.prod(sample.image_hw) for sample in samples]
    return [0, *np.cumsum(sizes, dtype=np.int64).tolist()]


def _digest_of(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(_SCHEMA.encode())
    for sample in samples:
        digest.update(repr((_place(sample), sample.image_hw)).encode())
    return digest.hexdigest()


def _place(sample: Sample) -> tuple[str, int]:
    assert isinstance(sample.image, ImageFile)
    return str(sample.image.path.absolute()), sample.image.offset


def _index_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _load_entries(path: Path, samples: Sequence[Sample]) -> list[Any] | None:
    """Return the index of a cache whose images are all what they were; None where one is not."""
    try:
        index = json.loads(_index_of(path).read_bytes())
        if index["bytes"] != path.stat().st_size or len(index["entries"]) != len(samples):
            return None
        entries: list[Any] = index["entries"]
        fresh = all(map(_is_fresh, samples, entries))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return entries if fresh else None


def _is_fresh(sample: Sample, entry: dict[str, Any] | None) -> bool:
    assert isinstance(sample.image, ImageFile)
    if entry is None:
        return not _can_be_read(sample)
    if entry["file"] == _describe_file(sample.image.path):
        return True
    try:
        return bool(entry["sha256"] == hashlib.sha256(sample.image.read()).hexdigest())
    except InputError:
        return False


def _can_be_read(sample: Sample) -> bool:
    try:
        read_image(sample.image, expected_hw=sample.image_hw)
    except InputError:
        return False
    return True


def _describe_file(path: Path) -> list[int]:
    """Return what changes with a file's content; the time of its last change cannot be set."""
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _fill(path: Path, build: _Build) -> list[Any]:
    """Decode all images into a new file and write its index; nothing stands there before."""
    samples, offsets = build.samples, _offsets(build.samples)
    _index_of(path).unlink(missing_ok=True)
    entries: list[Any] = []
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
                    entries += batch
                    build.progress(len(entries), len(samples))
        index = {"schema": _SCHEMA, "bytes": offsets[-1], "entries": entries}
        write_text(_index_of(path), json.dumps(index))
    except OSError as error:
        raise MissingEnvironment(
            f"{path.parent}: the cache cannot be written ({error.strerror}); train without --cache"
        ) from error
    return entries


def _reserve(path: Path, num_bytes: int) -> None:
    """Make a file of a size, its room taken: a full memory-mapped disk would kill the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    spare = 0 if path.is_relative_to(_RAM) else _SPARE_BYTES
    if num_bytes + spare > free:
        raise MissingEnvironment(
            f"{path.parent}: the decoded images need {num_bytes / _GIB:.2f} GiB, "
            f"{free / _GIB:.2f} GiB are free; make room, or train with "
            f"{'--cache disk' if not spare else 'XDG_CACHE_HOME on a larger disk'}, or without"
        )
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)


@dataclass(frozen=True)
class _Filling:
    """Decodes images into their places; gives an image's entry, None where it cannot be read."""

    samples: tuple[Sample, ...]
    path: Path
    offsets: list[int]

    def load(self, index: int, starting: Callable[[int], None]) -> dict[str, Any] | None:
        """Decode one image."""
        starting(index)
        sample = self.samples[index]
        assert isinstance(sample.image, ImageFile)
        try:
            digest = hashlib.sha256(sample.image.read()).hexdigest()
            pixels = read_image(sample.image, expected_hw=sample.image_hw)
        except InputError:
            return None
        target = _writable(self.path)[self.offsets[index] : self.offsets[index + 1]]
        target[:] = pixels.reshape(-1)
        return {"sha256": digest, "file": _describe_file(sample.image.path)}

    def name_of(self, index: int) -> str:
        """Return the name of an image."""
        return str(self.samples[index].image)


@lru_cache(maxsize=1)
def _writable(path: Path) -> NDArray[np.uint8]:
    return np.memmap(path, np.uint8, mode="r+")
