"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_fault_has_its_tests(repository: Path) -> None:
    here = Path(__file__).parent
    rows = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", (here / "README.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 39))
    for number, tests in rows:
        named = re.findall(r"`(\S+\.py)::(\w+)`", tests)
        assert named or tests == "-", number
        for file, name in named:
            path = repository / file if "/" in file else here / file
            assert f"def {name}(" in path.read_text(), f"{number}: {file}::{name}"
