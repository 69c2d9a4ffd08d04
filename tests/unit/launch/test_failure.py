"""Which of several failures is the cause, and how it is told."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite.errors import InputError, RankLost, SuiteError
from suite.launch.failure import (
    Failure,
    describe,
    find_cause,
    read_departure,
    read_failure,
    refuse_restart,
    show_own_log,
    writing_failure,
)
from suite.launch.heartbeat import ERROR_FILE, Heart

HOST = socket.gethostname()


def fail(
    rank: int, exit_code: int, message: str | None = None, *, said: int | None = None, when: float
) -> Failure:
    return Failure(
        rank=rank,
        pid=100 + rank,
        exit_code=exit_code,
        message=message,
        said_exit_code=said,
        when=when,
        step=7,
        folder=Path("/logs/attempt_0") / str(rank),
    )


def lost(rank: int, *, when: float) -> Failure:
    return fail(rank, 6, "lost another rank", said=6, when=when)


def killed(rank: int, *, when: float) -> Failure:
    return fail(rank, -signal.SIGKILL, when=when)


def terminated(rank: int, *, when: float) -> Failure:
    return fail(rank, -signal.SIGTERM, when=when)


def own_error(rank: int, *, when: float) -> Failure:
    return fail(rank, 1, "photo.jpg is damaged", said=1, when=when)


def wordless(rank: int, *, when: float) -> Failure:
    return fail(rank, 1, when=when)


@pytest.mark.parametrize(
    "failures",
    [
        [lost(0, when=1.0), killed(1, when=2.0)],
        [lost(0, when=1.0), own_error(1, when=2.0)],
        [lost(0, when=1.0), wordless(1, when=2.0)],
        [terminated(0, when=1.0), lost(1, when=2.0)],
        [terminated(0, when=1.0), killed(1, when=2.0), terminated(2, when=0.5)],
        [killed(0, when=1.0), own_error(1, when=2.0), lost(2, when=0.5)],
        [wordless(0, when=1.0), killed(1, when=2.0)],
        [own_error(0, when=2.0), own_error(1, when=1.0)],
        [killed(0, when=2.0), killed(1, when=1.0)],
        [lost(0, when=2.0), lost(1, when=1.0)],
        # Left with exit code 0 as if it were done.
        [lost(0, when=1.0), fail(1, 0, when=0.0)],
    ],
)
def test_the_cause_is_told_from_its_symptoms(failures: list[Failure]) -> None:
    assert find_cause(failures).rank == 1
    assert find_cause(failures[::-1]).rank == 1


@pytest.mark.parametrize(
    ("failure", "message", "exit_code"),
    [
        (
            own_error(1, when=0),
            f"rank 1 on {HOST}, after step 7: photo.jpg is damaged\n"
            "logs of the ranks: /logs/attempt_0",
            1,
        ),
        (
            killed(2, when=0),
            f"rank 2 on {HOST} was killed by SIGKILL after step 7 (process 102); out of memory? "
            "`dmesg` tells\nlogs of the ranks: /logs/attempt_0",
            6,
        ),
        (
            fail(0, -signal.SIGSEGV, when=0),
            f"rank 0 on {HOST} was killed by SIGSEGV after step 7 (process 100)\n"
            "logs of the ranks: /logs/attempt_0",
            6,
        ),
        (
            wordless(3, when=0),
            f"rank 3 on {HOST} ended with exit code 1 after step 7, without a reason\n"
            "logs of the ranks: /logs/attempt_0",
            6,
        ),
        (
            fail(0, 143, "stopped by SIGTERM after step 7; saved", said=143, when=0),
            "stopped by SIGTERM after step 7; saved",
            143,
        ),
    ],
)
def test_a_failure_is_told_in_a_sentence(failure: Failure, message: str, exit_code: int) -> None:
    error = describe(failure)
    assert str(error) == message
    assert error.exit_code == exit_code


def test_a_rank_that_failed_at_once_was_before_its_first_step(tmp_path: Path) -> None:
    process = SimpleNamespace(pid=5, exitcode=-signal.SIGKILL, timestamp=3)
    failure = read_failure(process, rank=4, folder=tmp_path)
    assert (failure.message, failure.step, failure.when) == (None, None, 3.0)
    told = f"rank 4 on {HOST} was killed by SIGKILL before its first step (process 5)"
    assert str(describe(failure)).startswith(told)


@pytest.mark.parametrize(
    ("error", "message", "exit_code"),
    [
        (InputError("photo.jpg is damaged"), "photo.jpg is damaged", 1),
        (RankLost("rank 0 lost another rank"), "rank 0 lost another rank", 6),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", 1),
    ],
)
def test_what_a_rank_says_of_its_failure_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
    exit_code: int,
) -> None:
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    before = time.time()
    with pytest.raises(type(error)), writing_failure():
        raise error
    process = SimpleNamespace(pid=5, exitcode=exit_code, timestamp=0)
    failure = read_failure(process, rank=2, folder=tmp_path)
    assert (failure.message, failure.said_exit_code) == (message, exit_code)
    assert before <= failure.when <= time.time()
    # torchrun reads the file too, and shows this part.
    told = json.loads((tmp_path / "error.json").read_text())["message"]
    assert type(error).__name__ in told["extraInfo"]["py_callstack"]


def test_without_a_launcher_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ERROR_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError), writing_failure():
        raise InputError("photo.jpg is damaged")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ['{"message": {"mess', "{}", ""])
def test_a_rank_that_was_killed_while_it_spoke_said_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "error.json").write_text(content)
    process = SimpleNamespace(pid=5, exitcode=-signal.SIGKILL, timestamp=3)
    assert read_failure(process, rank=0, folder=tmp_path).message is None


def test_a_rank_that_left_without_a_word_is_told_from_one_that_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_departure(tmp_path, rank=1) is None  # it never was there
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    with Heart.beating() as heart:
        heart.mark(3)
        departure = read_departure(tmp_path, rank=1)
        assert departure is not None
        assert "rank 1 on" in str(describe(departure))
        assert "ended with exit code 0 after step 3, without a reason" in str(describe(departure))
    assert read_departure(tmp_path, rank=1) is None


def test_who_could_not_speak_has_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "stderr.log").write_text("".join(f"line {number}\n" for number in range(30)))
    process = SimpleNamespace(pid=5, exitcode=-signal.SIGSEGV, timestamp=3)
    show_own_log(read_failure(process, rank=1, folder=folder))
    said = capsys.readouterr().err.splitlines()
    assert said == [f"rank 1: line {number}" for number in range(10, 30)]


@pytest.mark.parametrize(
    ("exit_code", "final"), [(2, True), (5, True), (143, True), (6, False), (1, False), (4, False)]
)
def test_what_would_end_in_the_same_way_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, final: bool
) -> None:
    for attempt in range(2):
        (tmp_path / f"attempt_{attempt}" / "0").mkdir(parents=True)
    said = {"message": {"message": "it went wrong"}, "exit_code": exit_code}
    (tmp_path / "attempt_0" / "0" / "error.json").write_text(json.dumps(said))
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "attempt_1" / "0" / "error.json"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    refuse_restart()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    if not final:
        refuse_restart()
        return
    with pytest.raises(SuiteError, match="it went wrong") as raised:
        refuse_restart()
    assert raised.value.exit_code == exit_code
