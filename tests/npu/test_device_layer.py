"""`suite.device` and `suite doctor` on the simulated NPU.

What runs here shows that the suite chooses, sets up and describes the device through names that
exist and in the right order. It shows nothing of the hardware: see the simulation's docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def bf16(observe: Callable[..., Any]) -> dict[str, Any]:
    """What a process saw on a device that has inf and bf16."""
    facts: dict[str, Any] = observe("device_layer", "bf16")
    return facts


@pytest.fixture(scope="module")
def saturating(observe: Callable[..., Any]) -> dict[str, Any]:
    """What a process saw on one of the first 910."""
    facts: dict[str, Any] = observe("device_layer", "fp16", NPU_SIMULATION_SATURATES="1")
    return facts


def test_auto_takes_the_npu_of_the_index(bf16: dict[str, Any]) -> None:
    assert (bf16["place"], bf16["current"], bf16["count"]) == ("npu:1", 1, 2)
    assert bf16["third"].startswith("device npu:2: only 2 visible")


def test_description_says_that_it_is_simulated(bf16: dict[str, Any]) -> None:
    described = bf16["describe"]
    expected = {
        "kind": "npu",
        "name": "Simulated NPU",
        "precision": "bf16",
        "torch": torch.__version__,
        "torch_npu": "2.13.0+simulated",
        "matmul_hf32": False,
        "conv_hf32": False,
        "saturates": False,
        "simulated": True,
    }
    assert {key: described[key] for key in expected} == expected
    assert "unverified on Ascend hardware" in described["verification"]


def test_peak_memory_is_that_of_the_device(bf16: dict[str, Any]) -> None:
    assert bf16["peak"] == 4 * 2**20


def test_copies_run_on_a_stream_of_their_own(bf16: dict[str, Any]) -> None:
    assert bf16["copied"] == ["npu:1", [0, 1, 2]]


def test_precision_decides_autocast_and_scaler(
    bf16: dict[str, Any], saturating: dict[str, Any]
) -> None:
    assert (bf16["autocast"], bf16["scaler"]) == ("torch.bfloat16", False)
    assert (saturating["autocast"], saturating["scaler"]) == ("torch.float16", True)


def test_overflow_flag_counts_only_where_the_device_saturates(
    bf16: dict[str, Any], saturating: dict[str, Any]
) -> None:
    assert bf16["overflow"] == [False, False, False, False]
    assert saturating["overflow"] == [True, False, True, False]


def test_first_910_has_no_bf16(saturating: dict[str, Any]) -> None:
    assert saturating["bf16"] == (
        "precision bf16 is not supported on Ascend910A (simulated); use fp16 or fp32"
    )


def test_doctor_finds_the_device(run_python: Callable[..., Any]) -> None:
    finished = run_python("-m", "suite", "doctor", "--device", "npu")
    assert finished.returncode == 0, finished.stderr
    assert "npu: Simulated NPU" in finished.stdout
    assert "this suite is unverified on Ascend hardware" in finished.stdout


def test_doctor_misses_a_device_that_is_hidden(run_python: Callable[..., Any]) -> None:
    finished = run_python("-m", "suite", "doctor", "--device", "npu", ASCEND_RT_VISIBLE_DEVICES="")
    assert finished.returncode == 4
    assert "device npu: torch_npu loads but" in finished.stderr
