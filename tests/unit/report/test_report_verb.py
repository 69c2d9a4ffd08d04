"""The verb `report`: which records it finds, what it prints and where it writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import InputError, SuiteError, UsageError
from suite.records import build_record, write_record
from suite.report import report
from suite.report.layout import clean, escape_markdown, fit_table, format_ap, format_number

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"
FOLDER = ROOT / "reports" / "reference"
Format = Literal["table", "markdown", "json", "csv"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(kind: str, created: int, **parts: Any) -> dict[str, Any]:
    return build_record(kind, **parts) | {
        "created": f"2026-11-{created:02d}T12:00:00Z",
        "command": f"suite {kind} ssd_r34_coco",
        "software": {"torch": "2.13.0"},
        "git": {"commit": "0123456789abcdef", "dirty": created == 1},
    }


def write_examples() -> None:
    ssd = {"detector": "ssd_r34", "dataset": "COCO2017", "reference": ["seed-003"]}
    npu = {"device": "npu", "device_name": "Ascend 910", "devices": 8, "precision": "fp16"}
    cpu = {"device": "cpu", "device_name": "AMD EPYC 7R13 Processor", "devices": 1, "batch": 1}
    run = Path("runs/ssd_r34_coco-1")
    trained = make(
        "train",
        1,
        metrics={"ap": 0.2531, "images_per_second": 4620.5},
        subject=ssd,
        conditions=npu | {"scope": "global", "epochs": 115.2},
        notes=["unverified on Ascend hardware"],
    )
    write_record(trained, run / "record.json")
    parity = {"max_score_difference": 3.1e-06, "max_box_difference_px": 0.002}
    verified = make("verify", 2, metrics=parity, subject=ssd, conditions=cpu)
    write_record(verified, run / "record-verify.json")
    speed = {"images_per_second": 13.25, "latency_ms_p50": 75.3}
    timed = make(
        "bench-infer", 3, metrics=speed, subject=ssd, conditions=cpu | {"precision": "fp32", "n": 5}
    )
    write_record(timed, Path("reports/records/ssd_r34_cpu.json"))


def run(
    *records: str | Path,
    compare: str | None = None,
    output: Path | None = None,
    output_format: Format = "table",
    reference_folder: Path = FOLDER,
) -> str:
    return report(
        records,
        compare=compare,
        reference_folder=reference_folder,
        output=output,
        output_format=output_format,
    )


def check_golden(text: str, name: str) -> None:
    path = GOLDEN / name
    if os.environ.get("SUITE_REWRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path}: rewrite with SUITE_REWRITE_GOLDEN=1"


@pytest.fixture
def small_reference(working_folder: Path) -> Path:
    """A few of the published rows, so that a new one elsewhere changes no golden file."""
    folder = working_folder / "small"
    folder.mkdir()
    for name in ("seed.csv", "ascend.csv"):
        shutil.copy(FOLDER / name, folder)
    return folder


def test_the_comparison_reads_as_agreed(small_reference: Path) -> None:
    write_examples()
    text = run(compare="reference", reference_folder=small_reference)
    check_golden(text, "report_compare.txt")


def test_the_markdown_reads_as_agreed(small_reference: Path) -> None:
    write_examples()
    text = run(compare="reference", reference_folder=small_reference, output_format="markdown")
    check_golden(text, "report_compare.md")


def test_the_published_rows_read_as_agreed(small_reference: Path) -> None:
    text = run(compare="reference", reference_folder=small_reference)
    check_golden(text, "report_reference.txt")


@pytest.mark.parametrize("compare", [None, "reference"])
def test_text_fits_a_terminal_and_holds_no_colour(compare: str | None) -> None:
    empty = run(compare=compare)
    write_examples()
    for text in (empty, run(compare=compare)):
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text
        assert text.endswith("\n")


def test_without_records_the_published_rows_are_shown_and_nothing_is_written(
    working_folder: Path,
) -> None:
    (working_folder / "reports").mkdir()
    text = run()
    assert text.index("seed-001") < text.index("seed-003") < text.index("ascend-001")
    assert "36.6[1]" in text
    assert list((working_folder / "reports").iterdir()) == []


def test_json_is_one_document_that_holds_everything() -> None:
    write_examples()
    document = json.loads(run(compare="reference", output_format="json"))
    assert document["schema"] == "suite.report/2"
    names = [entry["name"] for entry in document["records"]]
    assert names == [
        "runs/ssd_r34_coco-1",
        "runs/ssd_r34_coco-1/record-verify",
        "reports/records/ssd_r34_cpu",
    ]
    first = document["comparisons"][0]
    assert (first["row_id"], first["metric"], first["verdict"]) == (
        "seed-003",
        "ap",
        "not comparable",
    )
    assert first["reasons"] == ["flagged: device count not stated"]
    used = {one["row_id"] for one in document["comparisons"]}
    assert {row["row_id"] for row in document["reference"]} == used


def test_json_without_records_holds_every_published_row() -> None:
    assert len(json.loads(run(output_format="json"))["reference"]) == 253


def test_records_are_given_as_files_folders_or_patterns() -> None:
    write_examples()
    one = "runs/ssd_r34_coco-1/record.json"
    for names, count in (((one,), 1), (("runs",), 2), (("r*/**/*.json",), 3), ((one, "runs"), 2)):
        document = json.loads(run(*names, output_format="json"))
        assert len(document["records"]) == count


def test_a_record_in_a_folder_counts_by_its_schema_not_by_its_name() -> None:
    write_examples()
    folder = Path("reports/records")
    start = make("manifest", 4, metrics={}, subject={}, conditions={})
    write_record(start, folder / "manifest.json")
    Path(folder / "results.json").write_text("[]")
    Path(folder / "sidecar.json").write_text('{"schema": "suite.graph/3"}')
    whole = (folder / "ssd_r34_cpu.json").read_text()
    Path(folder / "answer.json").write_text(f'{{"schema": "suite.train/1", "record": {whole}}}')
    for names, count in (((folder,), 1), ((), 3)):
        document = json.loads(run(*names, output_format="json"))
        assert len(document["records"]) == count
    Path(folder / "cut.json").write_text(whole[:-10])
    with pytest.raises(InputError, match=r"cut\.json"):
        run(folder)


def test_a_folder_without_records_is_a_mistake() -> None:
    Path("empty").mkdir()
    Path("empty/results.json").write_text("[]")
    with pytest.raises(UsageError, match=r"empty: no record here .*suite\.record/1"):
        run("empty")


def test_records_elsewhere_are_named_without_the_path_to_them(working_folder: Path) -> None:
    write_examples()
    here = Path("elsewhere")
    here.mkdir()
    os.chdir(here)
    document = json.loads(run(working_folder / "runs", output_format="json"))
    assert document["records"][0]["name"] == "ssd_r34_coco-1"
    assert str(working_folder) not in json.dumps([entry["name"] for entry in document["records"]])


def test_nothing_is_written_that_was_not_asked_for(working_folder: Path) -> None:
    write_examples()
    Path("reports/report.md").write_text("mine")
    before = sorted(working_folder.rglob("*"))
    run(compare="reference")
    assert sorted(working_folder.rglob("*")) == before
    assert Path("reports/report.md").read_text() == "mine"


@pytest.mark.parametrize(("suffix", "form"), [("md", "markdown"), ("json", "json"), ("csv", "csv")])
def test_a_report_goes_where_it_is_asked_for_in_the_form_of_its_name(
    suffix: str, form: Format
) -> None:
    write_examples()
    run(output=Path(f"deep/mine.{suffix}"))
    assert Path(f"deep/mine.{suffix}").read_text() == run(output_format=form)


def test_a_report_never_replaces_a_record() -> None:
    write_examples()
    path = Path("runs/ssd_r34_coco-1/record.json")
    before = path.read_text()
    with pytest.raises(UsageError, match="that is one of the records"):
        run("runs", output=path)
    assert path.read_text() == before


def test_arguments_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="yesterday: no record here"):
        run(compare="yesterday")
    with pytest.raises(UsageError, match=r"name that ends in \.md, \.html, \.json, \.csv"):
        run(output=Path("report.txt"))
    with pytest.raises(UsageError, match="nothing: no record here"):
        run("nothing")
    Path("file").write_text("")
    with pytest.raises(SuiteError, match="the report cannot be written"):
        run(output=Path("file/report.md"))


def test_a_damaged_record_is_named() -> None:
    write_examples()
    Path("runs/record-bad.json").write_text("{}")
    with pytest.raises(InputError, match=r"^runs/record-bad\.json: not a record"):
        run()


def test_hostile_text_in_a_record_is_only_text() -> None:
    evil = "\x1b[2J\r\nx | <script>alert(1)</script> [click](javascript:1)\u202e\ud800"
    record = make(
        "train",
        1,
        metrics={"ap": 0.2, evil: 1.0},
        subject={"detector": evil, "dataset": evil, "reference": ["seed-003"]},
        conditions={"device": evil, "device_name": evil, "precision": evil},
        notes=[evil],
    )
    write_record(record, Path("record.json"))
    text = run("record.json", compare="reference")
    mark = run("record.json", compare="reference", output_format="markdown")
    for shown in (text, mark):
        assert not {"\x1b", "\r", "\u202e", "\ud800"} & set(shown)
    assert "<script>" not in mark.replace("\\<", "")
    assert "](" not in mark
    assert max(map(len, text.splitlines())) <= 80


@given(st.text())
def test_clean_text_is_one_printable_line(text: str) -> None:
    assert clean(text).isprintable()
    assert "](" not in escape_markdown(text)


@given(
    st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"])), min_size=2, max_size=2)
)
def test_a_table_with_a_column_to_wrap_always_fits(cells: list[str]) -> None:
    table = fit_table([{"a": cells[0], "b": cells[1]}], flexible=("a", "b"))
    assert max(map(len, table.splitlines()), default=0) <= 80


@pytest.mark.parametrize(
    ("ap", "text"), [(None, ""), (0.36, "36.0"), (0.366, "36.6"), (0.2319, "23.19"), (1, "100.0")]
)
def test_ap_is_printed_times_hundred(ap: float | None, text: str) -> None:
    assert format_ap(ap) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (17, "17"),
        (4474.27, "4474.27"),
        (713.083, "713.08"),
        (3.1e-06, "3.1e-06"),
        (0, "0"),
    ],
)
def test_numbers_are_printed_as_people_read_them(value: float | None, text: str) -> None:
    assert format_number(value) == text
