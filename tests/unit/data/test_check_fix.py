"""Corrected sets: checked again they hold nothing to mend, and the source stays as it was."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.assembly import load_dataset
from suite.data.checking.checks import Check, check_splits
from suite.data.checking.fixing import write_corrected
from suite.data.converting import ConversionOptions, convert
from suite.data.formats import Location, open_annotated
from suite.errors import InputError, UsageError

MENDED = {
    "clipped", "degenerate", "duplicate_box", "duplicate_id", "duplicate_image", "invalid_box",
    "invalid_image", "missing_image", "not_finite", "outside", "same_content", "size_mismatch",
    "truncated_image", "undecodable_image", "unknown_category", "unknown_image", "unsafe_name",
}  # fmt: skip
HW = (24, 32)


def rules(check: Check) -> set[str]:
    return {finding.rule for finding in check.findings.kept}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 0.png to 5.png: three sound ones, a copy, a damaged one, one of another size."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(5):
        noise = rng.integers(0, 256, (*HW, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:300])
    Image.new("RGB", (9, 9)).save(folder / "5.png")
    return folder


FOLDERS = count()
SIDES = st.floats(-40, 40) | st.integers(-40, 40) | st.sampled_from([float("nan"), float("inf"), 0])
PLACES = st.integers(0, 20)
BOXES = st.one_of(
    st.tuples(PLACES, PLACES, st.integers(1, 12), st.integers(1, 4)).map(list),
    st.lists(SIDES, min_size=4, max_size=4),
    st.just([1, 2, 3]),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """COCO documents on the images above, sound and unsound in every way that is mended."""
    names = st.sampled_from([f"{number}.png" for number in range(7)] + ["../0.png"])
    entries = draw(
        st.lists(st.tuples(st.integers(1, 8), names, st.sampled_from([32, 32, 31, 0])), max_size=8)
    )
    listed = [
        {"id": image_id, "file_name": name, "width": width, "height": 24}
        for image_id, name, width in [*entries, (9, "1.png", 32)]
    ]
    annotations = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.integers(1, 12),
                    "image_id": st.integers(1, 10),
                    "category_id": st.sampled_from([1, 1, 5, 6]),
                    "bbox": BOXES,
                },
                optional={"iscrowd": st.integers(0, 1), "area": st.sampled_from([1.5, 10])},
            ),
            max_size=25,
        )
    )
    categories = [{"id": 1, "name": "cell"}, {"id": 5, "name": "dust"}]
    return {"images": listed, "annotations": annotations, "categories": categories}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(documents())
def test_a_corrected_set_has_nothing_left_to_mend(
    images: Path, tmp_path: Path, document: dict[str, Any]
) -> None:
    folder = tmp_path / str(next(FOLDERS))
    folder.mkdir()
    source = Location(format="coco", annotations=folder / "a.json", images=images)
    source.annotations.write_text(json.dumps(document))
    before = source.annotations.read_bytes(), contents(images)

    check = check_splits({"train": source})
    output = folder / "fixed.json"
    changes = write_corrected(check, output)["train"]
    assert (source.annotations.read_bytes(), contents(images)) == before
    assert {path.name for path in folder.iterdir()} == {"a.json", "fixed.json"}

    fixed = Location(format="coco", annotations=output, images=images)
    again = check_splits({"train": fixed})
    assert rules(again) & MENDED == set()
    assert again.findings.num_errors == 0
    assert bool(changes) == bool(rules(check) & MENDED)
    assert load_dataset(fixed).repairs == {}
    assert sound_contents(fixed) == sound_contents(source)
    assert write_corrected(again, folder / "twice.json")["train"] == {}
    assert (folder / "twice.json").read_bytes() == output.read_bytes()


def sound_contents(location: Location) -> set[bytes]:
    """Return the bytes of all images that are sound and have an entry with the right size."""
    return {
        image.image.read()
        for image in open_annotated(location, report=lambda _: None).images()
        if image.image_hw == HW and image.file_name in ("0.png", "1.png", "2.png", "3.png")
    }


def put(folder: Path, document: dict[str, Any], images: Path, name: str = "a.json") -> Location:
    path = folder / name
    path.write_text(json.dumps(document))
    return Location(format="coco", annotations=path, images=images)


def one_image(*annotations: dict[str, Any], name: str = "0.png") -> dict[str, Any]:
    return {
        "images": [{"id": 4, "file_name": name, "width": 32, "height": 24, "licence": 3}],
        "annotations": [{"image_id": 4, "category_id": 5, **item} for item in annotations],
        "categories": [{"id": 5, "name": "cell"}],
    }


def test_what_is_changed_and_what_is_not(images: Path, tmp_path: Path) -> None:
    sound = {"id": 7, "bbox": [1.25, 2, 3, 4], "area": 9.5, "segmentation": [[1, 2, 3]]}
    document = one_image(
        sound,
        {"id": 7, "bbox": [5, 5, 6, 6]},
        {"id": 9, "bbox": [-2, 3, 10.5, 4], "area": 42.0},
        {"id": 10, "bbox": [-2, 3, 20.5, 4], "area": 13.5},
        {"id": 11, "bbox": [1.25, 2, 3, 4]},
        {"id": 12, "bbox": [40, 2, 3, 4]},
        {"id": 13, "bbox": [1, 2, 0, 4], "iscrowd": 1},
    )
    location = put(tmp_path, document, images)
    changes = write_corrected(check_splits({"train": location}), tmp_path / "b.json")
    assert changes == {
        "train": {
            "duplicate_id": 1,
            "new_box_id": 1,
            "clipped": 2,
            "duplicate_box": 1,
            "outside": 1,
            "degenerate": 1,
        }
    }
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["images"] == document["images"]
    assert written["categories"] == document["categories"]
    kept = {item["id"]: item for item in written["annotations"]}
    assert kept[7] == {**document["annotations"][0], "iscrowd": 0}
    assert kept[14]["bbox"] == [5, 5, 6, 6], "the second annotation 7"
    assert (kept[9]["bbox"], kept[9]["area"]) == ([0, 3, 8.5, 4], 34.0)
    assert (kept[10]["bbox"], kept[10]["area"]) == ([0, 3, 18.5, 4], 13.5), "the area of a mask"
    assert set(kept) == {7, 9, 10, 14}


def test_boxes_without_ids_get_some_and_it_is_said(images: Path, tmp_path: Path) -> None:
    for name, ids, expected in (
        ("some", ({"id": 8}, {}, {"id": 0}), [8, 9, 10]),
        ("none", ({}, {}, {}), [1, 2, 3]),
    ):
        boxes = [{**box, "bbox": [1, 1, 5, 5 + at]} for at, box in enumerate(ids)]
        location = put(tmp_path, one_image(*boxes), images, f"{name}.json")
        output = tmp_path / f"{name}_fixed.json"
        changes = write_corrected(check_splits({"train": location}), output)
        assert changes == {"train": {"new_box_id": sum(not box.get("id") for box in boxes)}}
        written = json.loads(output.read_text())
        assert [item["id"] for item in written["annotations"]] == expected


def test_what_the_reader_has_no_place_for_is_among_the_changes(
    images: Path, tmp_path: Path
) -> None:
    document = one_image({"id": 1, "bbox": [1, 1, 5, 5]})
    location = put(tmp_path, document | {"licenses": [{"id": 3}]}, images)
    (changes,) = write_corrected(check_splits({"t": location}), tmp_path / "b.json").values()
    assert changes == open_annotated(location).dropped
    assert changes.total() == 1


def test_train_gives_up_what_val_has_too(images: Path, tmp_path: Path) -> None:
    document = one_image({"id": 1, "bbox": [1, 1, 5, 5]})
    document["images"].append({"id": 5, "file_name": "1.png", "width": 32, "height": 24})
    train = put(tmp_path, document, images, "train.json")
    val = put(
        tmp_path, one_image({"id": 1, "bbox": [1, 1, 5, 5]}, name="3.png"), images, "val.json"
    )
    check = check_splits({"train": train, "val": val})
    assert "in_both_splits" in rules(check)
    changes = write_corrected(check, tmp_path / "fixed")
    assert changes == {"train": {"in_val": 1}, "val": {}}
    fixed = {
        name: Location(
            format="coco", annotations=tmp_path / "fixed" / f"{name}.json", images=images
        )
        for name in ("train", "val")
    }
    assert "in_both_splits" not in rules(check_splits(fixed))
    assert [image.image_id for image in open_annotated(fixed["train"]).images()] == [5]


@pytest.mark.parametrize("to", ["voc", "yolo", "tfrecord"])
def test_other_formats_become_a_new_folder(images: Path, tmp_path: Path, to: Any) -> None:
    document = one_image({"id": 1, "bbox": [1, 1, 5, 5]}, {"id": 2, "bbox": [20, 20, 12.15, 4]})
    document["images"].append({"id": 5, "file_name": "3.png", "width": 32, "height": 24})
    document["annotations"] += [
        {"id": 3, "image_id": 5, "category_id": 5, "bbox": [2, 2, 8, 8]},
        {"id": 4, "image_id": 5, "category_id": 5, "bbox": [2, 2, 8, 8]},
    ]
    source = {"train": put(tmp_path, document, images)}
    convert(source, to=to, output=tmp_path / "set", options=ConversionOptions())
    before = contents(tmp_path / "set")
    check = check_splits({"train": place(to, tmp_path / "set")})
    assert {"clipped", "same_content", "duplicate_box"} <= rules(check)

    changes = write_corrected(check, tmp_path / "fixed")["train"]
    assert (changes["clipped"], changes["duplicate_image"]) == (1, 1)
    assert contents(tmp_path / "set") == before
    again = check_splits({"train": place(to, tmp_path / "fixed")})
    assert rules(again) & MENDED == set()
    (image,) = open_annotated(place(to, tmp_path / "fixed")).images()
    assert image.image_id == 4
    assert len(image.boxes) == 2
    assert image.image.read() == (images / "0.png").read_bytes()


def place(to: Any, root: Path) -> Location:
    match to:
        case "voc":
            return Location(
                format=to,
                annotations=root / "ImageSets" / "Main" / "train.txt",
                label_map=root / "label_map.pbtxt",
            )
        case "yolo":
            return Location(
                format=to,
                annotations=root / "labels" / "train",
                images=root / "images" / "train",
                label_map=root / "data.yaml",
            )
    return Location(format=to, annotations=root / "train*", label_map=root / "label_map.pbtxt")


def test_what_is_there_is_never_written_over(images: Path, tmp_path: Path) -> None:
    location = put(tmp_path, one_image({"id": 1, "bbox": [1, 1, 5, 5]}), images)
    check = check_splits({"train": location})
    with pytest.raises(UsageError, match=r"a\.json: is there already"):
        write_corrected(check, location.annotations)
    with pytest.raises(InputError, match=r"b\.json: cannot be written"):
        write_corrected(check, location.annotations / "b.json")
    with pytest.raises(UsageError, match=r"is a \.json file"):
        write_corrected(check, tmp_path / "folder")
    both = check_splits({"train": location, "val": location})
    with pytest.raises(UsageError, match="a folder, for both splits"):
        write_corrected(both, tmp_path / "b.json")


def test_nothing_is_left_behind_where_no_image_is_left(images: Path, tmp_path: Path) -> None:
    location = put(tmp_path, one_image({"id": 1, "bbox": [1, 1, 5, 5]}, name="4.png"), images)
    check = check_splits({"train": location})
    with pytest.raises(InputError, match="no image is left"):
        write_corrected(check, tmp_path / "b.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_command_says_what_it_changed(images: Path, tmp_path: Path, run_suite: Any) -> None:
    document = one_image({"id": 1, "bbox": [1, 1, 5, 5]}, {"id": 1, "bbox": [2, 2, 5, 5]})
    location = put(tmp_path, document, images)
    flags = ["--format", "coco", "--annotations", location.annotations, "--images", images]
    finished = run_suite("data", "check", *flags, "--fix", tmp_path / "b.json")
    assert finished.code == 3
    assert "b.json: a: duplicate_id 1" in finished.stdout
    again = run_suite("data", "check", *flags[:3], tmp_path / "b.json", *flags[4:], "--json")
    assert again.code == 0
    assert json.loads(again.stdout)["fixed"] is None
    taken = run_suite("data", "check", *flags, "--fix", tmp_path / "b.json")
    assert taken.code == 2
    assert "is there already" in taken.stderr
