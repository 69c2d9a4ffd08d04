"""What the README and the committed records claim exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from suite.cli import cli
from suite.records import load_record


@pytest.fixture
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_it_opens_with_the_two_commands(readme: str) -> None:
    commands = [line.split("#")[0].strip() for line in readme.splitlines() if line[:4] == "    "]
    assert commands[:2] == ["make demo", "make test"]


def test_every_verb_it_names_is_there(readme: str) -> None:
    named = set(re.findall(r"(?:^    |`)suite ([a-z-]+)(?: ([a-z]+))?", readme, re.MULTILINE))
    assert len(named) > 8
    for verb, part in named:
        command = cli.commands[verb]
        if isinstance(command, click.Group) and part:
            assert part in command.commands


def test_places_and_pictures_it_names_are_there(readme: str, repository: Path) -> None:
    table = readme.split("## Where things are")[1].split("## Develop")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.count("|") == 3]
    places = re.findall(r"`([\w/.]+)`", " ".join(rows))
    assert len(places) > 10
    roots = [repository, repository / "suite", repository / "reports"]
    for place in places:
        assert any((root / place).exists() for root in roots), place
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert (repository / picture).is_file()


def test_committed_records_are_sound(repository: Path) -> None:
    files = (repository / "reports" / "records").glob("*.json")
    records = [load_record(path) for path in files if ".analysis" not in path.suffixes]
    assert {record["kind"] for record in records} >= {"train", "eval", "verify", "bench-infer"}
    assert all(record["git"] and not record["git"]["dirty"] for record in records)
