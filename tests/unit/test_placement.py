"""A published recipe moved to other devices: what changes, and what is said about it."""

from __future__ import annotations

from suite.placement import place_recipe
from suite.recipe import load_recipe
from suite.schedule import peak_learning_rate, total_steps


def test_eight_npus_to_one_cpu() -> None:
    overrides, notes = place_recipe(load_recipe("ssd_r34_8p"), device="cpu", devices=1)
    moved = load_recipe("ssd_r34_8p", overrides)
    assert (moved.device, moved.devices, moved.global_batch) == ("cpu", 1, 32)
    assert moved.precision == "bf16"
    # The published single-device run.
    assert peak_learning_rate(moved.schedule, global_batch=32) == 0.003
    assert total_steps(moved.schedule, global_batch=32, dataset_size=1) == 432_000
    assert [note.split(":")[0] for note in notes] == [
        "devices 8 -> 1", "device npu -> cpu", "precision fp16 -> bf16",
    ]  # fmt: skip
    assert "peak learning rate 0.024 -> 0.003" in notes[0]


def test_staying_changes_nothing() -> None:
    recipe = load_recipe("ssd_r34_8p")
    assert place_recipe(recipe, device=None, devices=None) == ({}, [])
    assert place_recipe(recipe, device="npu", devices=8) == ({}, [])


def test_fp16_stays_on_an_accelerator() -> None:
    overrides, _ = place_recipe(load_recipe("ssd_r34_8p"), device="cuda", devices=None)
    assert overrides == {"device": "cuda"}
