"""Decoded images: the same pixels, never stale, all or nothing, within the room there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from suite.data.caching import keep_decoded
from suite.data.images import read_image
from suite.data.sample import DecodedImage, ImageFile, Sample
from suite.data.workers import Workers
from suite.errors import MissingEnvironment

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
    with keep_decoded(
        samples,
        where=where,
        workers=Workers(num=workers),
        say=told.append,
        progress=told.progress,
    ) as kept:
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
            pixels[:] = 0  # what torch might do
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


def test_a_stale_cache_is_never_used(samples: tuple[Sample, ...]) -> None:
    path = samples[2].image.path
    with opened(samples, "disk"):
        pass
    before = path.stat()
    changed = np.asarray(Image.open(path)) ^ 255
    # PNG without compression: equal sizes for equal shapes; and the old time of change.
    Image.fromarray(changed).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 5
        np.testing.assert_array_equal(read_image(kept[2].image), changed)


def test_files_that_were_copied_are_compared_by_content(samples: tuple[Sample, ...]) -> None:
    with opened(samples, "disk"):
        pass
    path = samples[1].image.path
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)  # another inode and times, the same bytes
    with opened(samples, "disk") as (_, told):
        assert told.decoded == 0


def test_other_sizes_and_other_images_have_caches_of_their_own(
    samples: tuple[Sample, ...], cache: Path
) -> None:
    with opened(samples, "disk"), opened(samples[:4], "disk") as (kept, _):
        assert len(kept) == 4
    assert len(list(cache.glob("*.pixels"))) == 2


@pytest.mark.parametrize("damage", ["cut", "no index", "index is not ours"])
def test_a_damaged_cache_is_made_anew(
    samples: tuple[Sample, ...], cache: Path, damage: str
) -> None:
    with opened(samples, "disk"):
        pass
    (pixels,), (index,) = cache.glob("*.pixels"), cache.glob("*.json")
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text('{"bytes": 1}')
    with opened(samples, "disk") as (kept, told):
        assert told.decoded == 5
        np.testing.assert_array_equal(read_image(kept[4].image), read_image(samples[4].image))


def test_what_cannot_be_decoded_stays_out(samples: tuple[Sample, ...]) -> None:
    samples[0].image.path.write_bytes(b"not an image")
    for _ in range(2):
        with opened(samples, "disk") as (kept, _told):
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
    room = r"need [\d.]+ GiB, [\d.]+ GiB are free"
    with pytest.raises(MissingEnvironment, match=room), opened(vast, where):
        pass
    assert not cache.exists() or list(cache.iterdir()) == []
