"""A training step reads nothing back from the device and sends nothing to it.

On the meta device tensors have no values, so whatever would wait for one raises.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import build_detector
from models.structures import Target


@pytest.mark.parametrize(
    ("name", "image_hw"), [("ssd_r34", (300, 300)), ("retinanet_r18_fpn", (96, 160))]
)
def test_loss_and_gradient_need_no_value(
    name: str, image_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        detector = build_detector(name, num_classes=3, width=0.125).train()
        images = torch.zeros(2, 3, *image_hw)
        target = Target(torch.zeros(2, 32, 4), torch.zeros(2, 32, dtype=torch.int64))

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("made on the host and copied to the device")

    for maker in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, maker, refuse)
    losses = detector.loss(detector(images), target, image_hw=image_hw)
    torch.stack(list(losses.values())).sum().backward()
    assert any(parameter.grad is not None for parameter in detector.parameters())
