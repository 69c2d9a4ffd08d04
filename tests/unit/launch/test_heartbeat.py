"""Signs of life: what a rank writes is what its launcher reads, and it does not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from suite.launch.heartbeat import (
    BEAT_S,
    ERROR_FILE,
    LEAVING,
    STACKS_SIGNAL,
    Heart,
    Pulse,
    read_pulse,
)


def await_true(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def require_pulse(folder: Path) -> Pulse:
    pulse = read_pulse(folder)
    assert pulse is not None
    return pulse


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log folder that a launcher has given this rank."""
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    return tmp_path


def test_what_a_rank_marks_is_read(folder: Path) -> None:
    assert read_pulse(folder) is None
    with Heart.beating() as heart:
        heart.mark(3)
        first = require_pulse(folder)
        assert (first.pid, first.step, first.waits) == (os.getpid(), 3, 0)
        with heart.waiting():
            assert require_pulse(folder).waits == 1
        heart.mark(4)
        second = require_pulse(folder)
        assert (second.step, second.waits) == (4, 0)
        assert second.marks > first.marks
        assert heart.step == 4


def test_it_beats_without_being_asked(folder: Path) -> None:
    with Heart.beating() as heart:
        heart.mark(0)
        first = require_pulse(folder)
        await_true(lambda: require_pulse(folder).beats > first.beats + 1)
        assert require_pulse(folder).marks == first.marks


def test_what_takes_its_time_says_so_while_it_does(folder: Path) -> None:
    with Heart.beating() as heart:
        heart.mark(3)
        with heart.taking_its_time():
            with heart.taking_its_time():
                assert require_pulse(folder).takes_its_time == 1
            assert require_pulse(folder).takes_its_time == 1  # the outer block goes on
            assert require_pulse(folder).step == 3
        assert require_pulse(folder).takes_its_time == 0


def test_a_rank_that_leaves_says_so(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Heart.beating() as heart:
        heart.mark(5)
        raise ZeroDivisionError
    left = require_pulse(folder)
    assert (left.beats, left.step) == (LEAVING, 5)


def test_without_a_launcher_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ERROR_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    with Heart.beating() as heart:
        heart.mark(2)
        assert heart.step == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\1\0\0", bytes(40)])
def test_a_file_that_is_not_written_yet_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "heartbeat").write_bytes(content)
    assert read_pulse(tmp_path) is None


# A launcher that starts a rank and then only waits.
_LAUNCHER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
sys.stdin.read()
"""
_RANK = """
import time
from suite.launch.heartbeat import Heart
with Heart.beating() as heart:
    heart.mark(1)
    time.sleep(600)
"""


@pytest.fixture
def launcher(folder: Path) -> subprocess.Popen[bytes]:
    """A launcher whose rank has begun."""
    process = subprocess.Popen([sys.executable, "-c", _LAUNCHER, _RANK], stdin=subprocess.PIPE)
    await_true(lambda: read_pulse(folder) is not None)
    return process


def test_a_rank_ends_with_its_launcher(folder: Path, launcher: subprocess.Popen[bytes]) -> None:
    rank = require_pulse(folder).pid
    launcher.kill()
    launcher.communicate()
    await_true(lambda: not is_running(rank), timeout_s=5 + BEAT_S)


def test_a_rank_tells_where_it_is(folder: Path, launcher: subprocess.Popen[bytes]) -> None:
    if STACKS_SIGNAL is None:
        pytest.skip("this system has no signal for it")
    os.kill(require_pulse(folder).pid, STACKS_SIGNAL)
    stacks = folder / "stacks.txt"
    await_true(lambda: "most recent call first" in stacks.read_text())
    await_true(lambda: 'File "<string>", line 6 in <module>' in stacks.read_text())
    os.kill(require_pulse(folder).pid, signal.SIGKILL)
    launcher.communicate()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")
