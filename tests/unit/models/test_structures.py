"""A batch of bytes becomes what the network takes."""

from __future__ import annotations

import numpy as np
import torch

from models.structures import Images


def test_normalised_pixels_equal_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 3, 7, 5), dtype=np.uint8)
    affine = rng.normal(size=(3, 3, 4))
    images = Images(
        torch.from_numpy(pixels), torch.from_numpy(affine).float(), torch.ones(3, 2).long()
    )
    expected = np.empty(pixels.shape)
    for n, channel, row, column in np.ndindex(pixels.shape):
        rgb = pixels[n, :, row, column] / 255
        expected[n, channel, row, column] = affine[n, channel, :3] @ rgb + affine[n, channel, 3]
    found = images.normalised()
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_an_affine_without_mixing_is_mean_and_deviation() -> None:
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    affine = np.concatenate([np.diag(1 / deviation), (-mean / deviation)[:, None]], axis=1)
    pixels = torch.arange(3 * 4 * 4).view(1, 3, 4, 4).to(torch.uint8)
    images = Images(pixels, torch.from_numpy(affine).float()[None], torch.tensor([[8, 8]]))
    expected = (pixels[0].double().permute(1, 2, 0).numpy() / 255 - mean) / deviation
    found = images.normalised()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
