"""`suite train` on the simulated NPU: the CPU's numbers, loss scaling, devices, records.

Unverified on Ascend hardware: what runs here shows that nothing of a run stays on the CPU by
mistake, that precision, scaler, process groups and facts are plumbed correctly, and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints
from suite.records import load_record
from tests.npu.runs import (
    NUM_STEPS,
    Runs,
    assert_close,
    assert_same_losses,
    losses_of,
    read_lines,
    state_of,
)

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)

NPU = ("--device", "npu")
TWO_NPUS = ("--device", "npu", "--devices", "2", "--no-eval")
# In half precision, on the second device, with loader processes beside it; the last two steps have
# gradients that are not finite.
HALF = ("--device-ids", "1", *NPU, "--set", "precision=O1", "--set", "data.workers=2", "--no-eval")
OVERFLOWING = "inf@rank0:step7-8"


@pytest.fixture(scope="module")
def half(runs: Runs) -> Path:
    return runs.train("retinanet", *HALF, SUITE_FAULT=OVERFLOWING)


# The CPU's numbers


def test_losses_and_weights_are_those_of_the_cpu(runs: Runs) -> None:
    ours, cpu = runs.train("ssd", *NPU), runs.train_on_cpu("ssd")
    assert sorted(losses_of(ours)) == list(range(1, NUM_STEPS + 1))
    assert_same_losses(ours, cpu)
    assert_close(state_of(ours)["weights"], state_of(cpu)["weights"], within=1e-4)


@pytest.mark.parametrize("detector", ["ssd", pytest.param("retinanet", marks=pytest.mark.slow)])
def test_in_the_memory_layout_of_an_npu_the_cpu_gives_the_same_to_the_bit(
    runs: Runs, detector: str
) -> None:
    ours, cpu = runs.train(detector, *NPU), runs.train_on_cpu(detector, npu_layout=True)
    assert losses_of(ours) == losses_of(cpu)
    assert detections_of(ours) == detections_of(cpu) != []
    for part in ("step", "weights", "scaler", "step_guard"):
        # Not 0: on the CPU the optimizer's arithmetic is fused, and rounds less often.
        assert_close(state_of(ours)[part], state_of(cpu)[part], within=1e-9, where=part)


@pytest.mark.slow
def test_retinanet_has_the_losses_and_weights_of_the_cpu(runs: Runs) -> None:
    ours, cpu = runs.train("retinanet", *NPU), runs.train_on_cpu("retinanet")
    assert_same_losses(ours, cpu)
    assert_close(state_of(ours)["weights"], state_of(cpu)["weights"], within=1e-5)


@pytest.mark.parametrize(
    ("detector", "within"),
    [("retinanet", 1e-5), pytest.param("ssd", 1e-4, marks=pytest.mark.slow)],
)
def test_two_devices_train_as_two_processes_on_the_cpu(
    runs: Runs, detector: str, within: float
) -> None:
    ours = runs.train(detector, *TWO_NPUS)
    cpu = runs.train(detector, "--devices", "2", "--no-eval")
    assert sorted(losses_of(ours)) == list(range(1, NUM_STEPS // 2 + 1))
    assert_same_losses(ours, cpu)
    assert_close(state_of(ours)["weights"], state_of(cpu)["weights"], within=within)


# Loss scaling


def test_half_precision_has_almost_the_losses_of_fp32(runs: Runs, half: Path) -> None:
    ours, cpu = losses_of(half), losses_of(runs.train_on_cpu("retinanet"))
    assert sorted(ours) == list(range(1, NUM_STEPS - 1))
    for step, losses in ours.items():
        assert losses == pytest.approx(cpu[step], rel=1e-3)
        assert losses != pytest.approx(cpu[step], rel=1e-6)


def test_an_overflow_halves_the_scale_and_leaves_no_other_trace(half: Path) -> None:
    before, after = state_of(half, NUM_STEPS - 2), state_of(half, NUM_STEPS)
    assert (before["scaler"]["scale"], after["scaler"]["scale"]) == (65536.0, 16384.0)
    assert after["step_guard"] == {"skipped": 2, "in_a_row": 2}
    assert_close(after["weights"], before["weights"], where="weights")
    assert_close(after["optimizer"]["state"], before["optimizer"]["state"], where="momentum")
    assert [line.get("skipped_steps", 0) for line in read_lines(half)] == [0] * 6 + [1, 1]


@pytest.mark.slow
def test_an_overflow_on_one_of_two_devices_is_skipped_on_both(runs: Runs) -> None:
    half_on_two = (*TWO_NPUS, "--set", "precision=O1")
    hurt = runs.train("retinanet", *half_on_two, SUITE_FAULT="inf@rank1:step4")
    before, after = state_of(hurt, 3), state_of(hurt, 4)
    assert (before["scaler"]["scale"], after["scaler"]["scale"]) == (65536.0, 32768.0)
    assert_close(after["weights"], before["weights"], where="weights")


# Devices


@pytest.mark.parametrize("recipe", ["own", "shipped"])
def test_more_devices_than_there_are_is_refused(runs: Runs, tmp_path: Path, recipe: str) -> None:
    own = [runs.recipe("ssd"), *NPU, "--devices", "8"]
    words = own if recipe == "own" else ["ssd_r34_8p"]
    output = tmp_path / "runs"
    done = runs.suite("train", *words, "--output", output, NPU_SIMULATION_DEVICES="2")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-2:] == [
        "suite: 8 x npu are asked for on this machine, it has 2",
        "to run it on those: --devices 2, which keeps the images of each and scales the learning "
        "rate",
    ]
    assert not output.exists()


def test_chosen_device_is_the_only_one_that_is_visible(half: Path) -> None:
    conditions = load_record(half / "record.json")["conditions"]
    assert conditions["environment"]["ASCEND_RT_VISIBLE_DEVICES"] == "1"
    assert conditions["devices"] == 1


@pytest.mark.slow
def test_a_shipped_recipe_for_eight_devices_runs_on_eight(runs: Runs, tmp_path: Path) -> None:
    data = runs.recipe("ssd").parent / "data"
    changes = {
        "detector.width": "0.125",
        "detector.num_classes": "6",
        "detector.backbone_weights": "null",
        "data.train.annotations": "annotations/instances_train.json",
        "data.train.images": "train",
        "data.val.annotations": "annotations/instances_val.json",
        "data.val.images": "val",
        "data.workers": "0",
        "schedule.nominal_epoch_images": "8",
        "schedule.epochs": "3",
        "schedule.decay_epochs": "3",
        "global_batch": "8",
        "log_every_steps": "1",
    }
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    done = runs.suite(
        *("train", "ssd_r34_8p", "--data", data, *words, "--output", tmp_path),
        NPU_SIMULATION_DEVICES="8",
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "ssd_r34_8p-1"
    record = load_record(run / "record.json")
    assert (record["hardware"]["device_count"], record["conditions"]["precision"]) == (8, "fp16")
    assert [line["step"] for line in read_lines(run) if "lr" in line] == [1, 2, 3]
    assert state_of(run)["step"] == 3
    assert len(list_checkpoints(run / "checkpoints")) >= 1


# What is written about it


@pytest.mark.parametrize("document", ["manifest", "record"])
def test_a_run_says_what_it_ran_on_and_that_it_proves_little(runs: Runs, document: str) -> None:
    record = load_record(runs.train("ssd", *NPU) / f"{document}.json")
    assert_simulated(record["conditions"])
    assert record["hardware"]["device"] == "Simulated NPU"


def test_a_report_marks_what_was_simulated(
    runs: Runs, run_suite: Callable[..., Any], tmp_path: Path
) -> None:
    record, output = runs.train("ssd", *NPU) / "record.json", tmp_path / "report.md"
    done = run_suite("report", record, "--compare", "reference", "--output", output)
    assert done.code == 0, done.stderr
    for text in (done.stdout, output.read_text()):
        assert "1 x Simulated NPU (simulated)" in text
        assert "our device is simulated" in text
    done = run_suite("report", record, "--compare", "reference", "--format", "json")
    verdicts = {found["verdict"] for found in json.loads(done.stdout)["comparisons"]}
    assert verdicts == {"not comparable"}


def test_doctor_tells_of_the_devices_as_a_document(runs: Runs) -> None:
    done = runs.suite("doctor", "--device", "npu", "--json", NPU_SIMULATION_DEVICES="3")
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["device"]["status"] == "ok"
    assert checks["device"]["value"] == "npu: Simulated NPU"
    assert checks["npu"]["value"] == "3 usable; this suite is unverified on Ascend hardware"
    assert checks["npu memory"]["value"].count("64.0") == 6


def assert_simulated(conditions: dict[str, Any]) -> None:
    expected = {
        "kind": "npu",
        "name": "Simulated NPU",
        "simulated": True,
        "torch_npu": "2.13.0+simulated",
        "matmul_hf32": False,
        "conv_hf32": False,
        "internal_format": False,
        "jit_compile": False,
        "saturates": False,
        "strict_device": False,
    }
    assert {key: conditions[key] for key in expected} == expected
    assert "unverified on Ascend hardware" in conditions["verification"]


def detections_of(run: Path) -> Any:
    return json.loads((run / "eval" / "coco_instances_results.json").read_text())
