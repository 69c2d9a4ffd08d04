"""Only one at a time: each `alone` has an open file of its own, as two processes have."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from suite.locking import alone, is_held


def quiet(_: str) -> None:
    pass


def test_no_two_are_inside(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def enter(number: int) -> None:
        for _ in range(20):
            with alone(tmp_path / "lock", say=quiet):
                inside.append(number)
                time.sleep(0.001)  # for others to come in, if they can
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert most == [1] * 160
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_frees_the_lock(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "lock", say=said.append):
        _ = 1 / 0
    with alone(tmp_path / "lock", say=said.append):
        pass
    assert said == []


def test_a_process_that_is_killed_frees_the_lock(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from suite.locking import alone, is_held\n"
        "with alone(pathlib.Path(sys.argv[1]), say=print): os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")], check=False)
    assert killed.returncode == 9
    assert (tmp_path / "lock").exists()
    said: list[str] = []
    with alone(tmp_path / "lock", say=said.append):
        pass
    assert said == []


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"), alone(tmp_path / "absent" / "lock", say=quiet):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_there_are_no_locks_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_file: object, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with alone(tmp_path / "lock", say=quiet), alone(tmp_path / "lock", say=quiet):
        assert not is_held(tmp_path / "lock")


def test_a_lock_that_is_not_ours_to_open_counts_as_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert not is_held(tmp_path / "lock")
    (tmp_path / "lock").touch()
    assert not is_held(tmp_path / "lock")
    with alone(tmp_path / "lock", say=print):
        assert is_held(tmp_path / "lock")
    monkeypatch.setattr(Path, "open", refuse)
    assert is_held(tmp_path / "lock")
