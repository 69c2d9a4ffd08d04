"""A batch of bytes becomes what the network takes."""

from __future__ import annotations

import numpy as np
import torch

from models.structures import Images


def build_images(
    pixels: np.ndarray, affine: np.ndarray, resized_hw: list[tuple[int, int]]
) -> Images:
    """Images whose size before the resize does not matter."""
    sizes = torch.tensor(resized_hw)
    return Images(torch.from_numpy(pixels), torch.from_numpy(affine).float(), sizes, sizes)


def test_normalised_pixels_equal_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 3, 7, 5), dtype=np.uint8)
    affine = rng.normal(size=(3, 3, 4))
    expected = np.empty(pixels.shape)
    for n, channel, row, column in np.ndindex(pixels.shape):
        rgb = pixels[n, :, row, column] / 255
        expected[n, channel, row, column] = affine[n, channel, :3] @ rgb + affine[n, channel, 3]
    found = build_images(pixels, affine, [(7, 5)] * 3).normalised()
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_an_affine_without_mixing_is_mean_and_deviation() -> None:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    affine = np.concatenate([np.diag(1 / deviation), (-mean / deviation)[:, None]], axis=1)
    pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(1, 3, 4, 4)
    expected = (pixels[0].transpose(1, 2, 0) / 255 - mean) / deviation
    found = build_images(pixels, affine[None], [(4, 4)]).normalised()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_is_zero_and_changes_no_pixel_of_the_picture() -> None:
    rng = np.random.default_rng(1)
    affine = rng.normal(size=(2, 3, 4))
    sizes = [(5, 8), (6, 3)]
    pictures = [rng.integers(0, 256, (3, *size), dtype=np.uint8) for size in sizes]
    pixels = np.zeros((2, 3, 6, 8), np.uint8)
    for canvas, picture in zip(pixels, pictures, strict=True):
        canvas[:, : picture.shape[1], : picture.shape[2]] = picture
    found = build_images(pixels, affine, sizes).normalised()
    for row, (picture, (height, width)) in enumerate(zip(pictures, sizes, strict=True)):
        alone = build_images(picture[None], affine[row : row + 1], [(height, width)]).normalised()
        torch.testing.assert_close(found[row, :, :height, :width], alone[0], rtol=0, atol=1e-6)
        assert not found[row, :, height:].any()
        assert not found[row, :, :, width:].any()


def test_a_copy_has_every_part() -> None:
    images = build_images(np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 3, 4)), [(3, 4)])
    moved = images.to(torch.device("cpu"))
    assert vars(moved).keys() == vars(images).keys()
    assert all(torch.equal(vars(moved)[name], part) for name, part in vars(images).items())
