"""Energy comes from a sensor or not at all."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from suite.bench.energy import measured_energy
from suite.device import build_device


@pytest.fixture
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.bench.energy._SHORTEST_S", 0.0)


def device(kind: str, index: int = 3) -> Any:
    return SimpleNamespace(kind=kind, torch_device=SimpleNamespace(index=index))


def test_a_cpu_has_no_sensor() -> None:
    with measured_energy(build_device("cpu", "fp32")) as energy:
        pass
    assert (energy.joules, energy.sensor) == (None, "none")


def write_tool(folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "npu-smi"
    tool.write_text(f'#!/bin/sh\n[ "$*" = "info -t power -i 3" ] && echo "{answer}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.usefixtures("any_length")
@pytest.mark.parametrize(
    "answer", ["        NPU Real-time Power(W)         : 80.0", "Power Dissipation(W) : 80.0"]
)
def test_an_npu_tells_its_power_and_time_makes_energy_of_it(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tool(tmp_path, answer, monkeypatch)
    started = time.perf_counter()
    with measured_energy(device("npu")) as energy:
        time.sleep(0.3)
    elapsed = time.perf_counter() - started
    assert energy.sensor == "npu-smi"
    assert energy.joules is not None
    assert 80 * 0.3 <= energy.joules <= 80 * elapsed


def test_an_npu_whose_tool_tells_nothing_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tool(tmp_path, "This device does not support querying power.", monkeypatch)
    with measured_energy(device("npu")) as energy:
        pass
    assert (energy.joules, energy.sensor) == (None, "none")


@pytest.mark.usefixtures("any_length")
def test_a_gpu_counts_its_own_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = iter([5_000.0, 5_000.0, 12_500.0])  # millijoules; the first is a trial
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: next(counters)
    )
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid="00-11")
    )
    with measured_energy(device("cuda")) as energy:
        pass
    assert (energy.joules, energy.sensor) == (7.5, "NVML")


def test_a_gpu_without_a_driver_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    with measured_energy(device("cuda")) as energy:
        pass
    assert (energy.joules, energy.sensor) == (None, "none")


def test_what_is_shorter_than_the_sensor_is_fine_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tool(tmp_path, "NPU Real-time Power(W) : 80.0", monkeypatch)
    with measured_energy(device("npu")) as energy:
        pass
    assert (energy.joules, energy.sensor) == (None, "npu-smi, less than 1 s of it")
