"""The usual ways to prepare images wrongly, each tried until the two sides agree.

Shape letters: N images, H W rows and columns of an image, h w those of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from suite.data.transforms import MEAN, STD
from suite.sizing import Sizing

_ZERO, _ONE = np.zeros(3), np.ones(3)
# Bytes x scale, minus mean, divided by std; the first is the checkpoint's own.
_NORMALISATIONS: dict[str, tuple[float, NDArray[np.float64], NDArray[np.float64]]] = {
    "": (1 / 255, MEAN, STD),
    "values from 0 to 1, neither mean nor std": (1 / 255, _ZERO, _ONE),
    "values from 0 to 255, neither mean nor std": (1, _ZERO, _ONE),
    "values from -1 to 1": (1 / 255, _ONE / 2, _ONE / 2),
    "the mean but no std": (1 / 255, MEAN, _ONE),
    "the std but no mean": (1 / 255, _ZERO, STD),
    "values from 0 to 255 less the mean, no std": (1, MEAN * 255, _ONE),
    "mean and std, but no division by 255": (1, MEAN, STD),
    "mean and std in the order blue, green, red": (1 / 255, MEAN[::-1].copy(), STD[::-1].copy()),
    "mean and std in each other's place": (1 / 255, STD, MEAN),
}
_SWAPPED = "channels are swapped: the graph takes BGR"
# How much nearer another preparation must be to be the one.
_MUCH_NEARER = 20
# Mean difference, in bytes; rounding to bytes makes 0.25.
_MAX_RESIZE_RESIDUAL = 0.6


def find_swap(pixels: Tensor, measure: Callable[[Tensor], float], *, enough: float) -> str:
    """Feed a network images prepared otherwise; say with which it agrees, or nothing.

    Args:
        pixels: float32 [N,3,h,w], prepared as the checkpoint has them; no padding in them.
        measure: how far the graph is from the checkpoint, given these instead.
        enough: the distance that counts as agreement, where it is also much nearer.
    """
    start = measure(pixels)
    distances = {name: measure(fed) for name, fed in _prepare_otherwise(pixels)}
    name = min(distances, key=lambda name: np.nan_to_num(distances[name], nan=np.inf))
    nearer = distances[name] * _MUCH_NEARER <= start or not start < np.inf
    if not (distances[name] <= enough and nearer):
        return ""
    return f"the preparation of images; it agrees when {name}"


def _prepare_otherwise(pixels: Tensor) -> Iterator[tuple[str, Tensor]]:
    rgb = pixels * torch.from_numpy(STD).float()[:, None, None]
    rgb = 255 * (rgb + torch.from_numpy(MEAN).float()[:, None, None])
    for swapped in (False, True):
        fed = rgb.flip(1) if swapped else rgb
        for name, (scale, mean, std) in _NORMALISATIONS.items():
            if not name and not swapped:
                continue
            factor, shift = (torch.from_numpy(v).float()[:, None, None] for v in (std, mean))
            yield _tell(swapped, name), (fed * scale - shift) / factor


def _tell(swapped: bool, normalisation: str) -> str:
    parts = [_SWAPPED] if swapped else []
    if normalisation:
        parts.append(f"it is fed {normalisation}")
    return ", and ".join(parts)


class Fit(NamedTuple):
    """How a preparation explains a network's input.

    Attributes:
        residual: mean difference in bytes.
        factors, offsets: [3], input = bytes x factor + offset of each channel.
        swapped: whether channels are in the order BGR.
        resize: in words; "" for the checkpoint's own.
    """

    residual: float
    factors: NDArray[np.float64]
    offsets: NDArray[np.float64]
    swapped: bool
    resize: str

    @property
    def normalisation(self) -> str | None:
        """Which of the usual ones it is, "" for the checkpoint's own; None: none of them."""
        for name, (scale, mean, std) in _NORMALISATIONS.items():
            factors, offsets = scale / std, -mean / std
            if np.allclose(self.factors, factors, rtol=0.01) and np.allclose(
                self.offsets, offsets, rtol=0.01, atol=float(2 * np.abs(factors).max())
            ):
                return name
        return None

    @property
    def distance(self) -> float:
        """How far white and black are from where the checkpoint has them, at most."""
        offsets = self.offsets + MEAN / STD
        factors = 255 * self.factors - 1 / STD
        return float(np.abs([offsets, offsets + factors]).max())

    @property
    def is_right(self) -> bool:
        """Whether it is the checkpoint's own preparation."""
        explained = self.residual <= _MAX_RESIZE_RESIDUAL and not self.swapped
        return explained and self.resize == self.normalisation == ""


def explain_input(images: NDArray[np.uint8], found: NDArray[np.float32], sizing: Sizing) -> str:
    """Say how images [N,H,W,3] became the network's input [N,3,h,w] in a graph."""
    return tell_fit(find_fit(images, found, sizing))


def find_fit(images: NDArray[np.uint8], found: NDArray[np.float32], sizing: Sizing) -> Fit:
    """Find the preparation that explains best how images [N,H,W,3] became an input [N,3,h,w].

    Every resize is tried, with both orders of channels; what scale, mean and std go with it is
    computed, so that they need not be known ones.
    """
    image_hw = images.shape[1], images.shape[2]
    height, width = sizing.resized_hw(image_hw)
    picture = found[:, :, :height, :width].astype(np.float64)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    fits = [
        _fit(resized[:, ::-1] if swapped else resized, picture, swapped, name)
        for name, resize in _RESIZES.items()
        for resized in [resize(pixels, (height, width)).numpy().astype(np.float64)]
        for swapped in (False, True)
    ]
    return min(fits, key=lambda fit: fit.residual)


def tell_fit(fit: Fit) -> str:
    """Say what of a preparation is not the checkpoint's."""
    if not fit.residual <= _MAX_RESIZE_RESIDUAL:
        return "the preparation of images, by none of the resizes and orders of channels known"
    parts = [fit.resize, _SWAPPED if fit.swapped else "", _name_affine(fit)]
    told = [part for part in parts if part]
    return "the preparation of images; " + ("; ".join(told) or "small differences only")


def _fit(
    resized: NDArray[np.float64], found: NDArray[np.float64], swapped: bool, resize: str
) -> Fit:
    """Fit a line to each channel, of the bytes of a resize and what the graph has."""
    factors, offsets, residuals = [], [], []
    for channel in range(3):
        ours, theirs = resized[:, channel].ravel(), found[:, channel].ravel()
        spread = ours - ours.mean()
        factor = float(spread @ theirs / (spread @ spread)) or 1e-12
        offset = float(theirs.mean() - factor * ours.mean())
        factors.append(factor)
        offsets.append(offset)
        residuals.append(np.abs(ours * factor + offset - theirs).mean() / abs(factor))
    return Fit(float(np.mean(residuals)), np.array(factors), np.array(offsets), swapped, resize)


def _name_affine(fit: Fit) -> str:
    if fit.normalisation is not None:
        return f"it has {fit.normalisation}" if fit.normalisation else ""
    std = 1 / (255 * fit.factors)
    mean = -fit.offsets * std
    shown = (", ".join(f"{value:.3f}" for value in values) for values in (mean, std))
    return "mean ({}) and std ({}) of values from 0 to 1".format(*shown)


def _torch_resize(mode: str, **options: bool) -> Callable[[Tensor, tuple[int, int]], Tensor]:
    def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(pixels, size=size, mode=mode, **options)

    return resize


def _resize_without_centres(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly as if a pixel's place were its corner."""
    rows, columns = (
        _corner_weights(before, after) for before, after in zip(pixels.shape[2:], size, strict=True)
    )
    return rows @ pixels @ columns.T


def _corner_weights(before: int, after: int) -> Tensor:
    places = torch.arange(after) * (before / after)
    distances = (places[:, None].clamp(max=before - 1) - torch.arange(before)).abs()
    return (1 - distances).clamp(min=0)


_RESIZES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "": _torch_resize("bilinear", antialias=True),
    "its resize is bilinear without antialiasing": _torch_resize("bilinear"),
    "its resize is bilinear with aligned corners": _torch_resize("bilinear", align_corners=True),
    "its resize is bilinear without half-pixel centres": _resize_without_centres,
    "its resize takes the nearest pixel": _torch_resize("nearest"),
    "its resize takes the nearest pixel by centres": _torch_resize("nearest-exact"),
    "its resize is bicubic": _torch_resize("bicubic"),
    "its resize is bicubic and antialiased": _torch_resize("bicubic", antialias=True),
    "its resize averages areas": _torch_resize("area"),
}
