"""What a record tells about its origin, and what it must not tell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import suite
from suite.provenance import (
    available_memory_bytes,
    describe_command,
    describe_git,
    describe_machine,
    describe_software,
)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/local/bin/suite", "eval", "--batch", "8"], "suite eval --batch 8"),
        (["/checkout/suite/__main__.py", "doctor"], "python -m suite doctor"),
        (["suite", "eval", "/mnt/secret/weights.pt"], "suite eval weights.pt"),
        (["suite", "--data=/mnt/secret/coco"], "suite --data=coco"),
        (["suite", "--set", "data.root=/mnt/a=b/coco"], "suite --set data.root=a=b/coco"),
        (["suite", "a,/mnt/secret/b"], "suite a,b"),
        (["suite", "two words"], "suite 'two words'"),
        (["suite", "runs/one"], "suite runs/one"),
    ],
)
def test_commands_hold_no_path_of_this_machine(arguments: list[str], command: str) -> None:
    assert describe_command(arguments) == command


def test_paths_below_the_working_folder_become_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = Path.cwd()
    given = ["suite", str(here / "runs" / "one"), f"--data={here}", f"{here}/../elsewhere/data"]
    assert describe_command(given) == "suite runs/one --data=. data"


def test_machine_and_software_are_known() -> None:
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert machine["memory_bytes"] > 2**20
    assert describe_software()["suite"] == suite.__version__


def test_git_tells_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "__init__.py").write_text("")
    monkeypatch.setattr(suite, "__file__", str(tmp_path / "suite" / "__init__.py"))
    assert describe_git() is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert describe_git() is None
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    assert describe_git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "suite" / "__init__.py").write_text("changed")
    assert describe_git() == {"commit": git("rev-parse", "HEAD"), "dirty": True}


@pytest.mark.parametrize(
    ("limit", "available"), [("max", 8000 * 1024), ("5000000", 4000000), ("100", 0)]
)
def test_a_container_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, available: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    monkeypatch.setattr("suite.provenance._MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr("suite.provenance._CGROUP", tmp_path)
    assert available_memory_bytes() == 8000 * 1024
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory_bytes() == available
