"""Logs hold the lines that test farms of the Ascend ModelZoo look for, in the shapes they parse."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.events import Events
from suite.modelzoo_log import final_lines, step_lines
from tests.small_runs import SMALL

STEP = re.compile(r"global_step\.\.\.(\d+)$", re.MULTILINE)
SPEED = re.compile(r"FPS: (\d+\.\d+), learning rate: (\S+), loss: (\S+)$", re.MULTILINE)
ACCURACY = re.compile(r"Eval results: (\{'COCO/AP': .*\})$", re.MULTILINE)
ENDS = {
    "speed": re.compile(r"^Final Performance images/sec : (\d+\.\d+)$", re.MULTILINE),
    "accuracy": re.compile(r"^Final Train Accuracy : (\d\.\d+)$", re.MULTILINE),
    "seconds": re.compile(r"^E2E Training Duration sec : (\d+)$", re.MULTILINE),
}
PUBLISHED = """\
INFO:tensorflow:global_step...3100
I0702 20:36:15.448100 281473204428816 ssd_model.py:363] FPS: 4474.27, learning rate: 0.02377195, \
loss: 7.5989103
"""


def test_the_expressions_fit_the_published_log() -> None:
    assert STEP.findall(PUBLISHED) == ["3100"]
    assert SPEED.findall(PUBLISHED) == [("4474.27", "0.02377195", "7.5989103")]


def test_the_expressions_fit_every_line_of_the_seed(shared: Path) -> None:
    (seed,) = (shared / "seeds").glob("004_*.txt")
    text = seed.read_text(encoding="utf-8")
    assert len(STEP.findall(text)) == text.count("global_step...")
    assert len(SPEED.findall(text)) == text.count("FPS: ")
    (results,) = ACCURACY.findall(text)
    assert ast.literal_eval(results)["COCO/AP"] == 0.2542533547853277


def test_our_lines_of_a_step_are_the_published_ones() -> None:
    lines = step_lines(3100, 4474.2683, lr=0.02377195, loss=7.59891033)
    assert lines == (
        "global_step...3100",
        "FPS: 4474.27, learning rate: 0.02377195, loss: 7.5989103",
    )


@pytest.mark.parametrize(
    ("lr", "loss", "end"),
    [
        (1e-05, 8.024865, "learning rate: 1e-05, loss: 8.024865"),
        (0.04, None, "learning rate: 0.04, loss: nan"),
        (1 / 3, 123.5, "learning rate: 0.33333334, loss: 123.5"),
    ],
)
def test_digits_are_those_of_float32(lr: float, loss: float | None, end: str) -> None:
    assert step_lines(1, 17.0, lr=lr, loss=loss)[1] == f"FPS: 17.00, {end}"


def test_what_is_not_known_at_the_end_has_no_line() -> None:
    assert final_lines(images_per_second=112.004, accuracy=0.36, seconds=12345.6) == [
        "Final Performance images/sec : 112.00",
        "Final Train Accuracy : 0.3600",
        "E2E Training Duration sec : 12346",
    ]
    assert final_lines(images_per_second=None, accuracy=None, seconds=0.2) == [
        "E2E Training Duration sec : 0"
    ]


@pytest.mark.parametrize("log_format", ["plain", "modelzoo"])
def test_speed_is_of_all_devices_and_the_lines_come_only_where_asked_for(
    log_format: Any, tmp_path: Path
) -> None:
    # 8 devices with 32 images each.
    counts = {"num_steps": 4, "first_step": 0, "global_batch": 256, "log_every": 2}
    with Events(tmp_path, **counts, log_format=log_format) as events:
        for _ in range(4):
            events.stepped({"box": torch.tensor(7.5)}, lr=0.5, skipped=torch.tensor(0.0))
    log = (tmp_path / "log.txt").read_text()
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = metrics if log_format == "modelzoo" else []
    assert [int(step) for step in STEP.findall(log)] == [line["step"] for line in expected]
    assert SPEED.findall(log) == [
        (f"{line['images_per_second']:.2f}", "0.5", "7.5") for line in expected
    ]


def test_a_farm_finds_every_figure_of_a_run(
    run_suite: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_suite("data", "synth", "data", "--train", "8", "--val", "2").code == 0
    flags = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    done = run_suite("train", "demo", "--data", "data", *flags, "--log-format", "modelzoo")
    assert done.code == 0, done.stderr
    folder = Path(done.stdout.strip())  # alone on stdout, as ever
    record = json.loads((folder / "record.json").read_text())["metrics"]
    for text in (done.stderr, (folder / "log.txt").read_text()):
        found = {name: shape.findall(text) for name, shape in ENDS.items()}
        assert found["speed"] == [f"{record['images_per_second']:.2f}"]
        assert found["accuracy"] == [f"{record['ap']:.4f}"]
        assert int(found["seconds"][0]) >= int(record["train_seconds"])
        (results,) = ACCURACY.findall(text)
        assert ast.literal_eval(results)["COCO/AP"] == record["ap"]
        assert [int(step) for step in STEP.findall(text)] == list(range(1, 9))
        assert len(SPEED.findall(text)) == 8
