"""The most operations a second that a device does, measured: what utilisation is a share of.

Matrix products and convolutions, each of growing size until one takes long enough; the best of all
counts. Both, because libraries differ in how well they do either: on an AMD CPU oneDNN's
convolutions in float32 are more than twice as fast as MKL's matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from suite.device import Device

_LONG_S = 0.02
_REPEATS = 5
_SIDES = (512, 1024, 2048, 4096, 8192, 16384)
_IMAGES = (1, 4, 16, 64, 256, 1024)
# As in the middle of a ResNet or the head of a RetinaNet: 3x3, many channels.
_CHANNELS, _MAP, _KERNEL = 512, 32, 3


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Operations a second; a multiplication and its addition are two."""

    products: float
    convolutions: float

    @property
    def best(self) -> float:
        """The larger one."""
        return max(self.products, self.convolutions)

    def raised_to(self, other: Ceiling) -> Ceiling:
        """Return the better of two measurements: what disturbed one would flatter utilisation."""
        return Ceiling(
            products=max(self.products, other.products),
            convolutions=max(self.convolutions, other.convolutions),
        )

    @property
    def source(self) -> str:
        """What reached it."""
        return "matrix product" if self.products >= self.convolutions else "convolution"


def measure_ceiling(device: Device) -> Ceiling:
    """Measure one device in its precision, with the threads and flags that training has."""
    with torch.no_grad():
        return Ceiling(
            products=_find_best(_products(device), device),
            convolutions=_find_best(_convolutions(device), device),
        )


Work = tuple[int, Callable[[], Tensor]]  # operations, and what does them


def _find_best(works: Iterator[Work], device: Device) -> float:
    best = 0.0
    for flops, work in works:
        seconds = _time(work, device)
        best = max(best, flops / seconds)
        if seconds > _LONG_S:
            break
    return best


def _time(work: Callable[[], Tensor], device: Device) -> float:
    """Return the shortest of some calls, after one that does not count."""
    taken = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        work()
        device.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _products(device: Device) -> Iterator[Work]:
    like: dict[str, Any] = {"device": device.torch_device, "dtype": _dtype(device)}
    for side in _SIDES:
        left, right = torch.randn(side, side, **like), torch.randn(side, side, **like)
        yield 2 * side**3, partial(torch.mm, left, right, out=torch.empty_like(left))


def _convolutions(device: Device) -> Iterator[Work]:
    like: dict[str, Any] = {"device": device.torch_device, "dtype": _dtype(device)}
    layout = device.memory_format
    weight = torch.randn(_CHANNELS, _CHANNELS, _KERNEL, _KERNEL, **like)
    weight = weight.contiguous(memory_format=layout)
    for number in _IMAGES:
        images = torch.randn(number, _CHANNELS, _MAP, _MAP, **like)
        images = images.contiguous(memory_format=layout)
        # The border counts in full, as in torch's own counter.
        flops = 2 * number * _MAP**2 * _CHANNELS**2 * _KERNEL**2
        yield flops, partial(F.conv2d, images, weight, padding=1)


def _dtype(device: Device) -> torch.dtype:
    """Return what the device's precision multiplies in."""
    one = torch.ones(1, 1, device=device.torch_device)
    with device.autocast():
        return torch.mm(one, one).dtype
