"""The published rows hold what their sources say, and mistakes in them are found and named."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from suite.errors import InputError
from suite.report.reference import COLUMNS, ReferenceRow, load_reference

FOLDER = Path(__file__).resolve().parents[3] / "reports" / "reference"
GOOD = {
    "row_id": "mine-001",
    "model": "SSD300",
    "dataset": "COCO2017",
    "source": "owner/repository@abc123:README.md",
    "trust": "verbatim",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, ReferenceRow]:
    return {row.row_id: row for row in load_reference(FOLDER)}


def test_every_row_is_there_and_the_seeds_come_first(rows: dict[str, ReferenceRow]) -> None:
    assert len(rows) == 253
    assert list(rows)[:3] == ["seed-001", "seed-002", "seed-003"]


def test_the_seeds_hold_their_published_figures(rows: dict[str, ReferenceRow]) -> None:
    one, eight, ssd = rows["seed-001"], rows["seed-002"], rows["seed-003"]
    assert (one.train_images_per_second, one.ap, one.device_count) == (17, 0.366, 1)
    assert (eight.train_images_per_second, eight.ap, eight.device_count) == (112, 0.360, 8)
    assert (ssd.train_images_per_second, ssd.ap, ssd.device_count) == (4474.27, 0.25425, 8)
    assert {row.train_scope for row in (one, eight, ssd)} == {"global"}


def test_doubtful_figures_of_the_seeds_are_flagged_and_the_others_are_not(
    rows: dict[str, ReferenceRow],
) -> None:
    assert rows["seed-001"].trust == rows["seed-003"].trust == "flagged"
    assert "one epoch" in rows["seed-001"].ap_flag
    assert rows["seed-003"].ap_flag == "device count not stated"
    assert rows["seed-002"].ap_flag == ""
    assert all(rows[f"seed-00{number}"].throughput_flag == "" for number in (1, 2, 3))


def test_rows_that_are_another_network_are_not_taken_for_ours(
    rows: dict[str, ReferenceRow],
) -> None:
    for row in rows.values():
        if row.detector == "ssd_r34":
            assert (row.backbone, row.input) == ("ResNet-34", "300x300")
        depth = re.fullmatch(r"retinanet_r(\d+)_fpn", row.detector)
        if depth:
            assert re.search(rf"(^R|Net)-?{depth[1]}(\D|$)", row.backbone), row.row_id
            assert "RetinaNet" in row.model
    assert not any(row.detector for row in rows.values() if row.group == "nvidia_dle")
    depths = {row.detector for row in rows.values()} - {"", "ssd_r34"}
    assert depths == {f"retinanet_r{depth}_fpn" for depth in (18, 34, 50, 101)}


def test_every_figure_agrees_with_the_collected_facts(
    rows: dict[str, ReferenceRow], shared: Path
) -> None:
    names = {
        "map": "ap",
        "map_target": "ap_target",
        "train_images_per_s": "train_images_per_second",
        "time_to_train_min": "time_to_train_min",
        "infer_images_per_s": "infer_images_per_second",
        "infer_latency_ms": "infer_latency_ms",
        "train_mem_gb": "train_memory_gb",
        "device_count": "device_count",
        "epochs": "epochs",
    }
    with (shared / "spec" / "reference_rows.csv").open(encoding="utf-8", newline="") as file:
        facts = list(csv.DictReader(file))
    assert {fact["row_id"] for fact in facts} == set(rows)
    for fact in facts:
        row = rows[fact["row_id"]]
        for theirs, ours in names.items():
            figure = getattr(row, ours)
            # Four facts carry a rounding error in the 17th digit (0.39899999999999997 for 39.9).
            same = f"{float(fact[theirs]):.12g}" == f"{figure:.12g}" if fact[theirs] else not figure
            assert same, (row.row_id, ours, figure, fact[theirs])


def write_rows(folder: Path, name: str, *changes: dict[str, str]) -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(GOOD | change for change in changes)
    return path


def test_a_row_of_ones_own_can_be_added(tmp_path: Path) -> None:
    write_rows(tmp_path, "mine.csv", {"ap": "0.25", "train_images_per_second": "812.5"} | GLOBAL)
    (row,) = load_reference(tmp_path)
    assert (row.group, row.row_id, row.ap, row.note) == ("mine", "mine-001", 0.25, "")
    assert row.train_images_per_second == 812.5


GLOBAL = {"train_scope": "global"}
MISTAKES = {
    "percent": ({"ap": "25.4"}, "ap: expected a fraction"),
    "text": ({"ap": "n/a"}, "ap: expected a number above 0, got 'n/a'"),
    "nan": ({"ap": "nan"}, "ap: expected a number above 0"),
    "exponent": ({"ap": "1e-1"}, "ap: expected a number above 0"),
    "negative": ({"epochs": "-1"}, "epochs: expected a number above 0"),
    "half a device": ({"device_count": "1.5"}, "device_count: expected a whole number"),
    "spaces": ({"device": " NVIDIA"}, "device: expected one line without spaces around it"),
    "escape": ({"note": "\x1b[31mred"}, "note: expected one line"),
    "scope": ({"train_scope": "all"}, "train_scope: expected one of global, per_device, unknown"),
    "no scope": ({"train_images_per_second": "5"}, "train_scope: to be given exactly where"),
    "trust": ({"trust": "maybe"}, "trust: expected one of verbatim"),
    "no source": ({"source": ""}, "source: must not be empty"),
    "no commit": (
        {"source": "owner/repository:README"},
        "source: expected owner/repository@commit",
    ),
    "row id": ({"row_id": "mine"}, "row_id: expected a group, a dash and three digits"),
    "silent flag": ({"ap": "0.2", "ap_flag": "odd"}, "trust: 'flagged' exactly where"),
    "flag without figure": ({"ap_flag": "odd", "trust": "flagged"}, "no ap to flag"),
    "flag without speed": ({"throughput_flag": "odd", "trust": "flagged"}, "no throughput to flag"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_file_and_line(name: str, tmp_path: Path) -> None:
    change, message = MISTAKES[name]
    path = write_rows(tmp_path, "mine.csv", {"row_id": "mine-009"}, change)
    with pytest.raises(InputError) as caught:
        load_reference(tmp_path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert message in str(caught.value)


def test_an_id_given_twice_is_found_across_files(tmp_path: Path) -> None:
    write_rows(tmp_path, "a.csv", {})
    write_rows(tmp_path, "b.csv", {})
    with pytest.raises(InputError, match=r"b\.csv:2: row_id: 'mine-001' is also in a\.csv:2"):
        load_reference(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("row_id,colour\n", "unknown \\['colour'\\]"),
        (",".join(reversed(COLUMNS)) + "\n", "columns out of order"),
        (",".join(COLUMNS) + "\nmine-001,too few\n", ":2: 2 cells, expected"),
        (",".join(COLUMNS) + '\n"open', ":2: not a CSV line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * (4 * 1024 * 1024 + 1), "more than the"),
    ],
)
def test_a_damaged_file_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "mine.csv").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_reference(tmp_path)


def test_a_folder_without_rows_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reference rows here"):
        load_reference(tmp_path / "absent")
