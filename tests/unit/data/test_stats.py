"""`suite data stats`: exact numbers, tables, and a page that is safe and complete in itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet
from suite.data.sample import ImageFile
from suite.data.stats import ClassCount, Histogram, Statistics, count_split
from suite.data_stats.page import CountedSplit, render_page
from suite.data_stats.tables import build_charts, build_summary, format_statistics
from tests.pages import read_page

Run = Callable[..., Any]
NAMES = {1: "cat", 7: "dog", 90: "cow"}


def build_box(
    category_id: int, width: float, height: float, *, crowd: bool = False, area: float | None = None
) -> AnnotatedBox:
    return AnnotatedBox(0, category_id, (2.0, 3.0, width, height), crowd=crowd, area=area)


def build_image(number: int, boxes: Sequence[AnnotatedBox], *, hw: tuple[int, int] = (48, 64),
                path: Path = Path("none.jpg"), name: str = "") -> AnnotatedImage:  # fmt: skip
    return AnnotatedImage(number, name or f"{number}.jpg", ImageFile(path), hw, tuple(boxes))


def build_set(images: Sequence[AnnotatedImage]) -> AnnotatedSet:
    return AnnotatedSet(NAMES, len(images), lambda: iter(images), "")


@pytest.fixture
def counted() -> Statistics:
    boxes = [
        build_box(1, 10, 10),  # side 10, small
        build_box(1, 64, 16),  # side 32, aspect 4, medium by width x height
        build_box(1, 96, 96, area=1023.0),  # the stated area makes it small
        build_box(7, 200, 100, crowd=True),
        build_box(7, 0, 5),
        build_box(7, float("nan"), 5),
    ]
    images = [build_image(1, boxes), build_image(2, []), build_image(3, boxes[:1], hw=(300, 800))]
    return count_split(build_set(images), problems={"unknown_category": 2})[0]


def pick(histogram: Histogram) -> dict[float, int]:
    """Return the bins that hold something, by their lower edge."""
    bins = zip(histogram.edges, histogram.counts, strict=True)
    return {edge: count for edge, count in bins if count}


def test_every_number_is_exact(counted: Statistics) -> None:
    assert (counted.num_images, counted.num_images_without_boxes) == (3, 1)
    assert (counted.num_boxes, counted.num_crowd, counted.num_sizeless) == (7, 1, 2)
    assert (counted.smallest_hw, counted.largest_hw) == ((48, 64), (300, 800))
    assert counted.classes == (
        ClassCount(1, "cat", 4, 2), ClassCount(7, "dog", 3, 1), ClassCount(90, "cow", 0, 0)
    )  # fmt: skip
    assert pick(counted.box_side) == {8: 2, 32: 1, 96: 1}
    assert pick(counted.box_area) == {0: 3, 1024: 1}
    assert pick(counted.box_aspect) == {0.75: 3, 4: 1}
    assert pick(counted.objects_per_image) == {0: 1, 1: 1, 5: 1}
    assert pick(counted.long_side) == {0: 2, 800: 1}
    assert counted.effective_classes == pytest.approx((7 / 4) ** (4 / 7) * (7 / 3) ** (3 / 7))
    assert counted.problems == {"unknown_category": 2}


def test_an_even_split_is_as_even_as_its_classes() -> None:
    image = build_image(1, [build_box(key, 5, 5) for key in NAMES])
    assert count_split(build_set([image]), problems={})[0].effective_classes == pytest.approx(3)


def test_a_split_without_anything_is_counted_too() -> None:
    found, examples = count_split(build_set([]), num_examples=3, problems={})
    assert (found.num_images, found.effective_classes, examples) == (0, 0.0, [])
    assert "no boxes" in format_statistics("empty", found)


def test_examples_are_drawn_by_lot_and_the_same_each_time() -> None:
    images = build_set([build_image(number, []) for number in range(200)])
    first = count_split(images, num_examples=12, problems={})[1]
    assert first == count_split(images, num_examples=12, problems={})[1]
    chosen = [image.image_id for image in first]
    assert len(set(chosen)) == 12
    assert max(chosen) > 100  # not the first ones
    assert len(count_split(images, num_examples=300, problems={})[1]) == 200


def test_tables_say_what_was_counted(counted: Statistics) -> None:
    summary = dict(build_summary(counted))
    assert summary["boxes"] == "7"
    assert summary["crowd boxes"] == "1 (14.3 %)"
    assert summary["most to least frequent class"] == "1.3 : 1"
    assert summary["unusable: unknown_category"] == "2"
    charts = {chart.title: [(bar.label, bar.count) for bar in chart.bars]
              for chart in build_charts(counted)}  # fmt: skip
    assert charts["Boxes by class"] == [("cat (1)", 4), ("dog (7)", 3), ("cow (90)", 0)]
    assert charts["Objects per image"][0] == ("0", 1)
    assert charts["Objects per image"][-1] == ("5", 1)
    assert charts["Box size"][0] == ("8 to 16", 2)
    assert charts["Box shape"][-1] == ("4:1 to 8:1", 1)
    lines = format_statistics("train", counted).splitlines()
    assert lines[0] == "train"
    (line,) = (line for line in lines if line.startswith("dog (7)"))
    assert line.split() == ["dog", "(7)", "3", "42.9", "%", "##################", "1"]


def test_the_page_holds_its_pictures_and_escapes_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 48), (9, 9, 9)).save(path)
    hostile = "<script>alert(1)</script>\x1b[31m\"'&"
    names = {1: hostile}
    image = build_image(1, [build_box(1, 20, 20)], path=path, name=f"{hostile}.jpg")
    missing = build_image(2, [], path=tmp_path / "<b>.jpg")
    annotated = AnnotatedSet(names, 2, lambda: iter([image, missing]), "")
    found, examples = count_split(annotated, num_examples=2, problems={hostile: 1})
    split = CountedSplit(found, examples, names)
    page = render_page(hostile, {hostile: split})
    reader = read_page(page)
    assert not reader.all("b")
    assert "\x1b" not in page
    assert len(reader.values("src")) == 1
    assert not re.search("https?:", page)
    assert reader.text.count("<script>alert(1)</script>") >= 5
    assert "no such image file" in reader.text


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    import base64
    import io

    path = tmp_path / "a.png"
    Image.new("RGB", (1280, 960)).save(path)
    box = AnnotatedBox(0, 1, (320.0, 240.0, 640.0, 480.0))
    image = build_image(1, [box], hw=(960, 1280), path=path)
    annotated = AnnotatedSet({1: "x"}, 1, lambda: iter([image]), "")
    found, examples = count_split(annotated, num_examples=1, problems={})
    page = render_page("t", {"train": CountedSplit(found, examples, {1: "x"})})
    encoded = re.search(r"base64,([^\"]+)", page)
    assert encoded
    picture = Image.open(io.BytesIO(base64.b64decode(encoded[1])))
    assert picture.size == (640, 480)
    columns = [x for x in range(640) if max(picture.getpixel((x, 240))) > 100]  # type: ignore[type-var, arg-type]
    assert columns[0] == pytest.approx(160, abs=2)
    assert columns[-1] == pytest.approx(479, abs=2)


def test_the_command_counts_and_draws(tmp_path: Path, run_suite: Run) -> None:
    run_suite("data", "synth", tmp_path / "set", "--train", "4", "--val", "2")
    page = tmp_path / "page.html"
    where = ["demo", "--data", tmp_path / "set"]
    finished = run_suite("data", "stats", *where, "--html", page, "--examples", "2", "--json")
    assert finished.code == 0, finished.stderr
    document = json.loads(finished.stdout, parse_constant=pytest.fail)
    assert document["schema"] == "suite.data-stats/1"
    assert {name: split["num_images"] for name, split in document["splits"].items()} == {
        "train": 4,
        "val": 2,
    }
    assert len(read_page(page.read_text()).all("img")) == 4
    text = run_suite("data", "stats", *where)
    assert text.code == 0
    assert "Boxes by class" in text.stdout


def test_problems_are_counted_not_fatal(tmp_path: Path, run_suite: Run) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 1, 2, 2]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document))
    finished = run_suite("data", "stats", "--format", "coco", "--annotations", path,
                         "--images", tmp_path)  # fmt: skip
    assert finished.code == 0, finished.stderr
    assert re.search(r"unusable: unknown_category +1\n", finished.stdout)
    assert re.search(r"boxes +1\n", finished.stdout)


def test_a_page_is_never_written_over_a_file(tmp_path: Path, run_suite: Run) -> None:
    run_suite("data", "synth", tmp_path / "set", "--train", "2", "--val", "1")
    own = tmp_path / "set" / "annotations" / "instances_train.json"
    before = own.read_bytes()
    for page in (own, tmp_path / "set"):
        refused = run_suite("data", "stats", "demo", "--data", tmp_path / "set", "--html", page)
        assert (refused.code, refused.stdout) == (2, "")
        assert f"{page.name}: is there already; name a new file" in refused.stderr
    assert own.read_bytes() == before


def test_a_page_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, run_suite: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_suite("data", "synth", tmp_path / "set", "--train", "2", "--val", "1")
    where = ["demo", "--data", tmp_path / "set"]
    (tmp_path / "file").touch()
    early = run_suite("data", "stats", *where, "--html", tmp_path / "file" / "page.html")
    assert (early.code, early.stdout) == (1, "")
    assert "page.html: cannot be written (Not a directory)" in early.stderr

    def fill_disk(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("suite.files.write_text", fill_disk)
    late = run_suite("data", "stats", *where, "--html", tmp_path / "page.html")
    assert late.code == 1
    assert "page.html: cannot be written (No space left on device)" in late.stderr
