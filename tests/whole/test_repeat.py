"""A recorded run, run again: the same to the bit, or told where it differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.checkpoint import list_checkpoints, load_checkpoint, write_checkpoint
from suite.data.synthetic import write_synthetic
from suite.recipe import load_recipe
from suite.repeat import Repeated, format_repeated
from suite.training import train
from tests.small_runs import SMALL

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 8 steps."""
    write_synthetic(tmp_path / "data", num_train=8, num_val=2, seed=0)
    recipe = load_recipe("demo", {**SMALL, "data.root": str(tmp_path / "data")})
    return train(recipe, output=tmp_path / "runs")


def test_a_run_is_repeated_to_the_bit_and_a_changed_one_is_told(
    run: Path, tmp_path: Path, run_suite: Run
) -> None:
    command = ["repeat", str(run / "manifest.json"), "--output", str(tmp_path / "again")]
    exact = run_suite(*command)
    assert exact.code == 0, exact.stderr
    assert "repeat: EXACT" in exact.stdout
    newest = list_checkpoints(run / "checkpoints")[-1]
    state = load_checkpoint(newest)
    name, weight = next(iter(state["weights"].items()))
    state["weights"][name] = weight + torch.finfo(torch.float32).eps
    write_checkpoint({key: state[key] for key in state if key != "schema"}, newest)
    changed = run_suite(*command, "--json")
    assert changed.code == 3
    answer = json.loads(changed.stdout)
    assert answer["schema"] == "suite.repeat/1"
    assert name in answer["difference"]
    assert answer["surroundings"] == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("record.json", "has no record.json; only a run that has ended"),
        ("recipe.yaml", "has no recipe.yaml"),
    ],
)
def test_what_cannot_be_repeated_is_refused(
    run: Path, spoil: str, said: str, run_suite: Run
) -> None:
    (run / spoil).unlink()
    done = run_suite("repeat", str(run / "manifest.json"))
    assert done.code == 1
    assert said in done.stderr


def test_other_surroundings_are_judged_by_ap() -> None:
    close = Repeated(
        folder=Path("again"),
        surroundings=("hardware device: A100, now H200",),
        num_compared=5,
        difference="loss of step 3: 1.5 and 1.25",
        ap_before=0.360,
        ap_now=0.3615,
        promised=True,
    )
    assert close.matched
    assert "the same within noise, AP 0.3600 and now 0.3615" in format_repeated(close)
    assert "around it: hardware device: A100, now H200" in format_repeated(close)


def test_where_bits_are_not_promised_ap_decides_too() -> None:
    base = {
        "folder": Path("again"),
        "surroundings": (),
        "num_compared": 5,
        "difference": "loss of step 3: 1.5 and 1.25",
        "ap_before": 0.36,
    }
    assert Repeated(**base, ap_now=0.36, promised=False).matched
    assert not Repeated(**base, ap_now=0.36, promised=True).matched
    assert not Repeated(**base, ap_now=0.35, promised=False).matched


@pytest.mark.parametrize(
    "changes", [{"surroundings": ()}, {"ap_now": 0.35}, {"ap_now": None}, {"ap_before": None}]
)
def test_nothing_else_counts_as_the_same(changes: dict[str, Any]) -> None:
    base = {
        "folder": Path("again"),
        "surroundings": ("git commit: a, now b",),
        "num_compared": 5,
        "difference": "loss of step 3: 1.5 and 1.25",
        "ap_before": 0.36,
        "ap_now": 0.36,
        "promised": True,
    }
    found = Repeated(**{**base, **changes})
    assert not found.matched
    assert "DIFFERS" in format_repeated(found)
