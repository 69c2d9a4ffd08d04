"""The simulated NPU itself: that it refuses what a device refuses and computes what the CPU does.

Tests on it show that devices, precisions, checkpoints and process groups are plumbed correctly.
They show nothing of the hardware, its operators, accuracy and speed, of the real HCCL, or of
missing synchronisation: see the docstring of the simulated torch_npu.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)

MIXED = "RuntimeError: Expected all tensors to be on the same device"

TOPK = """
import json, torch, torch_npu
numbers = torch.rand(5, device="npu").sort().values
for _ in range(2):
    values, _ = numbers.topk(2)
print(json.dumps(str(values.device)))
"""
# torch loads it by itself, as it loads torch_npu.
FACTS = """
import json, torch
npu = torch.npu
print(json.dumps([npu.device_count(), npu.get_device_name(), npu.is_bf16_supported(),
    npu.mem_get_info()[1], npu.is_available(), npu.get_device_properties().total_memory]))
"""
FORK = """
import os, torch, torch_npu
torch.ones(1, device="npu")
if os.fork() == 0:
    torch.ones(1, device="npu")
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
SATURATED_STEP = """
import json, torch, torch_npu
weight = torch.ones(1, device="npu", requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=1.0)
scaler = torch.npu.amp.GradScaler(init_scale=1024.0)
scaler.scale(weight.sum()).backward()
torch_npu.npu.simulation.overflow()
scaler.step(optimizer)
scaler.update()
print(json.dumps([weight.item(), scaler.get_scale(), torch.npu.get_npu_overflow_flag(),
    torch.npu.get_device_name(), torch.npu.is_bf16_supported()]))
"""


@pytest.fixture(scope="module")
def tensors(observe: Callable[..., Any]) -> dict[str, Any]:
    facts: dict[str, Any] = observe("tensors")
    return facts


@pytest.fixture(scope="module")
def training(observe: Callable[..., Any]) -> Any:
    return observe("training")


def test_copies_between_devices_keep_every_value(tensors: dict[str, Any]) -> None:
    assert tensors["copies"] == {
        "device": "npu:1",
        "unchanged": True,
        "across": "npu:0",
        "views": [True, True, True, True],
        "pinned": [True, False],
        "method": "npu:0",
    }


def test_results_stay_on_the_device(tensors: dict[str, Any]) -> None:
    assert tensors["numbers"] == {
        "reversed": ["npu:0", [0.0, -1.0, -2.0]],
        "dtype": ["npu:0", "torch.float16"],
        "in_place": [1.0, 4.0, 9.0],
        "masked": [1.0, 2.0, 0.0],
        "picked": ["npu:0", [1.0, 3.0]],
        "out": ["npu:0", [2.0, 4.0, 6.0]],
        "topk": [[3.0, 2.0], [2, 1]],
        "made": ["npu:0", 3.0],
    }


@pytest.mark.parametrize("operation", ["add", "matmul", "cat", "convolution"])
def test_a_tensor_of_the_cpu_is_refused(tensors: dict[str, Any], operation: str) -> None:
    assert tensors["refused"][operation].startswith(MIXED)
    assert "npu:0 and cpu" in tensors["refused"][operation]


def test_other_misuse_is_refused(tensors: dict[str, Any]) -> None:
    refused = tensors["refused"]
    assert refused["other_npu"].startswith(MIXED) and "npu:0 and npu:1" in refused["other_npu"]
    assert "indices should be either on cpu" in refused["index_on_npu"]
    assert refused["absent_device"] == "RuntimeError: invalid NPU device index 7: 2 visible"
    assert "Only contiguous_format or preserve_format" in refused["channels_last"]
    assert "more than one element of the written-to tensor" in refused["overlap"]
    assert "Expected a 'npu' device type for generator" in refused["cpu_generator"]


def test_random_numbers_follow_the_seed_and_the_state(tensors: dict[str, Any]) -> None:
    assert set(tensors["random"].values()) == {True}


def test_memory_is_counted_for_each_device(tensors: dict[str, Any]) -> None:
    memory = tensors["memory"]
    assert (memory["held"], memory["peak"], memory["other"]) == (4 * 2**20, 4 * 2**20, 0)
    assert memory["freed"]
    assert memory["total"] == 64 * 2**30


def test_lacking_memory_is_told_in_the_words_of_torch_npu(tensors: dict[str, Any]) -> None:
    memory = tensors["memory"]
    assert memory["beyond"].startswith(
        "OutOfMemoryError: NPU out of memory. Tried to allocate 32.00 MiB (NPU 0; 16.00 MiB total"
    )
    assert memory["within"] == "accepted"


def test_streams_and_events(tensors: dict[str, Any]) -> None:
    assert tensors["streams"]["inside"] and tensors["streams"]["restored"]
    assert tensors["streams"]["took_ms"] > 0


def test_overflow_flag_is_refused_where_there_is_inf(tensors: dict[str, Any]) -> None:
    assert "please use npu_check_overflow" in tensors["overflow"]
    assert tensors["has_overflowed"] == [False, True]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_gives_the_losses_of_the_cpu(training: Any, precision: str) -> None:
    cpu, npu = training["losses"][precision]
    assert npu == pytest.approx(cpu, rel=1e-6)


def test_reduced_precisions_differ_from_fp32(training: Any) -> None:
    losses = {precision: npu for precision, (_, npu) in training["losses"].items()}
    assert losses["bf16"] != losses["fp32"] != losses["fp16"] != losses["bf16"]
    assert training["autocast"] == ["torch.bfloat16", "torch.float32"]


def test_scaler_skips_the_step_that_overflows(training: Any) -> None:
    assert training["skipped"] == {"weight": 1.0, "scale": 512.0}


def test_weights_move_between_devices_through_a_file(training: Any) -> None:
    assert training["devices"] == ["npu:1"]
    assert training["restored"] == {"None": "npu:1", "cpu": "cpu", "npu:0": "npu:0"}


def test_lacking_operator_runs_on_the_cpu_with_one_warning(run_python: Callable[..., Any]) -> None:
    finished = run_python("-W", "error", "-c", TOPK, NPU_SIMULATION_MISSING_OPS="aten::topk")
    assert json.loads(finished.stdout) == "npu:0"
    assert finished.stderr.count("will fall back to run on the CPU") == 1
    assert "aten::topk" in finished.stderr


def test_lacking_operator_is_an_error_where_that_is_wanted(run_python: Callable[..., Any]) -> None:
    finished = run_python(
        "-c", TOPK, NPU_SIMULATION_MISSING_OPS="aten::topk", TORCH_NPU_FALLBACK_CPU_DISABLE="1"
    )
    assert finished.returncode == 1
    assert "RuntimeError: The operator 'aten::topk" in finished.stderr
    assert "disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1" in finished.stderr


def test_environment_makes_another_machine(run_python: Callable[..., Any]) -> None:
    finished = run_python(
        "-c",
        FACTS,
        TORCH_DEVICE_BACKEND_AUTOLOAD="1",
        NPU_SIMULATION_DEVICES="8",
        NPU_SIMULATION_MEMORY_BYTES="1024",
        ASCEND_RT_VISIBLE_DEVICES="0,1,7,8",
    )
    assert json.loads(finished.stdout) == [3, "Simulated NPU", True, 1024, True, 1024]


def test_forked_process_is_refused(run_python: Callable[..., Any]) -> None:
    finished = run_python("-c", FORK)
    assert finished.returncode == 1
    assert "Cannot re-initialize NPU in forked subprocess" in finished.stderr


def test_flag_of_the_first_910_makes_the_scaler_skip_a_step(run_python: Callable[..., Any]) -> None:
    finished = run_python("-c", SATURATED_STEP, NPU_SIMULATION_SATURATES="1")
    facts = json.loads(finished.stdout)
    assert facts == [1.0, 512.0, False, "Ascend910A (simulated)", False]


@pytest.fixture(scope="module")
def ranks(
    start_python: Callable[..., Any],
    once: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[Any]]:
    """What both ranks saw with each backend."""

    def observe_all() -> dict[str, list[Any]]:
        folder = tmp_path_factory.mktemp("rendezvous")
        started = [
            start_python("-m", "tests.npu.programs.ranks", kind, rank, folder / kind)
            for kind in ("cpu", "npu")
            for rank in "01"
        ]
        observed: dict[str, list[Any]] = {}
        for process in started:
            stdout, stderr = process.communicate()
            assert process.returncode == 0, stderr
            for backend, facts in json.loads(stdout).items():
                observed.setdefault(backend, []).append(facts)
        return observed

    observed: dict[str, list[Any]] = once("ranks", observe_all)
    return observed


@pytest.mark.parametrize("backend", ["hccl", "cpu:gloo,npu:hccl"])
def test_two_ranks_train_as_on_the_cpu(ranks: dict[str, list[Any]], backend: str) -> None:
    for npu, cpu in zip(ranks[backend], ranks["gloo"], strict=True):
        assert npu["losses"] == pytest.approx(cpu["losses"], rel=1e-6)
    assert ranks[backend][0]["losses"][-1] == ranks[backend][1]["losses"][-1]


@pytest.mark.parametrize("backend", ["hccl", "cpu:gloo,npu:hccl"])
def test_collectives_do_what_gloo_does(ranks: dict[str, list[Any]], backend: str) -> None:
    for npu, cpu in zip(ranks[backend], ranks["gloo"], strict=True):
        assert npu["collectives"] == cpu["collectives"]
        assert npu["objects"] == cpu["objects"]
    assert ranks["gloo"][0]["collectives"]["all_reduce"] == [10.0, 12.0]
    assert ranks["gloo"][0]["objects"] == [[{"rank": 0}, {"rank": 1}], ["from 0"]]


def test_hccl_alone_refuses_tensors_of_the_cpu(ranks: dict[str, list[Any]]) -> None:
    assert ranks["hccl"][0]["on_the_host"] == "No backend type associated with device type cpu"
    assert ranks["cpu:gloo,npu:hccl"][0]["on_the_host"] == [2.0, 2.0]
