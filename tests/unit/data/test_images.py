"""Image files to RGB arrays: orientation, modes, limits, and every damaged file an InputError."""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from suite.data.images import MAX_PIXELS, ImageSizeError, read_image, read_image_hw
from suite.errors import InputError

# A 2 x 3 picture (height x width) in which every pixel differs.
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 12


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def orientation_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def oriented(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    return save(path, Image.fromarray(pixels), exif=orientation_exif(orientation))


# What each EXIF orientation asks for, written with array operations instead of Pillow's.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = oriented(tmp_path / f"image{suffix}", PIXELS, orientation)
    expected = UPRIGHT[orientation](PIXELS)
    image = read_image(path)
    np.testing.assert_array_equal(image, expected)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert read_image_hw(path) == expected.shape[:2]
    np.testing.assert_array_equal(read_image(path, expected_hw=expected.shape[:2]), expected)


def test_annotations_made_on_unrotated_pixels_get_those(tmp_path: Path) -> None:
    path = oriented(tmp_path / "image.png", PIXELS, 6)
    np.testing.assert_array_equal(read_image(path, expected_hw=(2, 3)), PIXELS)


def test_other_sizes_are_refused_with_both(tmp_path: Path) -> None:
    path = oriented(tmp_path / "image.png", PIXELS, 6)
    with pytest.raises(ImageSizeError, match="the image is 2 x 3 but annotated as 5 x 4"):
        read_image(path, expected_hw=(4, 5))


def test_meaningless_orientation_counts_as_none(tmp_path: Path) -> None:
    path = oriented(tmp_path / "image.png", PIXELS, 99)
    np.testing.assert_array_equal(read_image(path), PIXELS)


def test_damaged_exif_counts_as_none(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\xff\xff\xff")
    np.testing.assert_array_equal(read_image(path), PIXELS)


GRAY = np.array([[0, 100, 200]], np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GRAY), [[0] * 3, [100] * 3, [200] * 3]),
        (Image.fromarray(GRAY > 50), [[0] * 3, [255] * 3, [255] * 3]),
        (
            Image.fromarray(np.array([[0, 100 * 256 + 255, 65535]], np.uint16)),
            [[0] * 3, [100] * 3, [255] * 3],
        ),
        (
            Image.fromarray(np.array([[-5, 100 * 256, 70000]], np.int32)),
            [[0] * 3, [100] * 3, [255] * 3],
        ),
        (Image.fromarray(np.array([[-5, 100, 300]], np.float32)), [[0] * 3, [100] * 3, [255] * 3]),
        (
            Image.fromarray(np.array([[[10, 20, 30, 0], [1, 2, 3, 128]]], np.uint8), "RGBA"),
            [[10, 20, 30], [1, 2, 3]],
        ),
        (
            Image.fromarray(np.array([[[10, 0], [20, 255]]], np.uint8), "LA"),
            [[10, 10, 10], [20, 20, 20]],
        ),
        (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [[255, 0, 0]]),
    ],
    ids=["L", "1", "I;16", "I", "F", "RGBA", "LA", "CMYK"],
)
def test_modes_become_rgb(tmp_path: Path, image: Image.Image, expected: list[list[int]]) -> None:
    path = save(tmp_path / "image.tiff", image)
    assert read_image(path).tolist() == [expected]


def test_transparent_palette_colour_shows_as_stored(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "image.png", image, transparency=b"\x00\x80")
    assert read_image(path).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "image.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.fromarray(PIXELS))
    np.testing.assert_array_equal(read_image(path.rename(tmp_path / "image.jpg")), PIXELS)


@pytest.mark.parametrize("reader", [read_image, read_image_hw])
def test_missing_image(tmp_path: Path, reader: object) -> None:
    assert callable(reader)
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(InputError, match="no such image file; check"):
            reader(path)


def test_truncated_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / "image.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(
        InputError, match=r"image\.jpg: cannot be decoded \(image file is truncated"
    ):
        read_image(path)


def test_formats_that_start_programs_are_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "image.eps", Image.fromarray(PIXELS))
    with pytest.raises(InputError, match="not an image of a known format"):
        read_image(path)


@pytest.mark.parametrize("side", [10_000, 13_378])
def test_pixel_limit_is_ours_and_silent(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would warn at 89 million pixels; only the header is read here."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    header = bytearray(buffer.getvalue())
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path = tmp_path / "image.png"
    path.write_bytes(header)
    if side * side > MAX_PIXELS:
        with pytest.raises(InputError, match=r"pixels"):
            read_image_hw(path)
    else:
        assert read_image_hw(path) == (side, side)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
def test_damaged_bytes_never_raise_anything_else(
    tmp_path: Path, data: st.DataObject, image_format: str
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, image_format)
    content = bytearray(buffer.getvalue())
    edits = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    for position, value in data.draw(edits):
        content[position] = value
    path = tmp_path / "image"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = read_image(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert image.ndim == 3


def test_odd_files_behave_as_their_manifest_says(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    lines = (folder / "MANIFEST.tsv").read_text().splitlines()[1:]
    assert len(lines) == 69
    for line in lines:
        name, *_, result = line.split("\t")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = read_image(folder / name)
            except InputError as error:
                assert result != "ok", error
            else:
                assert result == "ok", name
                assert image.shape[:2] == read_image_hw(folder / name), name


def test_real_colours(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    cmyk = read_image(folder / "pil_sample_cmyk.jpg")
    assert cmyk[1, 2, 0] > 200, "Adobe's inverted CMYK: the mark in the corner is red"
    assert cmyk[1, 2, 1:].max() < 80
    assert cmyk[50, 2].max() < 30, "on black"
    ramp = read_image(folder / "basi0g16.png")
    assert (ramp.min(), ramp.max()) == (0, 255)
    assert len(np.unique(ramp)) > 100, "16 bits are scaled, not clipped to white"


def test_real_orientations_show_one_upright_photo(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    names = [f"hopper_orientation_{number}.jpg" for number in (2, 4, 6, 8)]
    photos = np.stack([read_image(folder / name).astype(float) for name in names])
    assert np.abs(photos - photos[0]).mean(axis=(1, 2, 3)).max() < 6
    assert np.abs(photos[0] - photos[0][:, ::-1]).mean() > 30, "a wrong turn would be seen"


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": "4:2:0"}),
        ("RGB", {"subsampling": "4:4:4", "quality": 97}),
        ("RGB", {"subsampling": "4:2:2", "progressive": True}),
        ("L", {"quality": 60}),
        ("CMYK", {}),
    ],
)
def test_both_jpeg_decoders_give_the_same_pixels(
    tmp_path: Path, mode: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    image = Image.fromarray(coarse[..., :3]).resize((131, 97)).convert(mode)
    path = save(tmp_path / "image.jpg", image, **options)
    turned = save(tmp_path / "turned.jpg", image, exif=orientation_exif(6), **options)
    quick = [read_image(path), read_image(turned)]
    monkeypatch.setattr("suite.data.jpeg.INSTALLED", False)
    for ours, pillows in zip(quick, [read_image(path), read_image(turned)], strict=True):
        np.testing.assert_array_equal(ours, pillows)
    assert quick[1].shape == (131, 97, 3)


def test_an_orientation_in_xmp_counts_with_both_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    path = save(tmp_path / "image.jpg", Image.new("RGB", (20, 40)), xmp=xmp)
    assert read_image_hw(path) == (20, 40)
    assert read_image(path).shape == (20, 40, 3)
    monkeypatch.setattr("suite.data.jpeg.INSTALLED", False)
    assert read_image(path).shape == (20, 40, 3)


@pytest.mark.parametrize("name", ["a/" * 3000 + "b.jpg", "x" * 300 + ".jpg"])
def test_names_that_no_file_can_have_are_missing_images(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such image file"):
        read_image(tmp_path / name)


def test_odd_images_are_read_alike_by_both_decoders(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_all() -> dict[str, NDArray[np.uint8] | str]:
        found: dict[str, NDArray[np.uint8] | str] = {}
        for path in sorted((shared / "data" / "odd_images").glob("*.jp*")):
            try:
                found[path.name] = read_image(path)
            except InputError as error:
                found[path.name] = str(error)
        return found

    quick = read_all()
    monkeypatch.setattr("suite.data.jpeg.INSTALLED", False)
    pillows = read_all()
    assert len(quick) > 20
    for name, answer in quick.items():
        np.testing.assert_array_equal(answer, pillows[name], err_msg=name)
