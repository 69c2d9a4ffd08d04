"""The optimizer step: backward, loss scaling, clipping, SGD, learning rate, averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models import Detector
from suite.device import Device
from suite.recipe_sections import Optimizer
from suite.training.guard import StepGuard


class Updater:
    """Turns a loss into the next weights.

    Weight decay acts on every parameter that is trained, biases and batch norm included, as in the
    published codes of both detectors.

    Args:
        detector: whose parameters are trained.
        section: the recipe's `optimizer`.
        learning_rate: step (0-based) -> learning rate of that step.
        device: which the detector is on.

    Attributes:
        guard: skips the steps whose gradients are not finite.
    """

    def __init__(
        self,
        detector: Detector,
        section: Optimizer,
        *,
        learning_rate: Callable[[int], float],
        device: Device,
    ) -> None:
        self.num_steps_done = 0
        self._detector = detector
        self._parameters = [p for p in detector.parameters() if p.requires_grad]
        self._learning_rate = learning_rate
        self._clip_norm = section.clip_norm
        self._scaler = scaler = device.scaler()
        self._sgd = torch.optim.SGD(
            self._parameters,
            lr=learning_rate(0),
            momentum=section.momentum,
            weight_decay=section.weight_decay,
            # On the CPU twice as fast as the loop and five times as fast as the foreach form.
            fused=self._parameters[0].device.type in ("cpu", "cuda"),
        )
        self._averaged: AveragedModel | None = None
        if section.ema_decay is not None:
            average = get_ema_multi_avg_fn(section.ema_decay)  # type: ignore[no-untyped-call]  # torch's
            self._averaged = AveragedModel(detector, multi_avg_fn=average, use_buffers=True)
        self.guard = StepGuard(self._sgd, detector, scaler=scaler, device=device)

    @property
    def lr(self) -> float:
        """Learning rate of the step to come."""
        return self._learning_rate(self.num_steps_done)

    def inference_detector(self) -> Detector:
        """Return the detector to evaluate: the averaged one where the recipe asks for it."""
        return self._detector if self._averaged is None else cast(Detector, self._averaged.module)

    def step(self, loss: Tensor) -> Tensor:
        """Make one optimizer step from a scalar loss.

        A step whose gradients are not finite changes no weight; it counts all the same.

        Returns:
            1 for such a step, else 0; unread, on the device.
        """
        for group in self._sgd.param_groups:
            group["lr"] = self.lr
        torch.autograd.backward(self._scaler.scale(loss))
        skipped = self.guard.step(clip_norm=self._clip_norm)
        self._sgd.zero_grad(set_to_none=True)
        if self._averaged is not None:
            self._averaged.update_parameters(self._detector)
        self.num_steps_done += 1
        return skipped

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs, as plain data and tensors."""
        return {
            "step": self.num_steps_done,
            "weights": dict(self._detector.state_dict()),
            "ema": None if self._averaged is None else dict(self._averaged.module.state_dict()),
            "optimizer": self._sgd.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step_guard": self.guard.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, perhaps on another device."""
        self.num_steps_done = state["step"]
        self._detector.load_state_dict(state["weights"])
        if self._averaged is not None:
            self._averaged.module.load_state_dict(state["ema"])
            self._averaged.n_averaged.fill_(state["step"])
        # The groups hold what follows from recipe and device, which are this process's own.
        groups = self._sgd.state_dict()["param_groups"]
        self._sgd.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        for parameter, entry in self._sgd.state.items():
            # In the parameter's memory layout, which another device may not have had: torch's fused
            # SGD goes through both as they lie in memory and takes no notice of strides.
            momentum = entry.get("momentum_buffer")
            if momentum is not None:
                entry["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        self._scaler.load_state_dict(state["scaler"])
        self.guard.restore(state.get("step_guard", {"skipped": 0, "in_a_row": 0}))
