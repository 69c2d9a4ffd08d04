"""Run folders are made once and numbered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from suite.errors import InputError, UsageError
from suite.run_folder import create_run_folder, open_run_folder, run_of_checkpoint


def test_numbers_count_up_per_name_and_fill_gaps(tmp_path: Path) -> None:
    output = tmp_path / "new" / "runs"
    made = [create_run_folder(output, name).name for name in ("a", "a", "b", "a")]
    assert made == ["a-1", "a-2", "b-1", "a-3"]
    (output / "a-2").rmdir()
    assert create_run_folder(output, "a") == output / "a-2"


def test_what_is_there_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "a-1").write_text("mine")
    assert create_run_folder(tmp_path, "a") == tmp_path / "a-2"
    assert (tmp_path / "a-1").read_text() == "mine"


def test_processes_at_the_same_time_get_different_folders(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from suite.run_folder import create_run_folder\n"
        "for _ in range(50): print(create_run_folder(Path(sys.argv[1]), 'a').name)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 150


def test_a_place_that_is_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(UsageError, match=f"--output {output}: no folder can be made there"):
            create_run_folder(output, "a")


def test_a_run_folder_is_known_by_its_checkpoints(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"not a run folder, or .* \(no checkpoints/ in it\)"):
            open_run_folder(folder)
    (tmp_path / "checkpoints").mkdir()
    assert open_run_folder(tmp_path) == tmp_path


def test_a_checkpoint_tells_its_run(tmp_path: Path) -> None:
    assert run_of_checkpoint(tmp_path / "r-1" / "checkpoints" / "a.pth") == tmp_path / "r-1"
    assert run_of_checkpoint(tmp_path / "a.pth") is None
