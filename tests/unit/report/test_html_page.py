"""The report's page: what it shows, where each number leads, and that no text becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite.errors import InputError
from suite.evaluation.analysis import analyse, write_analysis
from suite.evaluation.columns import read_columns
from suite.evaluation.matching import match_results
from suite.records import write_record
from suite.report import report
from suite.report.html.analysis import SCHEMA, load_analysis
from suite.report.html.beside import find_analysis, find_metrics, find_pictures
from suite.report.html.curves import load_training
from tests.pages import PageReader, read_page
from tests.report_examples import (
    CPU,
    REFERENCE,
    SSD,
    build_analysis,
    make_record,
    write_metrics,
    write_rich_page,
    write_rich_records,
)

Run = Callable[..., Any]
EVIL = "<script>alert(1)</script><b onclick=x>\"'&amp;\x1b[2J\u202e](javascript:1)"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PageReader]:
    found = write_rich_page(tmp_path_factory.mktemp("pages"))
    return {name: read_page(path.read_text(encoding="utf-8")) for name, path in found.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def render(*records: str | Path, compare: str | None = None) -> str:
    return report(records, compare=compare, reference_folder=REFERENCE, output=None,
                  output_format="html")  # fmt: skip


def write_eval(path: Path, **metrics: float) -> dict[str, Any]:
    record = make_record("eval", 3, metrics=metrics or {"ap": 0.2}, subject=SSD, conditions=CPU)
    write_record(record, path)
    return record


def headings(reader: PageReader) -> set[str]:
    return {found["id"] or "" for found in reader.all("h2") if "id" in found}


def test_every_section_is_there(pages: dict[str, PageReader]) -> None:
    assert headings(pages["rich"]) == {
        "summary", "learning", "references", "scaling", "latency", "tradeoff", "mistakes",
        "gallery", "sources",
    }  # fmt: skip


def test_every_chart_is_told_in_words_and_in_numbers(pages: dict[str, PageReader]) -> None:
    reader = pages["rich"]
    drawn = [found for found in reader.all("svg") if found.get("role") == "img"]
    assert len(drawn) >= 20
    ids = reader.values("id")
    for chart in drawn:
        assert chart["aria-labelledby"] in ids
        assert chart["aria-describedby"] in ids
    scrolled = [found for found in reader.all("div") if found.get("class") == "scroll"]
    assert len(scrolled) == len(reader.all("table"))
    assert all(found["tabindex"] == "0" and found["aria-label"] for found in scrolled)
    tables = reader.values("aria-label")
    assert len(tables) >= len(drawn)
    assert all(tables)


def test_every_picture_says_what_it_is(pages: dict[str, PageReader]) -> None:
    pictures = pages["rich"].all("img")
    assert len(pictures) == 3
    assert len({picture["alt"] for picture in pictures}) == 3
    assert all("Detections of ssd-1" in (picture["alt"] or "") for picture in pictures)
    # Made smaller: the longer side of 900 pixels is 480.
    assert {(picture["width"], picture["height"]) for picture in pictures} == {
        ("480", "320"), ("480", "341"), ("480", "363")
    }  # fmt: skip


def test_every_figure_leads_to_its_source(pages: dict[str, PageReader]) -> None:
    reader = pages["rich"]
    notes = [found["href"] for found in reader.all("a") if found.get("class") == "note"]
    assert {f"#source-{number}" for number in range(1, 9)} == set(notes)
    rows = [link for link in reader.values("href") if link.startswith("#row-")]
    assert "#row-seed-003" in rows
    for told in ("suite train example-1", "2026-11-01T12:00:00Z", "0123456789abcdef, with changes",
                 "torch 2.13.0", "8 x Ascend 910", "n 200", "unverified on Ascend hardware",
                 "warmup 10", "Source: "):  # fmt: skip
        assert told in reader.text, told


def test_the_numbers_are_those_of_the_records(pages: dict[str, PageReader]) -> None:
    text = pages["rich"].text
    # AP x 100 with its interval, throughput, the median of the series, the ratio to seed-003.
    for told in ("25.31", "23.12 (21.92 to 24.42)", "4620.5", "32.27", "1.033"):
        assert told in text, told
    assert "36 ahead, 17 level, 3 behind, 288 not comparable" in text
    # 500 x 2^0.95 of 2 devices is 0.966 of twice 500.
    assert "965.94" in text
    assert "0.966" in text


def test_the_page_of_published_rows_has_them_all(pages: dict[str, PageReader]) -> None:
    reader = pages["published"]
    assert sum(one.startswith("row-") for one in reader.values("id")) == 253
    assert sum(one.startswith("#row-") for one in reader.values("href")) == 253
    assert "4474.27" in reader.text


@pytest.mark.parametrize(
    "command",
    [
        "suite train RECIPE",
        "suite report --compare reference --output report.html",
        "suite bench train RECIPE --devices N",
        "suite bench infer MODEL",
        "suite eval MODEL --analyse",
        "suite predict MODEL IMAGES --output RUN_FOLDER",
    ],
)
def test_what_is_missing_is_said_in_one_line_with_its_command(here: Path, command: str) -> None:
    write_eval(here / "record.json")
    reader = read_page(render("record.json"))
    assert headings(reader) == {"summary", "missing", "sources"}
    assert command in reader.text
    assert reader.all("svg") == []


def test_the_command_prints_and_writes_the_same_page(here: Path, run_suite: Run) -> None:
    write_rich_records(here)
    where = ["report", "runs", "--compare", "reference"]
    printed = run_suite(*where, "--format", "html", "--output", "deep/page.html")
    assert printed.code == 0, printed.stderr
    assert printed.stdout == Path("deep/page.html").read_text(encoding="utf-8")
    read_page(printed.stdout)


def test_records_are_compared_with_each_other_too(here: Path) -> None:
    write_rich_records(here)
    reader = read_page(render("runs", compare="runs"))
    assert "references" in headings(reader)
    assert not [link for link in reader.values("href") if link.startswith("#row-")]


def test_chosen_metrics_have_a_table_of_their_own(here: Path, run_suite: Run) -> None:
    write_rich_records(here)
    done = run_suite("report", "runs", "--metric", "ap50", "--format", "html")
    reader = read_page(done.stdout)
    assert "41.0" in reader.text
    assert "bench-0" not in reader.text


def test_text_from_anywhere_stays_text(here: Path) -> None:
    run = here / "runs" / re.sub(r"[/\x1b]", "", EVIL)[:60]
    record = make_record(
        "train",
        2,
        metrics={"ap": 0.2, "images_per_second": 1e308, EVIL: -1e308, "latency_ms_p50": 1e-300},
        subject={"detector": f"ssd{EVIL}", "dataset": EVIL, "recipe": EVIL,
                 "checkpoint_sha256": EVIL, "reference": ["seed-003", EVIL]},
        conditions={"device": EVIL, "device_name": EVIL, "devices": 1, "runtime": EVIL,
                    "precision": EVIL, "n": EVIL, "window": EVIL, "seed": [EVIL], "scope": EVIL},
        notes=[EVIL],
        series={"step_ms": [1e-308, 1e308, 5], "latency_ms": [1, 2, 1e300]},
    ) | {"command": EVIL, "software": {EVIL: EVIL}, "git": {"commit": EVIL}}  # fmt: skip
    write_record(record, run / "record.json")
    timed = record | {"kind": "bench-infer"}
    write_record(timed, here / "runs" / "timed" / "record.json")
    lines = [{"step": 1, EVIL: 5.0, "loss": 1e299, "lr": 0}, {"step": 9, EVIL: 6.0, "lr": 1e-320}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_analysis(build_analysis(names=(EVIL, "b", f"{EVIL} c")), run / "eval" / "analysis.json")
    (run / "predict-1").mkdir()
    Image.new("RGB", (30, 20)).save(run / "predict-1" / "<img src=x onerror=1>.jpg")
    page = render("runs", compare="reference")
    reader = read_page(page)
    assert not {"\x1b", "\u202e"} & set(page)
    assert not any("onclick" in found or "onerror" in found for _, found in reader.tags)
    assert reader.text.count("<script>alert(1)</script>") > 20
    assert {"learning", "mistakes", "gallery", "tradeoff"} <= headings(reader)


def test_curves_that_went_on_from_a_checkpoint_hold_the_later_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 10, "loss": 9.0, "box": 1.0, "lr": 0.1},
        {"step": 20, "loss": 7.0, "box": 0.8, "lr": 0.1},
        {"event": "resumed", "step": 10},
        {"step": 20, "loss": 6.0, "box": 0.7, "lr": 0.1},
        {"event": "evaluated", "step": 20, "ap": 0.1, "ap50": None},
        {"step": 30, "lr": 0.05, "skipped_steps": 10},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    path.write_text(f'{text}{{"step": 40, "lo', encoding="utf-8")
    training = load_training(path)
    assert training.losses == {"loss": [(10, 9.0), (20, 6.0)], "box": [(10, 1.0), (20, 0.7)]}
    assert training.lr == [(10, 0.1), (20, 0.1), (30, 0.05)]
    assert training.evaluations == {"ap": [(20, 0.1)]}


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", ":2: no JSON"), ("[]", ":2: no object with a step"), ('{"step": "x"}', ":2: no object"),
     ('{"step": NaN}', ":2: no JSON"), ("[" * 100_000, ":2: no JSON")],
)  # fmt: skip
def test_damaged_curves_are_named(here: Path, line: str, reason: str) -> None:
    write_record(make_record("train", 1, metrics={"ap": 0.1}, subject=SSD, conditions=CPU),
                 Path("record.json"))  # fmt: skip
    Path("metrics.jsonl").write_text(f'{{"step": 1, "lr": 1}}\n{line}\n{{"step": 3, "lr": 1}}\n')
    with pytest.raises(InputError, match=f"metrics.jsonl{reason}.*take the file away"):
        render("record.json")


def damage(change: Callable[[dict[str, Any]], object]) -> str:
    document = build_analysis(num_images=3)
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        "[" * 100_000,
        "{}",
        damage(lambda one: one.update(schema="suite.eval-analysis/9")),
        damage(lambda one: one.pop("curves")),
        damage(lambda one: one["classes"][0].update(ap=1.5)),
        damage(lambda one: one["classes"][0].update(true_boxes=-1)),
        damage(lambda one: one["confusion"]["cells"].append([0, 99, 1])),
        damage(lambda one: one["confusion"]["cells"].append([0, 1])),
        damage(lambda one: one["curves"]["all"]["iou50"].pop()),
        damage(lambda one: one["curves"]["recall"].__setitem__(0, float("nan"))),
        damage(lambda one: one["calibration"]["bins"][0].update(low="0")),
        damage(lambda one: one["errors"]["lost"].update(missed=[1])),
    ],
)
def test_a_damaged_analysis_is_named(here: Path, text: str) -> None:
    write_eval(Path("record.json"))
    Path("eval").mkdir()
    Path("eval/analysis.json").write_text(text)
    with pytest.raises(InputError, match=r"^eval/analysis.json: not an analysis .*--analyse$"):
        render("record.json")


def test_what_evaluation_writes_is_what_we_read(tmp_path: Path) -> None:
    written = build_analysis()
    assert written["schema"] == SCHEMA
    write_analysis(written, tmp_path / "analysis.json")
    found = load_analysis(tmp_path / "analysis.json")
    assert [one.ap for one in found.classes] == [one["ap"] for one in written["classes"]]
    assert found.curve is not None
    assert np.mean(found.curve["iou50"]) == pytest.approx(
        np.mean([one["ap50"] for one in written["classes"]]), abs=1e-4
    )
    assert [list(cell) for cell in found.cells] == written["confusion"]["cells"]
    assert found.d_ece == written["calibration"]["d_ece"]


def test_an_evaluation_without_any_box_is_shown_as_far_as_it_goes(here: Path) -> None:
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "annotations": [],
             "categories": [{"id": 1, "name": "cat"}]}  # fmt: skip
    write_eval(Path("record.json"))
    analysis = analyse(match_results(read_columns(truth, [])))
    write_analysis(analysis, Path("eval/analysis.json"))
    read_page(render("record.json"))


def test_files_beside_a_record_have_its_name(here: Path) -> None:
    folder = Path("reports/records")
    write_record(make_record("train", 1, metrics={"ap": 0.1}, subject=SSD, conditions=CPU),
                 folder / "mine.json")  # fmt: skip
    write_eval(folder / "other.json")
    write_metrics(folder / "mine.metrics.jsonl", num_steps=100)
    write_analysis(build_analysis(num_images=3), folder / "other.analysis.json")
    (folder / "mine.pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "mine.pictures" / "a.jpg")
    assert {"learning", "mistakes", "gallery"} <= headings(read_page(render()))
    assert find_pictures(folder / "other.json") == []


def test_no_link_leads_out_of_the_folder(here: Path) -> None:
    outside, run = here / "outside", here / "run"
    for folder in (outside / "eval", outside / "predict-1", run):
        folder.mkdir(parents=True)
    write_metrics(outside / "metrics.jsonl", num_steps=100)
    write_analysis(build_analysis(num_images=3), outside / "eval" / "analysis.json")
    Image.new("RGB", (8, 8)).save(outside / "predict-1" / "a.jpg")
    record = outside / "record.json"
    assert find_metrics(record)
    assert find_analysis(record)
    assert find_pictures(record)
    for name in ("metrics.jsonl", "eval", "predict-1"):
        (run / name).symlink_to(outside / name)
    record = run / "record.json"
    assert find_metrics(record) is None
    assert find_analysis(record) is None
    assert find_pictures(record) == []
    conditions = CPU | {"analysis": "../outside/eval/analysis.json"}
    claims = make_record("eval", 3, metrics={"ap": 0.2}, subject=SSD, conditions=conditions)
    write_record(claims, run / "record.json")
    assert "mistakes" not in headings(read_page(render("run")))


def test_no_record_shows_more_than_a_dozen_pictures(here: Path) -> None:
    write_eval(Path("runs/one/record.json"))
    folder = Path("runs/one/predict-1")
    folder.mkdir()
    for number in range(15):
        Image.new("RGB", (8, 8)).save(folder / f"{number:02d}.jpg")
    Path(folder, "00.jpg").write_bytes(b"no picture")
    reader = read_page(render("runs"))
    assert len(reader.all("img")) == 11
    assert "00.jpg" in reader.text
    assert "12.jpg" not in reader.text


def test_the_rows_of_one_record_share_its_pictures(here: Path) -> None:
    row = {"kind": "bench-infer", "subject": SSD, "conditions": CPU}
    rows = [row | {"metrics": {"images_per_second": speed}} for speed in (1.0, 2.0, 3.0)]
    record = make_record("bench-device", 1, metrics={}, subject={}, conditions=CPU, rows=rows)
    write_record(record, Path("record.json"))
    Path("predict-1").mkdir()
    Image.new("RGB", (8, 8)).save("predict-1/a.jpg")
    assert len(read_page(render("record.json")).all("img")) == 1


def test_latency_and_ap_meet_by_the_file_alone(here: Path) -> None:
    runs = write_rich_records(here)
    reader = read_page(render("runs"))
    assert "32.27[4]23.12 (21.92 to 24.42)[2]" in reader.text.replace("\n", "")
    changed = json.loads((runs / "bench-0" / "record.json").read_text())
    changed["subject"]["checkpoint_sha256"] = "c" * 64
    write_record(changed, runs / "bench-0" / "record.json")
    assert "32.27[4]23.12" not in read_page(render("runs")).text


def test_quantiles_are_those_of_numpy(here: Path) -> None:
    times = [float(value) for value in np.random.default_rng(2).lognormal(3, 0.5, 137)]
    record = make_record("bench-infer", 3, metrics={"latency_ms_p50": 1.0}, subject=SSD,
                         conditions=CPU, series={"latency_ms": times})  # fmt: skip
    write_record(record, Path("record.json"))
    text = read_page(render("record.json")).text
    for share in (50, 90, 99):
        assert f"p{share} {np.percentile(times, share):.4g} ms" in text


def test_many_classes_become_the_most_confused_and_the_others(here: Path) -> None:
    write_eval(Path("record.json"))
    names = tuple(f"kind {place:02d}" for place in range(40))
    write_analysis(build_analysis(num_images=60, names=names), Path("eval/analysis.json"))
    reader = read_page(render("record.json"))
    assert "others" in reader.text
    assert "The 5 commonest of 40 classes" in reader.text
