"""Focal loss against its definition in float64, its gradient, and torchvision's stored value."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import focal
from models.focal import focal_loss_sum
from models.matching import IGNORED, UNMATCHED


def one_loss_slowly(logit: float, positive: bool) -> float:
    """Equation 5 of the paper: -alpha_t (1 - p_t)^2 log(p_t), without cancellation."""
    signed = logit if positive else -logit
    log_pt = -(max(-signed, 0) + math.log1p(math.exp(-abs(signed))))
    return -(0.25 if positive else 0.75) * math.expm1(log_pt) ** 2 * log_pt


def sums_slowly(logits: Tensor, labels: Tensor) -> list[float]:
    return [
        math.fsum(
            one_loss_slowly(logit, number == label)
            for row, label in zip(rows, row_labels, strict=True)
            if label != IGNORED
            for number, logit in enumerate(row)
        )
        for rows, row_labels in zip(logits.tolist(), labels.tolist(), strict=True)
    ]


def gradient_slowly(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Autograd in float64 through one-hot targets."""
    exact = logits.detach().double().requires_grad_()
    targets = F.one_hot(labels.clamp(min=0), logits.shape[2]).bool() & (labels >= 0)[..., None]
    log_pt = F.logsigmoid(torch.where(targets, exact, -exact))
    terms = torch.where(targets, -0.25, -0.75) * log_pt.expm1().square() * log_pt
    sums = torch.where((labels == IGNORED)[..., None], 0.0, terms).sum(dim=(1, 2))
    torch.autograd.backward((sums * weights).sum())
    assert exact.grad is not None
    return exact.grad


def drawn_case(seed: int, shape: tuple[int, int, int], *, scale: float) -> tuple[Tensor, Tensor]:
    """Logits with a tenth of them at 0 or +-100, and labels of every kind."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * scale
    extremes = torch.tensor([-100.0, 0.0, 100.0])[torch.randint(3, shape, generator=generator)]
    logits = torch.where(torch.rand(shape, generator=generator) < 0.1, extremes, logits)
    return logits, torch.randint(IGNORED, shape[2], shape[:2], generator=generator)


def loss_and_gradient(
    logits: Tensor, labels: Tensor, *, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    sums = focal_loss_sum(leaf, labels)
    torch.autograd.backward(sums if weights is None else sums * weights, torch.ones_like(sums))
    assert leaf.grad is not None
    return sums.detach(), leaf.grad


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 30), st.integers(1, 7)),
    scale=st.sampled_from([0.1, 1.0, 4.0, 30.0]),
    chunk=st.sampled_from([1, 20, 100, 2**19]),
)
def test_sums_and_gradients_equal_the_definition_in_float64(
    seed: int, shape: tuple[int, int, int], scale: float, chunk: int
) -> None:
    logits, labels = drawn_case(seed, shape, scale=scale)
    weights = torch.linspace(0.5, 2.0, shape[0])
    with mock.patch.object(focal, "_CPU_CHUNK", chunk):
        sums, gradient = loss_and_gradient(logits, labels, weights=weights)
    assert sums.dtype == torch.float32
    assert sums.tolist() == pytest.approx(sums_slowly(logits, labels), rel=1e-5, abs=1e-6)
    expected = gradient_slowly(logits, labels, weights)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-6)


def test_gradient_equals_finite_differences() -> None:
    logits, labels = drawn_case(3, (1, 6, 4), scale=2.0)
    _, gradient = loss_and_gradient(logits, labels)
    step = 1e-4
    for place in range(logits.numel()):
        moved = torch.zeros(logits.numel(), dtype=torch.float64)
        moved[place] = step
        shift = moved.view_as(logits)
        (above,) = sums_slowly(logits.double() + shift, labels)
        (below,) = sums_slowly(logits.double() - shift, labels)
        slope = (above - below) / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_ignored_anchors_add_nothing_and_learn_nothing() -> None:
    logits, labels = drawn_case(5, (2, 40, 6), scale=3.0)
    ignored = labels == IGNORED
    assert ignored.any() and (labels == UNMATCHED).any() and (labels >= 0).any()
    sums, gradient = loss_and_gradient(logits, labels)
    assert not gradient[ignored].any()
    assert gradient[~ignored].any(dim=-1).all()
    changed, _ = loss_and_gradient(torch.where(ignored[..., None], 9.0, logits), labels)
    assert torch.equal(changed, sums)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    values = torch.tensor([0.0, 20, 88, 89, 100, 1e4, 3e38])
    logits = torch.cat([values, -values])[None, :, None].expand(1, 14, 3).contiguous()
    for label in (UNMATCHED, 0, 2):
        labels = torch.full((1, 14), label)
        # Sums of 3e38 overflow, rightly; the terms must not.
        for row in range(14):
            sums, gradient = loss_and_gradient(logits[:, row : row + 1] / 4, labels[:, :1])
            assert sums.isfinite().all() and gradient.isfinite().all()


def test_a_confident_error_pulls_with_the_full_weight_of_its_side() -> None:
    wrong = torch.tensor([[[100.0], [-100.0]]])
    sums, gradient = loss_and_gradient(wrong, torch.tensor([[UNMATCHED, 0]]))
    assert sums.tolist() == [pytest.approx(75 + 25)]
    assert gradient.flatten().tolist() == pytest.approx([0.75, -0.25])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_is_widened_and_its_gradient_narrowed_once(dtype: torch.dtype) -> None:
    logits, labels = drawn_case(7, (2, 50, 6), scale=3.0)
    reduced = logits.to(dtype)
    scale = torch.tensor([1024.0, 0.125])
    sums, gradient = loss_and_gradient(reduced, labels, weights=scale)
    exact, expected = loss_and_gradient(reduced.float(), labels, weights=scale)
    assert sums.dtype == torch.float32
    assert torch.equal(sums, exact)
    assert gradient.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.float(), expected, rtol=step, atol=1e-7)


def test_small_gradients_survive_fp16_when_the_loss_is_scaled() -> None:
    # 0.75 p^3 is far below fp16's smallest number here, and 2^16 times it is not.
    logits = torch.full((1, 1, 1), -7.0, dtype=torch.float16)
    _, gradient = loss_and_gradient(
        logits, torch.tensor([[UNMATCHED]]), weights=torch.tensor([2.0**16])
    )
    expected = gradient_slowly(logits, torch.tensor([[UNMATCHED]]), torch.tensor([2.0**16]))
    assert gradient.item() == pytest.approx(expected.item(), rel=2e-3)


def test_autocast_changes_nothing() -> None:
    logits, labels = drawn_case(8, (1, 30, 5), scale=3.0)
    plain = loss_and_gradient(logits, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = loss_and_gradient(logits, labels)
    assert torch.equal(plain[0], reduced[0]) and torch.equal(plain[1], reduced[1])


def test_a_second_backward_is_refused() -> None:
    logits, labels = drawn_case(9, (1, 4, 3), scale=1.0)
    total = focal_loss_sum(logits.requires_grad_(), labels).sum()
    torch.autograd.backward(total, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(total)


def test_values_and_gradients_equal_torchvisions(repository: Path) -> None:
    with np.load(repository / "tests/golden/torchvision/focal.npz") as stored:
        logits, labels, sums, gradient = (
            torch.from_numpy(stored[name]) for name in ("logits", "labels", "sums", "gradient")
        )
    found = loss_and_gradient(logits, labels)
    torch.testing.assert_close(found[0], sums, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], gradient, rtol=1e-5, atol=1e-6)
