"""The verb predict: what it writes, and what it does with files that are no images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suite.data.images import read_image_hw
from suite.errors import InputError, SuiteError, UsageError
from suite.predict import find_images, predict


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, hw in (("a.jpg", (40, 90)), ("b.png", (70, 50))):
        noise = rng.integers(0, 255, (*hw, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((hw[1] * 4, hw[0] * 4)).save(folder / name)
    return folder


@pytest.mark.parametrize("model", ["small_checkpoint", "small_graph", "small_retinanet"])
def test_results_are_coco_results_in_pixels_of_each_image(
    model: str, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    done = predict(
        request.getfixturevalue(model), [str(photos)], output=tmp_path / "out", device="cpu"
    )
    results = json.loads((done.folder / "results.json").read_text())
    assert len(results) == done.num_detections > 0
    sizes = {(1, "a.jpg"): (360, 160), (2, "b.png"): (200, 280)}
    assert {(r["image_id"], r["file_name"]) for r in results} == set(sizes)
    for result in results:
        width, height = sizes[result["image_id"], result["file_name"]]
        x, y, w, h = result["bbox"]
        assert x >= 0 and y >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01


def test_every_image_is_drawn_at_its_size(
    small_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    done = predict(small_checkpoint, [str(photos)], output=tmp_path / "out", draw_threshold=0.1)
    sizes = [read_image_hw(path) for path in sorted(done.folder.glob("*.jpg"))]
    assert sizes == [(160, 360), (280, 200)]


def test_a_broken_image_is_skipped_and_named(
    small_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "c.jpg").write_bytes(b"\xff\xd8 not a photo")
    done = predict(small_checkpoint, [str(photos)], output=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [done.folder]
    assert done.folder.name == "predict-small-1"
    assert done.num_images == 2
    assert [("c.jpg" in message) for message in done.skipped] == [True]


def test_nothing_readable_is_an_error(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "only.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"only\.jpg"):
        predict(small_checkpoint, [str(tmp_path / "only.jpg")], output=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["only.jpg"]


def test_a_failure_midway_leaves_nothing(
    small_checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.predict.write_text", refuse)
    with pytest.raises(SuiteError, match=r"out: the predictions cannot be written \(full\)"):
        predict(small_checkpoint, [str(photos)], output=tmp_path / "out", device="cpu")
    assert list((tmp_path / "out").iterdir()) == []


def refuse(path: Path, text: str) -> None:
    """Stand for a disk that is full after the drawings."""
    assert len(list(path.parent.glob("*.jpg"))) == 2
    raise OSError(28, "full")


def test_sources_are_files_folders_and_patterns_without_repeats(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    expected = [Path("photos/a.jpg"), Path("photos/b.png")]
    assert find_images(["photos", "photos/*.jpg", "photos/b.png"]) == expected
    assert find_images([str(photos / "*.png")]) == [photos / "b.png"]


def test_a_source_without_images_is_a_mistake(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"\*\.gif"):
        find_images([str(photos / "*.gif")])


@pytest.mark.parametrize("source", ["a**b", "x" * 5000, "nul\0byte"])
def test_a_source_that_cannot_be_a_name_is_a_mistake(source: str) -> None:
    with pytest.raises(UsageError, match=r"^(a\*\*b|x+|nul.byte): no (such|image)") as caught:
        find_images([source])
    assert len(str(caught.value)) < 250
