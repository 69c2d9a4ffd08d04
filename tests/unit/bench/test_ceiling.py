"""The measured ceiling: against products that are timed here."""

from __future__ import annotations

import time

import pytest
import torch

from suite.bench.ceiling import Ceiling, measure_ceiling
from suite.device import build_device


def test_the_ceiling_is_the_larger_one() -> None:
    assert (Ceiling(products=3, convolutions=2).best, Ceiling(products=1, convolutions=2).best) == (
        3,
        2,
    )
    assert Ceiling(products=3, convolutions=2).source == "matrix product"
    assert Ceiling(products=1, convolutions=2).source == "convolution"


def test_the_better_of_two_measurements_counts() -> None:
    busy, quiet = Ceiling(products=3, convolutions=1), Ceiling(products=2, convolutions=4)
    assert busy.raised_to(quiet) == Ceiling(products=3, convolutions=4)


def test_operations_are_counted_on_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest work of each kind is taken where it lasts long enough, as here."""

    def take_long(left: torch.Tensor, _right: torch.Tensor, **_more: object) -> torch.Tensor:
        time.sleep(0.05)
        return left

    monkeypatch.setattr("torch.mm", take_long)
    monkeypatch.setattr("torch.nn.functional.conv2d", take_long)
    ceiling = measure_ceiling(build_device("cpu", "fp32"))
    assert ceiling.products == pytest.approx(2 * 512**3 / 0.05, rel=0.3)
    # An output number is 512 channels of 3 x 3 multiplications; there are 512 x 32 x 32 of them.
    assert ceiling.convolutions == pytest.approx(2 * 512 * 9 * 512 * 32 * 32 / 0.05, rel=0.3)


def test_the_ceiling_is_what_products_reach() -> None:
    left = torch.randn(768, 768)
    taken = []
    for _ in range(12):
        started = time.perf_counter()
        left @ left
        taken.append(time.perf_counter() - started)
    reached = 2 * 768**3 / min(taken)
    # Others may use this machine meanwhile.
    assert 1 / 4 < measure_ceiling(build_device("cpu", "fp32")).products / reached < 4


def test_it_is_measured_in_the_device_s_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    conv2d = torch.nn.functional.conv2d

    def watch(images: torch.Tensor, weight: torch.Tensor, **more: int) -> torch.Tensor:
        seen.add(
            (images.dtype, weight.dtype, images.is_contiguous(memory_format=torch.channels_last))
        )
        return conv2d(images, weight, **more)

    monkeypatch.setattr("torch.nn.functional.conv2d", watch)
    measure_ceiling(build_device("cpu", "bf16"))
    assert seen == {(torch.bfloat16, torch.bfloat16, True)}
