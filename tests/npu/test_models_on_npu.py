"""Both detectors on the simulated NPU: a training step and detection, with the CPU's numbers.

It shows that nothing in models, losses and postprocess stays on the CPU, and that fp32, autocast
and the scaler are used as on the CPU. Unverified on Ascend hardware: whether its operators exist,
how accurate and how fast they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)

PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.fixture(scope="module", params=["ssd_r34", "retinanet_r18_fpn"])
def detector(request: pytest.FixtureRequest, observe: Callable[..., Any]) -> dict[str, Any]:
    """What one detector gave on both devices in each precision."""
    facts: dict[str, Any] = observe("detectors", request.param)
    return facts


@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_are_those_of_the_cpu(detector: dict[str, Any], precision: str) -> None:
    cpu, npu = (detector[precision][kind]["losses"] for kind in ("cpu", "npu"))
    assert len(cpu) == 2 and cpu[0] != cpu[1]
    for on_cpu, on_npu in zip(cpu, npu, strict=True):
        assert on_npu == pytest.approx(on_cpu, rel=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_detections_are_those_of_the_cpu(detector: dict[str, Any], precision: str) -> None:
    cpu, npu = (detector[precision][kind] for kind in ("cpu", "npu"))
    assert npu["device"] == "npu:1"
    assert min(npu["counts"]) > 0
    assert npu["counts"] == cpu["counts"] and npu["labels"] == cpu["labels"]
    for key in ("scores", "boxes"):
        assert flatten(npu[key]) == pytest.approx(flatten(cpu[key]), rel=1e-4, abs=1e-4)


def test_autocast_changes_the_losses(detector: dict[str, Any]) -> None:
    fp32, bf16, fp16 = (detector[precision]["npu"]["losses"] for precision in PRECISIONS)
    assert fp32[-1] not in (bf16[-1], fp16[-1])


def flatten(value: Any) -> list[float]:
    if not isinstance(value, list):
        return [value]
    return [number for part in value for number in flatten(part)]
