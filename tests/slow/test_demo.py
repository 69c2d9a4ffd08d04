"""The demo, as `make demo` runs it: it learns, its graph equals its checkpoint, it reports."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from suite.demo import MIN_AP50
from suite.records import load_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_the_demo_learns_and_reports(finished_demo: Path) -> None:
    report = finished_demo / "report.html"
    records = [load_record(path) for path in (finished_demo / "runs").rglob("record.json")]
    kinds = sorted(record["kind"] for record in records)
    assert kinds == ["bench-infer", "bench-infer", "eval", "eval", "train"]
    ap50s = [record["metrics"]["ap50"] for record in records if record["kind"] == "eval"]
    assert min(ap50s) >= MIN_AP50
    text = report.read_text(encoding="utf-8")
    assert all(kind in text for kind in set(kinds))
    for section in ("Learning curves", "Latency", "Precision and recall", "Predictions"):
        assert section in text
    assert text.count("data:image/jpeg") == 8
    with Image.open(report.with_name("predictions.jpg")) as sheet:
        assert sheet.width == 1280
