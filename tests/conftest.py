"""Fixtures and options that more than one test file needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="count a skipped test as a failure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report: pytest.TestReport = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and weights: SUITE_TEST_DATA, else `shared` beside the checkout."""
    folder = Path(os.environ.get("SUITE_TEST_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("real data not present: SUITE_TEST_DATA does not name its folder")
    return folder


@dataclass(frozen=True)
class Finished:
    """A finished command line."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_suite(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run the command line in this process and return its exit code and output."""
    from suite.cli import main

    def run(*arguments: str) -> Finished:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = int(leave.code or 0)
        output = capsys.readouterr()
        return Finished(code, output.out, output.err)

    return run


@pytest.fixture
def golden(repository: Path) -> Callable[[str, str], None]:
    """Hold a text against a file of tests/golden; SUITE_REWRITE_GOLDEN=1 rewrites the file."""

    def compare(name: str, text: str) -> None:
        path = repository / "tests" / "golden" / name
        if os.environ.get("SUITE_REWRITE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
