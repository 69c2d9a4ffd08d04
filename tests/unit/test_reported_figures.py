"""Figures in README.md and reports/ are those of the committed records."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from suite.report import report
from tests.reported import TABLES, Records, fill_tables, name_tables


def test_the_tables_of_the_readme_are_made_of_records(repository: Path) -> None:
    readme = repository / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert sorted(name_tables(text)) == sorted(TABLES)
    filled = fill_tables(text, Records(repository / "reports" / "records"))
    if os.environ.get("SUITE_REWRITE_GOLDEN") == "1":
        readme.write_text(filled, encoding="utf-8")
    else:
        assert filled == text


@pytest.mark.parametrize("form", ["md", "html"])
def test_the_rendered_report_is_that_of_the_records(
    form: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    kept, made = repository / "reports" / f"report.{form}", tmp_path / f"report.{form}"
    report(
        [Path("reports/records")],
        compare="reference",
        reference_folder=repository / "reports" / "reference",
        output=made,
        output_format="table",
    )
    if os.environ.get("SUITE_REWRITE_GOLDEN") == "1":
        kept.write_bytes(made.read_bytes())
    else:
        assert made.read_bytes() == kept.read_bytes()
