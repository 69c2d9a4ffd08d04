"""Batches on their way to a device: on the CPU as they are, elsewhere on a stream of their own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from models.structures import Images, Target
from suite.data.collating import Batch
from suite.data.prefetching import move_to_device
from suite.device import CopyStream, Device

CPU = Device("cpu", torch.device("cpu"), "fp32")


def build_batch(number: int) -> Batch:
    images = Images(
        torch.full((1, 3, 2, 2), number, dtype=torch.uint8),
        torch.zeros(1, 3, 4),
        torch.tensor([[2, 2]]),
        torch.tensor([[2, 2]]),
    )
    return Batch(images, Target(torch.zeros(1, 1, 4), torch.zeros(1, 1).long()), (number,))


class Module:
    """What torch.cuda and torch.npu offer for streams; writes down what it is asked for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.current = "computing"

    def Stream(self) -> str:  # noqa: N802 - torch's name
        return "copying"

    @contextmanager
    def stream(self, stream: str) -> Generator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self) -> Any:
        return self

    def wait_stream(self, stream: str) -> None:
        self.told.append(f"{self.current} waits for {stream}")


def test_the_cpu_gets_the_batches_as_they_are_and_closes_them() -> None:
    ended = []

    def batches() -> Generator[Batch]:
        try:
            for number in range(5):
                yield build_batch(number)
        finally:
            ended.append(number)

    moved = move_to_device(batches(), CPU)
    assert [next(moved).image_ids for _ in range(2)] == [(0,), (1,)]
    moved.close()
    assert ended == [1]


def test_elsewhere_copies_have_a_stream_that_the_computation_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Module()
    monkeypatch.setattr(Device, "open_copy_stream", lambda _: CopyStream(module))
    to = Batch.to
    monkeypatch.setattr(
        Batch, "to", lambda batch, device: module.told.append(module.current) or to(batch, device)
    )
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, stream: module.told.append("kept"), raising=False
    )
    moved = move_to_device((build_batch(number) for number in range(2)), CPU)
    assert [batch.image_ids for batch in moved] == [(0,), (1,)]
    # Four tensors of images, two of targets.
    assert module.told == ["copying", "computing waits for copying", *["kept"] * 6] * 2
