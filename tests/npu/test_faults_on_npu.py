"""What goes wrong on a simulated NPU, and how a run tells it.

Misplaced tensors, lacking memory, lacking operators, numbers cut at the largest there is. Lacking
operators and saturation are told by the simulation in the words and flags of torch_npu; unverified
on Ascend hardware.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.checkpoint import list_checkpoints
from suite.recipe import load_recipe
from suite.records import load_record
from suite.training import train
from tests.npu.runs import (
    NUM_STEPS,
    Runs,
    assert_close,
    assert_same_losses,
    cut,
    losses_of,
    read_lines,
    state_of,
)

# The first of them may have to compile the simulation.
pytestmark = pytest.mark.timeout(900)

NPU = ("--device", "npu", "--no-eval")
# Used by the step of both detectors, in the backward pass.
MISSING = {"NPU_SIMULATION_MISSING_OPS": "aten::threshold_backward"}
# Enough for the detector, not for a step; and not for the detector either.
TIGHT, TIGHTER = 20_000_000, 1_000_000

Finished = subprocess.CompletedProcess[str]


# Misplaced tensors


@pytest.fixture(scope="module")
def misplaced(runs: Runs, run_python: Callable[..., Finished]) -> dict[str, str]:
    """The error of each step that leaves something where it must not be."""

    def observe() -> Any:
        recipe, output = runs.recipe("ssd"), runs.folders.mktemp("misplaced")
        finished = run_python("-m", "tests.npu.programs.misplaced", recipe, output)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout.splitlines()[-1])

    errors: dict[str, str] = runs.once("misplaced", observe)
    return errors


def test_the_own_step_leaves_nothing_on_the_cpu(misplaced: dict[str, str]) -> None:
    assert misplaced["nothing"] == "none"


def test_a_batch_that_is_partly_on_the_cpu_is_refused(misplaced: dict[str, str]) -> None:
    assert re.match(
        "Expected all tensors to be on the same device, .* npu:0 and cpu", misplaced["target"]
    )
    assert re.match(
        r"Input type \(torch.FloatTensor\) and weight type \(npuFloatType\)", misplaced["images"]
    )


def test_the_layout_of_the_other_devices_is_refused(misplaced: dict[str, str]) -> None:
    assert "Only contiguous_format or preserve_format" in misplaced["layout"]


# Lacking memory


def test_out_of_memory_is_one_sentence_and_leaves_the_run_as_it_was(
    runs: Runs, tmp_path: Path
) -> None:
    whole = runs.train_on_cpu("ssd")
    run = cut(whole, tmp_path / "run", step=4)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    done = runs.suite(
        *("train", run / "recipe.yaml", *NPU, "--resume", run),
        NPU_SIMULATION_MEMORY_BYTES=str(TIGHT),
    )
    told = assert_told_to_have_too_little_memory(done, "2 images at a time")
    assert told == "suite: " + (run / "log.txt").read_text().splitlines()[-1]
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    train(load_recipe(str(run / "recipe.yaml")), output=tmp_path, resume=run)
    assert_close(state_of(run)["weights"], state_of(whole)["weights"])


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_detector_that_does_not_fit_is_told_likewise(
    runs: Runs, tmp_path: Path, devices: str
) -> None:
    done = runs.suite(
        *("train", runs.recipe("ssd"), *NPU, "--devices", devices, "--output", tmp_path / "runs"),
        NPU_SIMULATION_MEMORY_BYTES=str(TIGHTER),
    )
    assert_told_to_have_too_little_memory(done, "2 images at a time")
    assert list_checkpoints(tmp_path / "runs" / "ssd-1" / "checkpoints") == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["eval", "bench infer", "bench train"])
def test_verbs_that_save_nothing_tell_it_likewise(runs: Runs, tmp_path: Path, verb: str) -> None:
    checkpoint = list_checkpoints(runs.train_on_cpu("ssd") / "checkpoints")[-1]
    few = ["--steps", "1", "--warmup", "1"]
    words = [runs.recipe("ssd"), *few] if verb == "bench train" else [checkpoint]
    done = runs.suite(
        *(*verb.split(), *words, "--device", "npu", "--output", tmp_path),
        NPU_SIMULATION_MEMORY_BYTES=str(TIGHTER),
    )
    alone = "2 images at a time" if verb == "bench train" else "the detector alone"
    assert_told_to_have_too_little_memory(done, alone)


def assert_told_to_have_too_little_memory(done: Finished, holding: str) -> str:
    assert done.returncode == 4, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("suite: ")]
    assert f"Simulated NPU ran out of memory with {holding}, 0.0 GiB at the peak; " in told
    return told


# Lacking operators


@pytest.mark.slow
def test_an_operator_that_is_lacking_runs_on_the_cpu_with_a_warning(runs: Runs) -> None:
    run, said = runs.train_and_listen("ssd", *NPU, **MISSING)
    assert said.count("will fall back to run on the CPU") == 1
    assert "aten::threshold_backward" in said
    assert_same_losses(run, runs.train_on_cpu("ssd"))
    assert load_record(run / "record.json")["conditions"]["strict_device"] is False


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_strict_device_ends_the_run_instead(runs: Runs, tmp_path: Path, devices: str) -> None:
    done = runs.suite(
        *("train", runs.recipe("ssd"), *NPU, "--strict-device", "--devices", devices),
        *("--output", tmp_path / "runs"),
        **MISSING,
    )
    assert_told_to_lack_an_operator(done)
    assert list_checkpoints(tmp_path / "runs" / "ssd-1" / "checkpoints") == []


def test_bench_is_strict_unless_told_otherwise(runs: Runs, tmp_path: Path) -> None:
    words = ("bench", "train", runs.recipe("ssd"), "--device", "npu", "--steps", "1")
    more = ("--warmup", "1", "--output", tmp_path)
    assert_told_to_lack_an_operator(runs.suite(*words, *more, **MISSING))
    assert list(tmp_path.iterdir()) == []
    done = runs.suite(*words, *more, "--no-strict-device", **MISSING)
    assert done.returncode == 0, done.stderr
    assert "will fall back to run on the CPU" in done.stderr
    conditions = load_record(tmp_path / "bench-train-ssd-1" / "record.json")["conditions"]
    assert (conditions["strict_device"], conditions["simulated"]) == (False, True)


def assert_told_to_lack_an_operator(done: Finished) -> None:
    assert done.returncode == 4, done.stderr
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("suite: ")]
    assert "Simulated NPU lacks the operator aten::threshold_backward" in told
    assert "--strict-device" in told


# Saturation


def test_a_flag_of_overflow_skips_the_step(runs: Runs, run_python: Any, tmp_path: Path) -> None:
    done = run_python(
        *("-m", "tests.npu.programs.overflowing", "0", str(NUM_STEPS)),
        *("train", runs.recipe("retinanet"), *NPU, "--output", tmp_path, "--set", "precision=O1"),
        *("--set", "checkpoint_every_epochs=0.25"),
        NPU_SIMULATION_SATURATES="1",
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "retinanet-1"
    conditions = load_record(run / "record.json")["conditions"]
    assert (conditions["saturates"], conditions["name"]) == (True, "Ascend910A (simulated)")
    assert_skipped_last(run)


@pytest.mark.slow
def test_a_flag_of_one_device_skips_the_step_on_all(
    runs: Runs, run_python: Any, tmp_path: Path
) -> None:
    done = run_python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "tests.npu.programs.overflowing", "1", str(NUM_STEPS // 2)),
        *("train", runs.recipe("retinanet"), *NPU, "--set", "precision=O1", "--devices", "2"),
        *("--output", tmp_path),
        NPU_SIMULATION_SATURATES="1",
    )
    assert done.returncode == 0, done.stderr
    assert_skipped_last(tmp_path / "retinanet-1")


def assert_skipped_last(run: Path) -> None:
    """The last step of a run changed nothing but the scale."""
    last = max(line["step"] for line in read_lines(run) if "lr" in line)
    assert [line["step"] for line in read_lines(run) if "skipped_steps" in line] == [last]
    assert last not in losses_of(run)
    before, after = state_of(run, last - 1), state_of(run, last)
    assert after["scaler"]["scale"] == before["scaler"]["scale"] / 2
    assert_close(after["weights"], before["weights"], where="weights")
