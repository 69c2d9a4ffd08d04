"""The optimizer step against float64 arithmetic, in fp16's loss scaling too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models import Detector
from suite.device import Device
from suite.recipe_sections import Optimizer
from suite.training.optim import Updater


class Line(nn.Module):
    """Two parameters and a batch norm's running mean, in place of a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.bias = nn.Parameter(torch.tensor([0.5]))
        self.register_buffer("running_mean", torch.tensor([4.0]))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.running_mean: Tensor
        self.num_batches_tracked: Tensor

    def loss(self, step: int) -> Tensor:
        """Gradients: (step + 1) * (1, 2, 2) and 1."""
        self.running_mean += 1
        self.num_batches_tracked += 1
        return (self.weight * torch.tensor([1.0, 2.0, 2.0])).sum() * (step + 1) + self.bias.sum()


cpu = Device("cpu", torch.device("cpu"), "fp32")


def rate(step: int) -> float:
    return 0.1 / (step + 1)


def build(
    section: Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
    learning_rate: Callable[[int], float] = rate,
) -> tuple[Line, Updater]:
    line = Line()
    device = cpu if scaler is None else Scaling("cpu", torch.device("cpu"), "fp32", own=scaler)
    detector = cast(Detector, line)
    return line, Updater(detector, section, learning_rate=learning_rate, device=device)


@dataclass(frozen=True)
class Scaling(Device):
    """A CPU that scales losses, as devices with fp16 do."""

    own: torch.amp.GradScaler = field(kw_only=True)

    def scaler(self) -> torch.amp.GradScaler:
        return self.own


def scaling(start: float = 1024.0) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=start, growth_interval=1000)


def reference(section: Optimizer, steps: int) -> list[list[float]]:
    """SGD as in Sutskever et al. with the decay in the gradient; weights after each step."""
    values = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    velocity = torch.zeros(4, dtype=torch.float64)
    after = []
    for step in range(steps):
        gradient = torch.tensor([1.0, 2.0, 2.0, 0.0], dtype=torch.float64) * (step + 1)
        gradient[3] = 1.0
        if section.clip_norm is not None:
            norm = float(gradient.norm())
            gradient = gradient * min(1.0, section.clip_norm / (norm + 1e-6))
        gradient = gradient + section.weight_decay * values
        velocity = section.momentum * velocity + gradient
        values = values - rate(step) * velocity
        after.append(values.tolist())
    return after


SECTIONS = [
    Optimizer(momentum=0.0, weight_decay=0.0),
    Optimizer(momentum=0.9, weight_decay=5e-4),
    Optimizer(momentum=0.9, weight_decay=0.1, clip_norm=4.0),
]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("section", SECTIONS)
def test_steps_are_sgd_with_momentum_decay_and_clipping(section: Optimizer, scaled: bool) -> None:
    line, updater = build(section, scaler=scaling() if scaled else None)
    for step, wanted in enumerate(reference(section, 5)):
        assert updater.lr == rate(step)
        updater.step(line.loss(step))
        assert [*line.weight.tolist(), *line.bias.tolist()] == pytest.approx(wanted, rel=1e-6)
    assert updater.num_steps_done == 5


def test_an_overflow_changes_no_weight_and_lowers_the_scale() -> None:
    line, updater = build(SECTIONS[1], scaler=scaling(2.0**126))
    before = line.weight.tolist()
    updater.step(line.loss(3))  # 4 x 2 x 2^126 is beyond float32
    assert line.weight.tolist() == before
    assert updater.state()["scaler"]["scale"] == 2.0**125
    assert (updater.num_steps_done, updater.lr) == (1, rate(1))
    for step in range(8):
        updater.step(line.loss(step))
    assert line.weight.tolist() != before
    assert line.weight.isfinite().all()


def test_elsewhere_the_scaler_has_no_state() -> None:
    line, updater = build(SECTIONS[1])
    updater.step(line.loss(0))
    assert updater.state()["scaler"] == {}


def test_averaged_weights_follow_at_their_decay() -> None:
    section = Optimizer(momentum=0.9, weight_decay=0.0, ema_decay=0.75)
    line, updater = build(section)
    assert updater.inference_detector() is not cast(Any, line)
    averaged: list[float] = []
    for step in range(6):
        updater.step(line.loss(step))
        now = [*line.weight.tolist(), *line.bias.tolist(), *line.running_mean.tolist()]
        pairs = zip(averaged, now, strict=True)
        averaged = [0.75 * old + 0.25 * new for old, new in pairs] if averaged else now
        judged = updater.inference_detector().state_dict()
        got = [value for name in ("weight", "bias", "running_mean") for value in judged[name]]
        assert [float(value) for value in got] == pytest.approx(averaged, rel=1e-6)


def test_without_averaging_the_detector_itself_is_judged() -> None:
    line, updater = build(SECTIONS[0])
    assert updater.inference_detector() is cast(Any, line)
    assert updater.state()["ema"] is None


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_restored_updater_goes_on_bit_by_bit(ema_decay: float | None, scaled: bool) -> None:
    section = Optimizer(momentum=0.9, weight_decay=0.1, ema_decay=ema_decay)
    calm, uninterrupted = build(section, scaler=scaling() if scaled else None)
    first, before = build(section, scaler=scaling() if scaled else None)
    for step in range(6):
        uninterrupted.step(calm.loss(step))
        if step < 3:
            before.step(first.loss(step))
    second, after = build(section, scaler=scaling(4.0) if scaled else None)
    after.restore(before.state())
    assert after.num_steps_done == 3
    for step in range(3, 6):
        after.step(second.loss(step))
    assert_same(after.state(), uninterrupted.state())


def test_a_state_of_another_memory_layout_is_restored_by_value() -> None:
    """Fused SGD takes no notice of strides, and not every device stores channels last."""

    def train(updater: Updater, kernel: nn.Parameter, steps: range) -> None:
        for step in steps:
            weights = torch.arange(72.0).view(2, 4, 3, 3) * (step + 1)
            updater.step((kernel * weights.contiguous(memory_format=torch.channels_last)).sum())

    def build_layered(layout: torch.memory_format) -> tuple[nn.Parameter, Updater]:
        conv = nn.Conv2d(4, 2, 3, bias=False)
        nn.init.constant_(conv.weight, 1.0)
        conv.to(memory_format=layout)
        section = SECTIONS[1]
        updater = Updater(cast(Detector, conv), section, learning_rate=rate, device=cpu)
        return conv.weight, updater

    expected, uninterrupted = build_layered(torch.channels_last)
    train(uninterrupted, expected, range(4))
    kernel, before = build_layered(torch.channels_last)
    train(before, kernel, range(2))
    state = before.state()
    (entry,) = state["optimizer"]["state"].values()
    entry["momentum_buffer"] = entry["momentum_buffer"].contiguous()
    resumed, after = build_layered(torch.channels_last)
    after.restore(state)
    train(after, resumed, range(2, 4))
    assert torch.equal(resumed, expected)


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def test_the_rate_of_a_stored_state_is_not_restored() -> None:
    line, updater = build(SECTIONS[0])
    state = updater.state()
    state["optimizer"]["param_groups"][0] |= {"lr": 1e9, "fused": False, "momentum": 7.0}
    updater.restore(state)
    updater.step(line.loss(0))
    assert line.bias.tolist() == pytest.approx([0.4])
