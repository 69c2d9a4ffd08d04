"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suite.files import file_sha256, replacing, write_text


def test_text_is_written_as_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "made" / "a.txt", "µ\nb\n")
    assert (tmp_path / "made" / "a.txt").read_bytes() == b"\xc2\xb5\nb\n"


def test_the_name_has_the_old_content_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert (temporary.parent, temporary.suffix) == (path.parent, ".onnx")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("written", [True, False])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, written: bool) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        if written:
            temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    with pytest.raises(OSError, match="file"):
        write_text(tmp_path / "file" / "a.txt", "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_the_longest_name_of_a_file_system_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".txt")
    write_text(path, "a")
    assert path.read_text() == "a"


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 999
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from suite.files import write_text
for number in range(10**9):
    write_text(Path(sys.argv[1]), str(number % 10) * 3_000_000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "x" * 3_000_000)
    for delay in (random.Random(seed).uniform(0, 0.1) for seed in range(6)):
        before = path.stat().st_ino
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
        while path.stat().st_ino == before and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        text = path.read_text()
        assert text == text[0] * 3_000_000
