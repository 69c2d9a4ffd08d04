"""What keeps bad numbers out of the weights, and ends a run that has gone wrong for good.

`StepGuard` skips single steps: a gradient that is not finite leaves no trace. `LossGuard` watches
what is logged and gives up. The first Ascend 910 saturates: it has neither inf nor NaN, which there
show as its overflow flag, as a jump of the loss or as a loss that no longer moves. That part is
unverified on Ascend hardware.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suite.device import Device, Precision
from suite.errors import Diverged
from suite.events import DIVERGENCE_REMEDY

# In fp16 some skipped steps in a row are normal: the scaler halves its scale at each.
MAX_SKIPPED: Final[Mapping[Precision, int]] = {"fp32": 10, "bf16": 10, "fp16": 30}
_STRICTER_AT_THE_END: Final = 10
JUMP: Final = 10.0
NUM_REMEMBERED: Final = 20
NUM_BEFORE_JUDGING: Final = 5
NUM_CONSTANT: Final = 10

_STATISTICS: Final = ("running_mean", "running_var")


class StepGuard:
    """Makes optimizer steps; skips those whose gradients are not finite.

    A skipped step changes neither weights, momentum nor the running statistics of batch norm. The
    gradients have been averaged over the ranks by then, so all ranks decide alike. The decision
    stays on the device where SGD is fused; elsewhere, as on an NPU, the host waits for it.

    Args:
        optimizer: which gets the gradients of a loss that `scaler` has scaled.
        module: whose parameters it trains.
    """

    def __init__(
        self,
        optimizer: torch.optim.SGD,
        module: nn.Module,
        *,
        scaler: torch.amp.GradScaler,
        device: Device,
    ) -> None:
        self._optimizer = optimizer
        self._scaler = scaler
        self._device = device
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._statistics = [
            buffer
            for name, buffer in module.named_buffers()
            if name.rpartition(".")[2] in _STATISTICS
        ]
        self._keep_statistics()
        self._counts = torch.zeros(2, device=self._parameters[0].device)  # all, in a row
        _start_momentum(optimizer)

    def step(self, *, clip_norm: float | None = None) -> Tensor:
        """Make one step, or skip it.

        Args:
            clip_norm: largest L2 norm of the whole gradient, None for no limit.

        Returns:
            1 where the step was skipped, else 0; unread, on the device.
        """
        self._scaler.unscale_(self._optimizer)
        # One pass that only reads: of all ways to find inf and NaN the fastest that is public.
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        skipped = (~norm.isfinite()).float()
        if self._device.saturates:
            self._add_overflow(skipped)
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, clip_norm, norm)
        self._update(skipped)
        self._restore_statistics(skipped)
        self._counts += skipped
        self._counts[1].mul_(skipped)
        self._scaler.update()
        return skipped

    def read(self) -> tuple[int, int]:
        """Return how many steps were skipped, and how many of them last in a row; waits."""
        total, in_a_row = self._counts.tolist()
        return int(total), int(in_a_row)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain data."""
        # What is skipped next goes back to what is saved now, in a resumed run as in this one.
        self._keep_statistics()
        total, in_a_row = self.read()
        return {"skipped": total, "in_a_row": in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned; the module has its weights already."""
        self._keep_statistics()
        self._counts[0], self._counts[1] = state["skipped"], state["in_a_row"]

    def _add_overflow(self, skipped: Tensor) -> None:
        """Count an overflow as not finite, in which rank it may have been."""
        found = self._scaler_findings()
        if self._device.overflowed():
            self._device.clear_overflow()
            skipped.fill_(1.0)
        for finding in found:
            skipped.copy_(skipped.maximum(finding))
        if dist.is_initialized():
            dist.all_reduce(skipped, dist.ReduceOp.MAX)
        for finding in found:
            finding.copy_(skipped)  # so that the scale stays the same in all ranks

    def _scaler_findings(self) -> list[Tensor]:
        if not self._scaler.is_enabled():
            return []
        return list(self._scaler._found_inf_per_device(self._optimizer).values())

    def _update(self, skipped: Tensor) -> None:
        if self._optimizer.defaults["fused"]:
            # As torch's scaler tells an optimizer that can skip by itself.
            self._optimizer.grad_scale = None  # type: ignore[attr-defined]
            self._optimizer.found_inf = skipped  # type: ignore[attr-defined]
            self._optimizer.step()
        elif not skipped.item():
            self._optimizer.step()

    def _keep_statistics(self) -> None:
        if self._statistics:
            self._kept = self._join_statistics()

    def _restore_statistics(self, skipped: Tensor) -> None:
        if not self._statistics:
            return
        self._kept = torch.where(skipped.bool(), self._kept, self._join_statistics())
        parts = torch.split(self._kept, [statistic.numel() for statistic in self._statistics])
        torch._foreach_copy_(self._statistics, list(parts))

    def _join_statistics(self) -> Tensor:
        """Copy them into one tensor: a few kernels then, not a few for each layer."""
        return torch.cat([statistic.flatten() for statistic in self._statistics])


class LossGuard:
    """Ends a run whose loss shows that it will not recover.

    It is fed with the mean loss of each interval between log lines, the same in all ranks, so that
    all of them end together.
    """

    def __init__(self, precision: Precision) -> None:
        self._max_skipped = MAX_SKIPPED[precision]
        self._losses: deque[float] = deque(maxlen=NUM_REMEMBERED)

    def judge(
        self, loss: float | None, *, step: int, lr: float, in_a_row: int, last: bool = False
    ) -> None:
        """Take the loss of one more interval.

        Args:
            loss: None where all steps of the interval were skipped.
            step: that the interval ended with.
            lr: learning rate of that step.
            in_a_row: how many steps up to it were skipped, as `StepGuard.read` tells.
            last: whether the run ends here, where nothing can set right what has begun to go wrong.

        Raises:
            Diverged: too many steps were skipped in a row; or the loss is not finite, has jumped,
                or no longer changes.
        """
        where = f"at step {step} (learning rate {lr:.3g})"
        problem = self._find_problem(loss, where, in_a_row, self._allowed(last))
        if problem is not None:
            raise Diverged(f"{problem}; {DIVERGENCE_REMEDY}")
        if loss is not None:
            self._losses.append(loss)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain data."""
        return {"losses": list(self._losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._losses.clear()
        self._losses.extend(state["losses"])

    def _allowed(self, last: bool) -> int:
        """Return how many steps in a row may be skipped."""
        return self._max_skipped // _STRICTER_AT_THE_END if last else self._max_skipped

    def _find_problem(
        self, loss: float | None, where: str, in_a_row: int, allowed: int
    ) -> str | None:
        if in_a_row > allowed:
            return (
                f"{in_a_row} steps in a row had gradients that are not finite {where}, more than "
                f"{allowed}"
            )
        if loss is None:
            return None
        if not math.isfinite(loss):
            return f"the loss is {loss} {where}"
        if len(self._losses) >= NUM_BEFORE_JUDGING and loss > JUMP * median(self._losses):
            return (
                f"the loss has jumped to {loss:.4g} {where}, more than {JUMP:g} times the median "
                f"of the last {len(self._losses)} log lines, {median(self._losses):.4g}"
            )
        if list(self._losses)[1 - NUM_CONSTANT :] == [loss] * (NUM_CONSTANT - 1):
            return (
                f"the loss is exactly {loss:.6g} in {NUM_CONSTANT} log lines, {where} too: "
                "it no longer depends on the weights"
            )
        return None


def _start_momentum(optimizer: torch.optim.SGD) -> None:
    """Give each parameter a momentum of 0, with which the first step is as without one.

    Left to itself fused SGD makes it in the first step, from memory as it comes; where that step is
    skipped nothing is written to it, and the second adds what was there.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
