"""A bad step leaves no trace, and a run that will not recover ends with a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from suite.device import Device
from suite.errors import Diverged
from suite.training.guard import LossGuard, StepGuard

CPU = Device("cpu", torch.device("cpu"), "fp32")
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """What torch.empty gives is then always what it sometimes is."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class Trainee:
    """A small network with everything a step can change, and its guard."""

    def __init__(
        self,
        *,
        fused: bool = True,
        scaled: bool = False,
        clip_norm: float | None = None,
        device: Device = CPU,
        channels_last: bool = True,
    ) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1)
        self.net = nn.Sequential(*layers)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.sgd = torch.optim.SGD(
            self.net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        self.guard = StepGuard(self.sgd, self.net, scaler=self.scaler, device=device)
        self._clip_norm = clip_norm

    def step(self, seed: int, *, factor: float = 1.0, poison: float | None = None) -> Tensor:
        """Train on the images of a seed; `poison` one pixel of them."""
        images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        if poison is not None:
            images[0, 0, 0, 0] = poison
        self.scaler.scale(self.net(images).square().mean() * factor).backward()
        skipped = self.guard.step(clip_norm=self._clip_norm)
        self.sgd.zero_grad()
        return skipped

    def everything(self) -> dict[str, Tensor]:
        """Weights, running statistics and momentum, as they are now."""
        momenta = self.sgd.state_dict()["state"]
        found = {f"momentum{key}": entry["momentum_buffer"] for key, entry in momenta.items()}
        found |= self.net.state_dict()
        del found["1.num_batches_tracked"]  # counts; enters no number
        return {name: tensor.clone() for name, tensor in found.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("bad_step", [0, 2])
@pytest.mark.parametrize(
    "bad", [{"poison": NAN}, {"poison": INF}, {"factor": NAN}, {"factor": -INF}, {"factor": 3e38}]
)
def test_a_bad_step_leaves_no_trace(
    fused: bool, scaled: bool, clip_norm: float | None, bad_step: int, bad: dict[str, float]
) -> None:
    options: dict[str, Any] = {"fused": fused, "scaled": scaled, "clip_norm": clip_norm}
    calm, troubled = Trainee(**options), Trainee(**options)
    for seed in range(5):
        if seed == bad_step:
            before = troubled.everything()
            assert troubled.step(100, **bad).item() == 1
            assert same(troubled.everything(), before)
        assert troubled.step(seed).item() == calm.step(seed).item() == 0
        assert same(troubled.everything(), calm.everything())
    assert all(tensor.isfinite().all() for tensor in troubled.everything().values())
    assert troubled.guard.read() == (1, 0)
    if scaled:
        assert troubled.scaler.get_scale() == 512


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fused_sgd_of_a_gpu_skips_too() -> None:
    weight = nn.Parameter(torch.ones(5, device="cuda"))
    net = nn.ParameterList([weight])
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    device = Device("cuda", torch.device("cuda", 0), "fp32")
    guard = StepGuard(sgd, net, scaler=device.scaler(), device=device)
    for gradient, after in ((NAN, 1.0), (1.0, 0.9), (INF, 0.9), (1.0, 0.71)):
        weight.grad = torch.full_like(weight, gradient)
        guard.step()
        assert weight.tolist() == pytest.approx([after] * 5)


def test_guarded_steps_are_those_of_plain_sgd() -> None:
    guarded, plain = Trainee(clip_norm=0.5), Trainee()
    for seed in range(4):
        guarded.step(seed)
        images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(seed))
        plain.net(images).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.net.parameters(), 0.5)
        plain.sgd.step()
        plain.sgd.zero_grad()
    assert same(guarded.everything(), plain.everything())


def test_without_momentum_there_is_none_to_start() -> None:
    weight = nn.Parameter(torch.ones(2))
    net = nn.ParameterList([weight])
    sgd = torch.optim.SGD(net.parameters(), lr=0.5, fused=True)
    guard = StepGuard(sgd, net, scaler=CPU.scaler(), device=CPU)
    weight.grad = torch.tensor([1.0, 2.0])
    guard.step()
    assert weight.tolist() == [0.5, 0.0]
    assert not any(sgd.state_dict()["state"].values())


def test_skipped_steps_are_counted_in_all_and_in_a_row() -> None:
    trainee = Trainee()
    counts = []
    for seed, factor in enumerate([1.0, NAN, NAN, 1.0, INF, NAN, NAN]):
        trainee.step(seed, factor=factor)
        counts.append(trainee.guard.read())
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1), (4, 2), (5, 3)]


def test_a_restored_guard_goes_on_counting_and_keeps_the_loaded_statistics() -> None:
    first, second = Trainee(), Trainee()
    for seed, factor in enumerate([1.0, 1.0, NAN, NAN]):
        first.step(seed, factor=factor)
    state = json.loads(json.dumps(first.guard.state()))
    second.net.load_state_dict(first.net.state_dict())
    second.guard.restore(state)
    assert second.guard.read() == (2, 2)
    second.step(9, poison=NAN)
    assert second.guard.read() == (3, 3)
    assert torch.equal(
        second.net.state_dict()["1.running_var"], first.everything()["1.running_var"]
    )


def test_statistics_that_ranks_shared_for_a_checkpoint_are_kept() -> None:
    trainee = Trainee()
    trainee.step(0)
    trainee.net.state_dict()["1.running_mean"].fill_(0.25)  # as a broadcast does
    trainee.guard.state()
    trainee.step(1, poison=NAN)
    assert trainee.net.state_dict()["1.running_mean"].tolist() == [0.25] * 3


@pytest.mark.parametrize("scaled", [True, False])
def test_a_step_asks_the_device_for_no_value(scaled: bool) -> None:
    torch.use_deterministic_algorithms(False)
    with FakeTensorMode():  # its tensors have no values
        trainee = Trainee(scaled=scaled, channels_last=False)
        images = torch.randn(4, 2, 6, 6)
        for _ in range(2):
            trainee.scaler.scale(trainee.net(images).square().mean()).backward()
            skipped = trainee.guard.step(clip_norm=1.0)
        with pytest.raises(DataDependentOutputException):
            skipped.item()


@dataclass(frozen=True)
class Saturating(Device):
    """A device that has no inf and no NaN, only a flag."""

    flags: list[str] = field(default_factory=list)
    saturates = True  # type: ignore[assignment]

    def overflowed(self) -> bool:
        return bool(self.flags)

    def clear_overflow(self) -> None:
        self.flags.clear()


@pytest.mark.parametrize("scaled", [True, False])
def test_overflow_flag_of_a_saturating_device_skips_the_step(scaled: bool) -> None:
    device = Saturating("npu", torch.device("cpu"), "fp16")
    trainee = Trainee(device=device, scaled=scaled, fused=False)
    assert trainee.step(0).item() == 0
    before = trainee.everything()
    device.flags.append("a sum overflowed")
    assert trainee.step(1).item() == 1
    assert same(trainee.everything(), before)
    assert not device.flags
    assert trainee.scaler.get_scale() == (512 if scaled else 1)
    assert trainee.step(1).item() == 0
    assert not same(trainee.everything(), before)


def test_overflow_in_another_rank_skips_the_step_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(tensor: Tensor, operation: Any) -> None:
        assert operation == dist.ReduceOp.MAX
        tensor.copy_(torch.maximum(tensor, torch.tensor(1.0)))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    trainee = Trainee(device=Saturating("npu", torch.device("cpu"), "fp16"), scaled=True)
    before = trainee.everything()
    assert trainee.step(0).item() == 1
    assert same(trainee.everything(), before)
    assert trainee.scaler.get_scale() == 512


def judge_all(guard: LossGuard, losses: Sequence[float | None], *, in_a_row: int = 0) -> None:
    for number, loss in enumerate(losses, start=1):
        guard.judge(loss, step=10 * number, lr=0.02, in_a_row=in_a_row)


FALLING = [9.0, 7.0, 8.0, 5.0, 3.0, 4.0, 2.0]
REMEDY = "; lower schedule.base_lr, lengthen schedule.warmup_epochs, or set optimizer.clip_norm"


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([*FALLING, NAN], "the loss is nan at step 80 (learning rate 0.02)"),
        ([INF], "the loss is inf at step 10 (learning rate 0.02)"),
        (
            [*FALLING, 50.1],
            "the loss has jumped to 50.1 at step 80 (learning rate 0.02), more than 10 times the "
            "median of the last 7 log lines, 5",
        ),
        (
            [1000.0] * 3 + [1.0, 1.5] * 10 + [13.0],
            "the loss has jumped to 13 at step 240 (learning rate 0.02), more than 10 times the "
            "median of the last 20 log lines, 1.25",
        ),
        (
            [*FALLING, *[6.25] * 10],
            "the loss is exactly 6.25 in 10 log lines, at step 170 (learning rate 0.02) too: it no "
            "longer depends on the weights",
        ),
    ],
)
def test_a_loss_that_will_not_recover_ends_the_run(
    losses: list[float | None], sentence: str
) -> None:
    guard = LossGuard("fp32")
    judge_all(guard, losses[:-1])
    with pytest.raises(Diverged) as info:
        guard.judge(losses[-1], step=10 * len(losses), lr=0.02, in_a_row=0)
    assert str(info.value) == sentence + REMEDY
    assert info.value.exit_code == 5


def test_noise_warm_up_and_skipped_intervals_do_not_end_it() -> None:
    judge_all(LossGuard("fp32"), [*FALLING, 49.9, *FALLING, *[6.25] * 9, 6.26, None, 6.25] * 3)
    judge_all(LossGuard("fp32"), [0.1, 0.1, 0.1, 0.1, 50.0])  # four are too few to judge by


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 10), ("bf16", 10), ("fp16", 30)])
def test_too_many_skipped_steps_in_a_row_end_it(precision: Any, allowed: int) -> None:
    guard = LossGuard(precision)
    judge_all(guard, [None, None, 3.0], in_a_row=allowed)
    with pytest.raises(Diverged) as info:
        guard.judge(None, step=40, lr=0.02, in_a_row=allowed + 1)
    assert str(info.value) == (
        f"{allowed + 1} steps in a row had gradients that are not finite at step 40 "
        f"(learning rate 0.02), more than {allowed}{REMEDY}"
    )


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1), ("bf16", 1), ("fp16", 3)])
def test_a_run_does_not_end_well_with_skipped_steps(precision: Any, allowed: int) -> None:
    LossGuard(precision).judge(None, step=40, lr=0.02, in_a_row=allowed, last=True)
    with pytest.raises(Diverged, match=f"^{allowed + 1} steps in a row .*, more than {allowed};"):
        LossGuard(precision).judge(None, step=40, lr=0.02, in_a_row=allowed + 1, last=True)


def test_a_restored_guard_remembers_the_losses() -> None:
    first, second = LossGuard("fp32"), LossGuard("fp32")
    judge_all(first, FALLING)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state() == {"losses": FALLING}
    with pytest.raises(Diverged, match=r"jumped to 51 .* last 7 log lines, 5;"):
        second.judge(51.0, step=80, lr=0.02, in_a_row=0)
