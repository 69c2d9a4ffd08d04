"""Faults on purpose: how they are written, and that they come when they should."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from suite.errors import InputError, UsageError
from suite.launch import faults
from suite.launch.faults import Fault, failing, faults_of_rank


def parse(text: str, *, rank: int = 0) -> list[Fault]:
    return faults_of_rank(rank, {"SUITE_FAULT": text})


def test_without_the_variable_there_are_none() -> None:
    assert faults_of_rank(0, {}) == []
    assert parse("") == []


def test_each_rank_has_its_own() -> None:
    text = "kill9@rank1:step7,nan@rank0:step9,hang@rank*:step2-4"
    assert parse(text) == [Fault("nan", 9, 9), Fault("hang", 2, 4)]
    assert parse(text, rank=1) == [Fault("kill9", 7, 7), Fault("hang", 2, 4)]
    assert parse(text, rank=11) == [Fault("hang", 2, 4)]


@pytest.mark.parametrize(
    "text", ["kill9", "kill9@rank1", "kill8@rank1:step7", "nan@rank-1:step2", "nan@rank1:step7 "]
)
def test_what_cannot_be_read_is_refused_on_every_rank(text: str) -> None:
    for rank in (0, 5):
        with pytest.raises(UsageError, match=r"expected KIND@rankN:stepN, where KIND is one of k"):
            parse(text, rank=rank)


def learn(batch: Any) -> dict[str, torch.Tensor]:
    return {"box": torch.tensor(float(batch)), "classification": torch.tensor(2.0)}


def test_without_faults_the_step_is_left_alone() -> None:
    assert failing(learn, [], first_step=3) is learn


@pytest.mark.parametrize(("kind", "factor"), [("nan", math.nan), ("inf", math.inf), ("spike", 1e4)])
def test_losses_are_spoilt_in_the_steps_that_were_named(kind: str, factor: float) -> None:
    step = failing(learn, [Fault(kind, 12, 13)], first_step=10)
    found = [float(step(1)["classification"]) for _ in range(4)]
    assert found == pytest.approx([2, 2 * factor, 2 * factor, 2], nan_ok=True)


def test_a_fault_comes_before_its_step() -> None:
    calls: list[int] = []

    def learn_and_count(batch: int) -> dict[str, torch.Tensor]:
        calls.append(batch)
        return learn(batch)

    step = failing(learn_and_count, [Fault("raise", 2, 2)], first_step=0)
    step(1)
    with pytest.raises(InputError, match="bad sample"):
        step(2)
    assert calls == [1]
    with pytest.raises(torch.OutOfMemoryError):
        failing(learn, [Fault("oom", 1, 1)], first_step=0)(1)


def test_signals_are_sent_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(faults.os, "kill", lambda pid, number: sent.append((pid, number.name)))
    pid = faults.os.getpid()
    for kind in ("kill9", "stop", "term"):
        failing(learn, [Fault(kind, 1, 1)], first_step=0)(1)
    assert sent == [(pid, "SIGKILL"), (pid, "SIGSTOP"), (pid, "SIGTERM")]
