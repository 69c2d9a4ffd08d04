"""Decoded images: the same pixels, never stale, all or nothing, within the room there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from suite.data.caching import CacheBuild, keep_decoded
from suite.data.images import read_image
from suite.data.sample import DecodedImage, ImageFile, Sample
from suite.data.workers import Workers
from suite.errors import InputError, MissingEnvironment

Where = Literal["ram", "disk"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "npu-detection-suite" / "decoded"


def write_photo(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def samples(tmp_path: Path) -> tuple[Sample, ...]:
    made = []
    for seed in range(5):
        path = tmp_path / f"{seed}.png"
        write_photo(path, seed)
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
        made.append(Sample(seed, ImageFile(path), (20 + seed, 30), *nothing))
    return tuple(made)


class Told(list[str]):
    """What a cache said, and how many images it decoded."""

    decoded = 0

    def progress(self, done: int, _total: int) -> None:
        self.decoded = done


@contextmanager
def opened(
    samples: tuple[Sample, ...], where: Where, *, workers: int = 0
) -> Iterator[tuple[tuple[Sample, ...], Told]]:
    told = Told()
    build = CacheBuild(workers=Workers(num=workers), say=told.append, progress=told.progress)
    with keep_decoded(samples, where=where, build=build) as (kept, _):
        yield kept, told


@pytest.mark.parametrize(("where", "workers"), [("disk", 0), ("disk", 2), ("ram", 2)])
def test_pixels_are_those_of_the_files(
    samples: tuple[Sample, ...], where: Where, workers: int
) -> None:
    with opened(samples, where, workers=workers) as (kept, told):
        assert told.decoded == 5
        assert "5 images, 0.00 GiB decoded, in" in told[0]
        for sample, cached in zip(samples, kept, strict=True):
            assert isinstance(cached.image, DecodedImage)
            pixels = read_image(cached.image, expected_hw=cached.image_hw)
            np.testing.assert_array_equal(pixels, read_image(sample.image))
            assert not pixels.flags.writeable
            assert str(cached.image) == str(sample.image)
        where_kept = kept[0].image.path
        assert where_kept.exists()
    assert where_kept.exists() == (where == "disk")


def test_a_later_run_decodes_nothing(samples: tuple[Sample, ...]) -> None:
    with opened(samples, "disk"):
        pass
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 0
        assert told[0].startswith("using the cache of an earlier run: 5 images")
        np.testing.assert_array_equal(read_image(kept[3].image), read_image(samples[3].image))


def replace_photo(path: Path) -> NDArray[np.uint8]:
    """Put another picture of the same size there, with the old time of change; return it."""
    before = path.stat()
    changed = np.asarray(Image.open(path)) ^ 255
    # PNG without compression: equal sizes for equal shapes.
    Image.fromarray(changed).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return changed


def test_a_stale_cache_is_never_used(samples: tuple[Sample, ...]) -> None:
    for _ in range(3):
        changed = replace_photo(samples[2].image.path)
        with opened(samples, "disk") as (kept, told):
            assert told.decoded == 5
            np.testing.assert_array_equal(read_image(kept[2].image), changed)


def test_a_change_while_the_cache_is_made_shows_at_the_next_start(
    samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = {}

    def read_and_replace(source: ImageFile, **more: Any) -> NDArray[np.uint8]:
        pixels = read_image(source, **more)
        if source.path.name == "2.png":
            changed["pixels"] = replace_photo(source.path)
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr("suite.data.caching.read_image", read_and_replace)
        with opened(samples, "disk"):
            pass
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 5
        np.testing.assert_array_equal(read_image(kept[2].image), changed["pixels"])


def test_files_that_were_copied_are_compared_by_content_once(samples: tuple[Sample, ...]) -> None:
    with opened(samples, "disk"):
        pass
    path = samples[1].image.path
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)  # another inode and times, the same bytes
    for compared in (2, 0):  # the second of five images, then none
        with opened(samples, "disk") as (_, told):
            assert told[0].startswith("using the cache of an earlier run")
            assert told.decoded == compared


def test_another_decoder_has_a_cache_of_its_own(
    samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(samples, "disk"):
        pass
    monkeypatch.setattr("suite.data.images.JPEG_VERSION", "another")
    with opened(samples, "disk") as (_, told):
        assert told.decoded == 5


def test_parts_of_a_record_file_are_cached_too(samples: tuple[Sample, ...], tmp_path: Path) -> None:
    parts = [sample.image.path.read_bytes() for sample in samples]
    record = tmp_path / "all.record"
    record.write_bytes(b"".join(parts))
    offsets = np.cumsum([0, *map(len, parts)]).tolist()
    moved = tuple(
        replace(sample, image=ImageFile(record, start, len(part), f"record {start}"))
        for sample, part, start in zip(samples, parts, offsets, strict=False)
    )
    for decoded in (5, 0):
        with opened(moved, "disk") as (kept, told):
            assert told.decoded == decoded
            for sample, cached in zip(samples, kept, strict=True):
                np.testing.assert_array_equal(read_image(cached.image), read_image(sample.image))


def test_an_interrupted_build_leaves_nothing(
    samples: tuple[Sample, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("suite.data.caching.read_image", interrupt)
    with pytest.raises(KeyboardInterrupt), opened(samples, "disk"):
        pass
    assert list(cache.iterdir()) == []


def test_what_a_killed_build_left_goes_with_the_next(
    samples: tuple[Sample, ...], cache: Path
) -> None:
    cache.mkdir(parents=True)
    (cache / f".{'0' * 16}.pixels").write_bytes(b"half")
    with opened(samples, "disk"):
        assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".pixels"]


def test_shared_memory_of_killed_processes_goes_with_the_next_run(
    samples: tuple[Sample, ...],
) -> None:
    code = (
        "import os, sys; from suite.data.shared_memory import open_shared_folder\n"
        "with open_shared_folder() as folder:\n"
        "    print(folder, flush=True); sys.stdin.read()"
    )
    alive = subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True)
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True)
    with alive, killed:
        folders = [Path(process.stdout.readline().strip()) for process in (alive, killed)]  # type: ignore[union-attr]
        killed.kill()
        killed.wait()
        with opened(samples, "ram"):
            assert [folder.exists() for folder in folders] == [True, False]
        alive.communicate("")
    assert not folders[0].exists()


def test_other_sizes_and_other_images_have_caches_of_their_own(
    samples: tuple[Sample, ...], cache: Path
) -> None:
    with opened(samples, "disk"), opened(samples[:4], "disk") as (kept, _):
        assert len(kept) == 4
    assert len(list(cache.glob("*.pixels"))) == 2


@pytest.mark.parametrize("damage", ["cut", "cut in the index", "index is not ours", "gone"])
def test_a_damaged_cache_is_made_anew(
    samples: tuple[Sample, ...], cache: Path, damage: str
) -> None:
    with opened(samples, "disk"):
        pass
    (path,) = cache.glob("*.pixels")
    content = path.read_bytes()
    damaged = {
        "cut": content[:100],
        "cut in the index": content[:-20],
        "index is not ours": content[:-8] + bytes(8),
        "gone": b"",
    }
    path.write_bytes(damaged[damage])
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 5
        np.testing.assert_array_equal(read_image(kept[4].image), read_image(samples[4].image))


def test_without_what_the_file_system_said_contents_are_compared(
    samples: tuple[Sample, ...], cache: Path
) -> None:
    with opened(samples, "disk"):
        pass
    for path in cache.glob("*.json"):
        path.write_text("{}")
    with opened(samples, "disk") as (_, told):
        assert told[0].startswith("using the cache")


def test_a_cache_that_goes_away_is_an_error_with_its_name(samples: tuple[Sample, ...]) -> None:
    with opened(samples, "disk") as (kept, _):
        assert isinstance(kept[0].image, DecodedImage)
        kept[0].image.path.unlink()
        with pytest.raises(InputError, match=r"\.pixels: the cache of decoded images cannot be"):
            read_image(kept[0].image)


def test_what_cannot_be_decoded_stays_out(samples: tuple[Sample, ...]) -> None:
    samples[0].image.path.write_bytes(b"not an image")
    for told_last in ("1 images cannot be decoded and stay out", "using the cache"):
        with opened(samples, "disk") as (kept, told):
            assert told[-1].startswith(told_last)
            assert isinstance(kept[0].image, ImageFile)
            assert all(isinstance(sample.image, DecodedImage) for sample in kept[1:])
    write_photo(samples[0].image.path, 0)
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 5
        assert isinstance(kept[0].image, DecodedImage)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_too_little_room_is_said_before_anything_is_written(
    samples: tuple[Sample, ...], where: Where, cache: Path
) -> None:
    vast = (*samples, replace(samples[0], image_hw=(2**23, 2**23)))
    room = r"need [\d.]+ GiB and 1 GiB to spare, [\d.]+ GiB are free"
    with pytest.raises(MissingEnvironment, match=room), opened(vast, where):
        pass
    assert not cache.exists() or list(cache.iterdir()) == []


def test_an_image_larger_than_memory_can_be_kept(tmp_path: Path) -> None:
    """The mapping must not count against memory."""
    path = tmp_path / "vast.pixels"
    with path.open("wb") as file:
        file.truncate(2**42)  # sparse: 4 TiB that take no room
    image = DecodedImage(path, "a", 2**41, (4, 5), ImageFile(tmp_path / "a.jpg"))
    assert read_image(image).shape == (4, 5, 3)


def test_a_place_that_cannot_be_written_is_one_sentence(
    samples: tuple[Sample, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refusal = pytest.raises(MissingEnvironment, match=r"cannot be written .*without --cache")
    with refusal, opened(samples, "disk"):
        pass
