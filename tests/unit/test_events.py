"""What a run says: lines of metrics, throughput, progress on terminals and elsewhere."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from suite import events as events_module
from suite import progress as progress_module
from suite.errors import InputError
from suite.events import Events
from suite.progress import Progress


class Time:
    """A clock that stands still unless told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    for module in (events_module, progress_module):
        monkeypatch.setattr(module, "time", time)
    return time


def open_events(folder: Path, **changes: int) -> Events:
    folder.mkdir(exist_ok=True)
    arguments = {"num_steps": 10, "first_step": 0, "global_batch": 4, "log_every": 3} | changes
    return Events(folder, **arguments)


def make_step(events: Events, loss: float, *, lr: float = 0.5) -> None:
    losses = {"classification": torch.tensor(loss), "box": torch.tensor(1.0, requires_grad=True)}
    events.stepped(losses, lr=lr, skipped=torch.tensor(0.0))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# Lines of metrics


def test_each_interval_has_a_line_of_means(tmp_path: Path, clock: Time) -> None:
    with open_events(tmp_path) as events:
        for step in range(10):
            clock.now += 2.0
            make_step(events, float(step), lr=step / 100)
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 9, 10]
    assert [line["classification"] for line in lines] == [1.0, 4.0, 7.0, 9.0]
    assert [line["loss"] for line in lines] == [2.0, 5.0, 8.0, 10.0]
    assert [line["lr"] for line in lines] == [0.02, 0.05, 0.08, 0.09]
    assert [line["images_per_second"] for line in lines] == [2.0] * 4
    assert [line["seconds"] for line in lines] == [6.0, 12.0, 18.0, 20.0]


def test_throughput_leaves_out_the_first_interval_and_evaluations(
    tmp_path: Path, clock: Time
) -> None:
    with open_events(tmp_path) as events:
        for step in range(10):
            clock.now += 50.0 if step < 3 else 2.0
            make_step(events, 0.0)
            if step == 4:  # in the midst of an interval
                with events.paused():
                    clock.now += 1000.0
    assert [line["images_per_second"] for line in read_lines(tmp_path)] == [0.08, 2.0, 2.0, 2.0]
    assert events.totals() == {"loss": 1.0, "images_per_second": 2.0, "train_seconds": 14.0}


def test_a_pause_ends_where_it_is_left_by_an_error(tmp_path: Path, clock: Time) -> None:
    with open_events(tmp_path) as events:
        make_step(events, 0.0)
        clock.now += 6.0
        with pytest.raises(InputError), events.paused():
            clock.now += 100.0
            raise InputError("")
        make_step(events, 0.0)
        make_step(events, 0.0)
    assert read_lines(tmp_path)[0]["images_per_second"] == 2.0


def test_one_interval_is_no_throughput(tmp_path: Path) -> None:
    with open_events(tmp_path, num_steps=3) as events:
        assert events.totals() == {}
        for _ in range(3):
            make_step(events, 2.0)
    assert events.totals() == {"loss": 3.0}


@pytest.mark.parametrize("stop", [2, 3, 4, 8])
def test_an_interrupted_run_writes_the_lines_of_a_calm_one(tmp_path: Path, stop: int) -> None:
    losses = torch.rand(10, generator=torch.Generator().manual_seed(0)).tolist()
    with open_events(tmp_path / "calm") as calm:
        for loss in losses:
            make_step(calm, loss)
    with open_events(tmp_path / "broken") as first:
        for loss in losses[:stop]:
            make_step(first, loss)
        state = first.state()
    with open_events(tmp_path / "broken", first_step=stop) as second:
        second.restore(state)
        for loss in losses[stop:]:
            make_step(second, loss)
    keys = ("step", "loss", "classification", "box", "lr")
    pairs = zip(read_lines(tmp_path / "calm"), read_lines(tmp_path / "broken"), strict=True)
    assert all(one[key] == other[key] for one, other in pairs for key in keys)


def test_throughput_goes_on_after_an_interruption(tmp_path: Path, clock: Time) -> None:
    with open_events(tmp_path, num_steps=20) as first:
        for _ in range(8):
            clock.now += 2.0
            make_step(first, 0.0)
        state = first.state()
    assert first.totals()["train_seconds"] == 6.0
    clock.now += 10_000.0
    with open_events(tmp_path, num_steps=20, first_step=8) as second:
        second.restore(state)
        for _ in range(12):
            clock.now += 4.0
            make_step(second, 0.0)
    # Of the interval of steps 7 to 9 the second process made one.
    assert read_lines(tmp_path)[2]["images_per_second"] == 1.0
    # Steps 4 to 6 at 2 s, 10 to 20 at 4 s.
    seconds = 3 * 2.0 + 11 * 4.0
    expected = {"loss": 1.0, "train_seconds": seconds, "images_per_second": 14 * 4 / seconds}
    assert second.totals() == expected


def test_skipped_steps_do_not_count_in_the_means(tmp_path: Path) -> None:
    losses = [2.0, math.nan, 4.0, math.inf, math.nan, math.nan]
    with open_events(tmp_path, num_steps=6) as events:
        intervals = []
        for loss in losses:
            skipped = torch.tensor(float(not math.isfinite(loss)))
            intervals.append(events.stepped({"box": torch.tensor(loss)}, lr=0.5, skipped=skipped))
    first, second = (interval for interval in intervals if interval is not None)
    assert (first.loss, first.is_last, second.loss, second.is_last) == (3.0, False, None, True)
    lines = read_lines(tmp_path)
    assert [line.get("loss") for line in lines] == [3.0, None]
    assert [line["skipped_steps"] for line in lines] == [1, 3]
    assert "skipped 3 since the last line" in (tmp_path / "log.txt").read_text()


def test_what_happens_besides_steps_is_recorded_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_events(tmp_path, first_step=7) as events:
        events.wrote("evaluated", ap=0.123456, ap50=None)
        events.say("plain words")
    assert read_lines(tmp_path) == [{"event": "evaluated", "step": 7, "ap": 0.123456, "ap50": None}]
    said = "step 7: evaluated ap=0.1235 ap50=None\nplain words\n"
    assert (tmp_path / "log.txt").read_text() == said
    assert capsys.readouterr().err == said


def test_nothing_written_before_is_lost(tmp_path: Path) -> None:
    for _ in range(2):
        with open_events(tmp_path) as events:
            events.say("a")
            events.wrote("resumed")
    assert len(read_lines(tmp_path)) == 2
    assert (tmp_path / "log.txt").read_text() == "a\nstep 0: resumed\n" * 2


def test_tensorboard_gets_what_metrics_get(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_events(tmp_path) as events:
        for step in range(6):
            make_step(events, float(step))
        events.wrote("evaluated", ap=0.25, ap50=None)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    losses = board.Scalars("train/loss")
    assert [(scalar.step, scalar.value) for scalar in losses] == [(3, 2.0), (6, 5.0)]
    assert [(scalar.step, scalar.value) for scalar in board.Scalars("evaluated/ap")] == [(6, 0.25)]
    assert "evaluated/ap50" not in board.Tags()["scalars"]


# Progress


def test_plain_lines_come_every_few_seconds_and_at_the_end(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(100, label="check")
    for done in range(1, 101):
        clock.now += 1.0
        progress.update(done, "fine")
    progress.close()
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert lines[0] == "check 6/100 fine ETA 0:01:34"
    assert lines[-1] == "check 100/100 fine ETA 0:00:00"
    assert len(lines) == 17
    assert printed.out == ""
    assert "\r" not in printed.err


def test_the_end_is_said_once(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2, label="check")
    for _ in range(5):
        clock.now += 1.0
        progress.update(2)
    assert capsys.readouterr().err == "check 2/2 ETA 0:00:00\n"


def test_the_estimate_counts_this_process_alone(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(1000, done=900, label="train")
    clock.now += 10.0
    progress.update(900)
    clock.now += 10.0
    progress.update(910)
    assert capsys.readouterr().err == "train 900/1000 ETA ?\ntrain 910/1000 ETA 0:03:00\n"


def test_an_evaluation_shows_how_far_it_is(
    tmp_path: Path, clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_events(tmp_path, num_steps=3) as events:
        for _ in range(3):
            clock.now += 1.0
            make_step(events, 0.0)
        with events.paused():
            for done in (2, 4, 6):
                clock.now += 4.0
                events.evaluating(done, 6)
    lines = [line.partition(" ETA")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[1:] == ["train 3/3 evaluating 4/6"]


ON_A_TERMINAL = """
import sys, torch
from pathlib import Path
from suite.events import Events
with Events(Path(sys.argv[1]), num_steps=8, first_step=2, global_batch=4, log_every=3) as events:
    events.say("a line")
    for _ in range(6):
        events.stepped({"box": torch.tensor(1.5)}, lr=0.01, skipped=torch.tensor(0.0))
    events.evaluating(3, 5)
"""


@pytest.mark.parametrize("no_colour", [True, False])
def test_a_terminal_shows_a_bar_without_colours(tmp_path: Path, no_colour: bool) -> None:
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    if no_colour:
        environment["NO_COLOR"] = "1"
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path)], stderr=follower, env=environment
    ) as process:
        os.close(follower)
        shown = read_all(leader)
    assert process.returncode == 0
    assert "\r" in shown
    assert re.search(r"train +\[#+-+\] +62% +loss 1\.500 lr 1\.00e-02 [\d.]+ images/s ETA", shown)
    assert re.search(r"100% +evaluating 3/5 ETA 0:00:00", shown)
    assert re.search(r"^a line\r\n", shown.replace("\r\x1b[K", "\n"), re.MULTILINE)
    assert not re.search(r"\x1b\[[\d;]*m", shown)
    widths = [len(re.sub(r"\x1b\[[?\d]*\w", "", part)) for part in re.split(r"[\r\n]+", shown)]
    assert max(widths) <= 100


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode()
