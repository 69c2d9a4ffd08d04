import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.synthetic import CLASSES, Scene, render_scene, scene_rng, write_synthetic
from suite.errors import SuiteError, UsageError

NUM_TRAIN, NUM_VAL, SEED = 8, 3, 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    write_synthetic(folder, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(scene_rng(0, "train", index)) for index in range(120)]


def read_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def load_split(folder: Path, split: str) -> dict[str, Any]:
    document = json.loads((folder / "annotations" / f"instances_{split}.json").read_bytes())
    assert isinstance(document, dict)
    return document


def test_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", num_train=NUM_TRAIN, num_val=NUM_VAL, seed=SEED)
    assert read_bytes(tmp_path / "again") == read_bytes(written)


def test_another_seed_writes_other_images(written: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "other", num_train=1, num_val=0, seed=SEED + 1)
    first = (written / "train" / "000001.jpg").read_bytes()
    assert (tmp_path / "other" / "train" / "000001.jpg").read_bytes() != first


def test_splits_do_not_share_images(written: Path) -> None:
    train = {path.read_bytes() for path in (written / "train").iterdir()}
    assert train.isdisjoint(path.read_bytes() for path in (written / "val").iterdir())


def test_longer_set_begins_with_the_shorter(written: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "short", num_train=3, num_val=1, seed=SEED)
    short, long = read_bytes(tmp_path / "short"), read_bytes(written)
    images = [name for name in short if name.endswith(".jpg")]
    assert len(images) == 4
    assert all(short[name] == long[name] for name in images)


@pytest.mark.parametrize(("split", "num_images"), [("train", NUM_TRAIN), ("val", NUM_VAL)])
def test_annotations_are_valid_coco(written: Path, split: str, num_images: int) -> None:
    document = load_split(written, split)
    assert [category["id"] for category in document["categories"]] == [1, 2, 3, 5, 7, 11]
    assert [image["id"] for image in document["images"]] == list(range(1, num_images + 1))
    assert document["info"]["seed"] == SEED
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    for image in document["images"]:
        with Image.open(written / split / image["file_name"]) as picture:
            assert (picture.size, picture.format) == (sizes[image["id"]], "JPEG")
    annotations = document["annotations"]
    assert [row["id"] for row in annotations] == list(range(1, len(annotations) + 1))
    for row in annotations:
        x, y, width, height = row["bbox"]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= sizes[row["image_id"]][0] and y + height <= sizes[row["image_id"]][1]
        assert 0 < row["area"] <= width * height
        assert row["category_id"] in {1, 2, 3, 5, 7, 11} and row["iscrowd"] == 0


def test_annotations_are_those_of_the_scene(written: Path) -> None:
    annotations = load_split(written, "val")["annotations"]
    for index in range(NUM_VAL):
        scene = render_scene(scene_rng(SEED, "val", index))
        rows = [row for row in annotations if row["image_id"] == index + 1]
        areas = [np.count_nonzero(scene.owner == k) for k in range(len(scene.labels))]
        assert [row["area"] for row in rows] == areas
        assert [row["category_id"] for row in rows] == [CLASSES[k][2] for k in scene.labels]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**63), index=st.integers(0, 10**6))
def test_boxes_are_tight_around_what_is_visible(seed: int, index: int) -> None:
    scene = render_scene(scene_rng(seed, "train", index))
    assert scene.image.shape == (*scene.owner.shape, 3)
    assert set(np.unique(scene.owner)) - {-1} == set(range(len(scene.labels)))
    for k, box_xyxy in enumerate(scene.boxes_xyxy):
        y, x = np.nonzero(scene.owner == k)
        assert box_xyxy.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_every_class_appears_about_equally(scenes: list[Scene]) -> None:
    counts = np.bincount(np.concatenate([scene.labels for scene in scenes]))
    assert len(counts) == len(CLASSES)
    assert counts.min() > 0.6 * counts.mean()


def test_scenes_are_varied(scenes: list[Scene]) -> None:
    num_objects = np.array([len(scene.labels) for scene in scenes])
    assert num_objects.min() == 0 and 12 <= num_objects.max() <= 20
    assert 4 < num_objects.mean() < 6.5
    boxes_xyxy = np.concatenate([scene.boxes_xyxy for scene in scenes])
    longest = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(1)
    assert longest.min() < 32 and longest.max() > 130
    assert np.mean((longest >= 30) & (longest <= 130)) > 0.75
    assert any(height > width for height, width in (scene.owner.shape for scene in scenes))
    assert np.any(boxes_xyxy[:, :2] == 0)  # cut by the border


def test_ground_is_textured(scenes: list[Scene]) -> None:
    assert min(scene.image[scene.owner == -1].std() for scene in scenes) > 4


def test_progress_counts_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def count(done: int, total: int) -> None:
        calls.append((done, total))

    write_synthetic(tmp_path / "set", num_train=2, num_val=1, seed=0, progress=count)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    write_synthetic(tmp_path, num_train=1, num_val=1, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "train", "val"]


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_synthetic(tmp_path, num_train=1, num_val=1, seed=0)
    assert read_bytes(tmp_path) == {"mine.txt": b"keep"}


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("keep")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_synthetic(tmp_path / "set", num_train=1, num_val=1, seed=0)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "set", num_train=2, num_val=1, seed=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for below in ("set", "deeper/set"):
        folder = tmp_path / "file" / below
        with pytest.raises(SuiteError) as caught:
            write_synthetic(folder, num_train=1, num_val=0, seed=0)
        assert str(caught.value).startswith(f"{folder}: cannot be written: ")
        assert str(caught.value).endswith("; name another folder")
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
