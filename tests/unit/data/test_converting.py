"""Conversions: round trips, maps of ids, what is counted as lost, and all or nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from suite.data.converting import Conversion, ConversionOptions, convert
from suite.data.formats import Format, Location, open_annotated
from suite.data.formats.annotated import AnnotatedImage
from suite.data.formats.label_map import write_label_map
from suite.errors import InputError, UsageError

HEIGHT, WIDTH = 48, 64
DEFAULT = ConversionOptions(num_shards=2)


def build_jpeg(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (colour, 80, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = build_jpeg()


def put_coco(
    root: Path,
    images: Sequence[dict[str, Any]],
    boxes: Sequence[dict[str, Any]] = (),
    names: Mapping[int, str] = {1: "cat", 90: "dog"},
    split: str = "train",
) -> Location:
    """Write a COCO set; images are {id, file_name, ...}, boxes {image_id, bbox, ...}."""
    for item in images:
        path = root / split / item["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.pop("content", JPEG))
    document = {
        "images": [{"height": HEIGHT, "width": WIDTH, **item} for item in images],
        "annotations": [
            {"id": number, "category_id": 90, "iscrowd": 0, **item}
            for number, item in enumerate(boxes, start=1)
        ],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    path = root / f"instances_{split}.json"
    path.write_text(json.dumps(document))
    return Location(format="coco", annotations=path, images=root / split)


def locate(root: Path, written: Format, split: str = "train") -> Location:
    """Return where `convert` puts a split."""
    match written:
        case "coco":
            return Location(
                format=written,
                annotations=root / "annotations" / f"instances_{split}.json",
                images=root / split,
            )
        case "voc":
            annotations = root / "ImageSets" / "Main" / f"{split}.txt"
            label_map = root / "label_map.pbtxt"
            return Location(format=written, annotations=annotations, label_map=label_map)
        case "yolo":
            return Location(
                format=written,
                annotations=root / "labels" / split,
                images=root / "images" / split,
                label_map=root / "data.yaml",
            )
        case "tfrecord":
            label_map = root / "label_map.pbtxt"
            return Location(format=written, annotations=root / f"{split}*", label_map=label_map)


def read(location: Location) -> dict[int, AnnotatedImage]:
    annotated = open_annotated(location)
    images = list(annotated.images())
    by_id = {image.image_id: image for image in images}
    assert len(by_id) == len(images) == annotated.num_images
    return by_id


def there_and_back(source: Location, through: Format, folder: Path) -> Location:
    convert({"train": source}, to=through, output=folder / "there", options=DEFAULT)
    place = locate(folder / "there", through)
    convert({"train": place}, to=source.format, output=folder / "back", options=DEFAULT)
    return locate(folder / "back", source.format)


def assert_same(found: AnnotatedImage, expected: AnnotatedImage, *, within: float) -> None:
    assert (found.file_name, found.image_hw) == (expected.file_name, expected.image_hw)
    assert [(box.category_id, box.crowd) for box in found.boxes] == [
        (box.category_id, box.crowd) for box in expected.boxes
    ]
    for box, other in zip(found.boxes, expected.boxes, strict=True):
        assert box.box_xywh == pytest.approx(other.box_xywh, abs=within, rel=0)
    assert found.image.read() == expected.image.read()


@dataclass(frozen=True)
class Way:
    """A format on the way, and what it promises: pixels lost at most, crowd kept, areas kept."""

    through: Format
    within: float
    crowd: bool = True
    area: bool = False


WAYS = (
    Way("coco", 0, area=True),
    Way("voc", 1e-8),
    Way("yolo", 1e-6, crowd=False),
    Way("tfrecord", 2e-3, area=True),
)
by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.through)

side = st.one_of(st.integers(1, 20), st.floats(0.05, 20).map(lambda value: round(value, 2)),
                 st.floats(0.05, 20))  # fmt: skip
start = st.one_of(st.integers(0, 28), st.floats(0, 28))
boxes_xywh = st.tuples(start, start, side, side)
class_names = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("C", "Z")),
    min_size=1,
    max_size=6,
)
stems = st.text("abcXYZ019 _-.äé", min_size=1, max_size=6).map(lambda text: f"i{text}i")


@st.composite
def coco_sets(draw: st.DrawFn) -> tuple[list[Any], list[Any], dict[int, str]]:
    names = draw(st.dictionaries(st.integers(1, 90), class_names, min_size=1, max_size=4))
    names = {key: name for key, name in names.items() if list(names.values()).count(name) == 1}
    names[91] = "the last"
    files = draw(st.lists(stems, max_size=4, min_size=1, unique_by=str.lower))
    image_ids = draw(st.lists(st.integers(0, 10**9), min_size=4, max_size=4, unique=True))
    images = [
        {"id": image_id, "file_name": f"{stem}.jpg"}
        for image_id, stem in zip(image_ids, files, strict=False)
    ]
    boxes = draw(st.lists(boxes_xywh, max_size=6))
    return (
        images,
        [
            {
                "image_id": draw(st.sampled_from(images))["id"],
                "category_id": draw(st.sampled_from(sorted(names))),
                "bbox": box,
                "area": round(box[2] * box[3] * 0.7, 1),
                "iscrowd": draw(st.integers(0, 1)),
            }
            for box in boxes
        ],
        names,
    )


@by_way
@settings(max_examples=15, deadline=None)
@given(content=coco_sets())
def test_coco_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, way: Way, content: Any
) -> None:
    folder = tmp_path_factory.mktemp("round")
    images, boxes, names = content
    if not way.crowd:
        boxes = [{**box, "iscrowd": 0} for box in boxes]
    source = put_coco(folder / "set", images, boxes, names)
    back = there_and_back(source, way.through, folder)
    assert open_annotated(back).category_names == open_annotated(source).category_names
    expected, found = read(source), read(back)
    assert found.keys() == expected.keys()
    for image_id, image in expected.items():
        assert_same(found[image_id], image, within=way.within)
        if way.area:
            areas = [box.area for box in image.boxes]
            assert [box.area for box in found[image_id].boxes] == pytest.approx(areas, rel=1e-6)


@by_way
def test_real_photos_come_back_as_they_were(shared: Path, tmp_path: Path, way: Way) -> None:
    folder = shared / "data" / "coco_photos"
    annotations = folder / "annotations" / "instances_train2017.json"
    source = Location(format="coco", annotations=annotations, images=folder / "train2017")
    back = there_and_back(source, way.through, tmp_path)
    found = read(back)
    for image_id, image in read(source).items():
        if not way.crowd:
            kept = tuple(box for box in image.boxes if not box.crowd)
            image = AnnotatedImage(image_id, image.file_name, image.image, image.image_hw, kept)
        assert_same(found.pop(image_id), image, within=way.within)
    assert not found


def test_real_voc_through_coco_keeps_every_element(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "bccd" / "ImageSets" / "Main" / "train.txt"
    source = Location(format="voc", annotations=path)
    back = there_and_back(source, "coco", tmp_path)
    expected, found = read(source), read(back)
    assert len(expected) == 205
    for image_id, image in expected.items():
        assert_same(found[image_id], image, within=1e-8)
        assert [box.extra for box in found[image_id].boxes] == [box.extra for box in image.boxes]


def test_coco_to_coco_keeps_ids_areas_and_everything_else(tmp_path: Path) -> None:
    extra = {"segmentation": [[1, 2.5]], "note": {"by": "ä"}, "score": 1.0}
    source = put_coco(
        tmp_path / "set",
        [{"id": 7, "file_name": "b/x.jpg", "license": 3}, {"id": 2, "file_name": "x.jpg"}],
        [
            {"image_id": 2, "id": 50, "bbox": [1, 2, 3.25, 4], "area": 3.5, **extra},
            {"image_id": 7, "id": 9, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1},
        ],
    )
    convert({"val": source}, to="coco", output=tmp_path / "new", options=DEFAULT)
    place = locate(tmp_path / "new", "coco", "val")
    assert place.images is not None
    assert (place.images / "b" / "x.jpg").read_bytes() == JPEG
    before, after = (json.loads(item.annotations.read_text()) for item in (source, place))
    for document in (before, after):
        document["annotations"].sort(key=lambda item: item["id"])
    assert after == before


def test_missing_box_ids_are_numbered(tmp_path: Path) -> None:
    boxes = [{"image_id": 1, "bbox": [1, 1, 2, 2], "id": number} for number in (5, 0, 7)]
    source = put_coco(tmp_path / "set", [{"id": 1, "file_name": "x.jpg"}], boxes)
    done = convert({"train": source}, to="coco", output=tmp_path / "new", options=DEFAULT)
    (image,) = read(locate(tmp_path / "new", "coco")).values()
    assert [box.box_id for box in image.boxes] == [1, 2, 3]
    assert [box.area for box in image.boxes] == [4, 4, 4]
    assert done.splits["train"].not_carried == {"box id": 2}


def test_equal_names_in_different_folders_stay_apart(tmp_path: Path) -> None:
    names = ["a/x.jpg", "b/x.jpg", "x.jpeg", "x_2.jpg", "b/y.jpg"]
    images = [
        {"id": number, "file_name": name, "content": build_jpeg(number * 40)}
        for number, name in enumerate(names, start=1)
    ]
    boxes = [{"image_id": number, "bbox": [number, 0, 5, 5]} for number in range(1, 6)]
    source = put_coco(tmp_path / "set", images, boxes)
    done = convert({"train": source}, to="voc", output=tmp_path / "voc", options=DEFAULT)
    expected, found = read(source), read(locate(tmp_path / "voc", "voc"))
    assert {image_id: image.file_name for image_id, image in found.items()} == {
        1: "x.jpg", 2: "x_2.jpg", 3: "x_3.jpeg", 4: "x_2_4.jpg", 5: "y.jpg"
    }  # fmt: skip
    for image_id, image in expected.items():
        assert found[image_id].image.read() == image.image.read()
        assert found[image_id].boxes[0].box_xywh == image.boxes[0].box_xywh
    assert done.splits["train"].not_carried == {"box id": 5, "folder or letters of a file name": 5}


def test_ids_are_mapped_only_by_a_file(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [1, 1, 8, 8]}
    source = put_coco(tmp_path / "set", [{"id": 1, "file_name": "x.jpg"}], [box])
    to_yolo = convert({"train": source}, to="yolo", output=tmp_path / "yolo", options=DEFAULT)
    assert list_ids(to_yolo) == [(1, 0, "cat"), (90, 1, "dog")]
    place = locate(tmp_path / "yolo", "yolo")
    back = convert({"train": place}, to="coco", output=tmp_path / "back", options=DEFAULT)
    assert list_ids(back) == [(1, 1, "cat"), (90, 90, "dog")]

    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat, dog]\n")  # as others write it
    plain = convert({"train": place}, to="coco", output=tmp_path / "plain", options=DEFAULT)
    assert list_ids(plain) == [(0, 0, "cat"), (1, 1, "dog")]
    write_label_map(tmp_path / "ids.pbtxt", {90: "dog", 1: "cat", 5: "cow"})
    options = ConversionOptions(map_ids=tmp_path / "ids.pbtxt")
    mapped = convert({"train": place}, to="coco", output=tmp_path / "mapped", options=options)
    assert list_ids(mapped) == [(0, 1, "cat"), (1, 90, "dog")]
    (image,) = read(locate(tmp_path / "mapped", "coco")).values()
    assert image.boxes[0].category_id == 90


def list_ids(done: Conversion) -> list[tuple[int, int, str]]:
    return [(item.source_id, item.target_id, item.name) for item in done.categories]


def test_links_share_the_bytes_and_left_images_stay(tmp_path: Path) -> None:
    source = put_coco(tmp_path / "set", [{"id": 1, "file_name": "a/x.jpg"}])
    assert source.images is not None
    original = source.images / "a" / "x.jpg"
    link = ConversionOptions(images="link")
    convert({"train": source}, to="voc", output=tmp_path / "linked", options=link)
    assert (tmp_path / "linked" / "JPEGImages" / "x.jpg").samefile(original)
    leave = ConversionOptions(images="leave")
    done = convert({"train": source}, to="coco", output=tmp_path / "left", options=leave)
    assert sorted(path.name for path in (tmp_path / "left").iterdir()) == [
        "annotations",
        "conversion.json",
    ]
    assert Path(done.splits["train"].images_left_in) == source.images
    with pytest.raises(UsageError, match="voc has them in its own folders"):
        convert({"train": source}, to="voc", output=tmp_path / "no", options=leave)


def test_a_number_that_is_none_is_left_out_and_counted(tmp_path: Path) -> None:
    source = put_coco(tmp_path / "set", [{"id": 1, "file_name": "x.jpg"}],
                      [{"image_id": 1, "bbox": [1, 1, 2, 2]}] * 2)  # fmt: skip
    convert({"train": source}, to="voc", output=tmp_path / "voc", options=DEFAULT)
    path = tmp_path / "voc" / "Annotations" / "x.xml"
    path.write_text(path.read_text().replace("<xmax>3</xmax>", "<xmax>nan</xmax>", 1))
    place = locate(tmp_path / "voc", "voc")
    done = convert({"train": place}, to="coco", output=tmp_path / "new", options=DEFAULT)
    assert done.splits["train"].num_boxes == 2
    assert done.splits["train"].not_carried == {"box with a coordinate that is not finite": 1}
    (image,) = read(locate(tmp_path / "new", "coco")).values()
    assert len(image.boxes) == 1


@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "tfrecord"])
def test_an_interruption_leaves_nothing(tmp_path: Path, to: Format) -> None:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, 4)]
    source = put_coco(tmp_path / "set", images)

    def interrupt(_split: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    options = ConversionOptions(progress=interrupt, num_shards=1)
    with pytest.raises(KeyboardInterrupt):
        convert({"train": source}, to=to, output=tmp_path / "new", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_source_with_faults_is_refused_whole(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "x.jpg"}]
    source = put_coco(tmp_path / "set", images, [{"image_id": 4, "bbox": [1, 1, 2, 2]}])
    with pytest.raises(InputError, match=r"annotation 1: image_id 4 .* data check.* --fix"):
        convert({"train": source}, to="voc", output=tmp_path / "new", options=DEFAULT)
    source = put_coco(tmp_path / "set", images)
    (tmp_path / "set" / "train" / "x.jpg").unlink()
    with pytest.raises(InputError, match=r"x\.jpg: no such image file"):
        convert({"train": source}, to="voc", output=tmp_path / "new", options=DEFAULT)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_splits_share_their_categories_and_names(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "x.jpg"}]
    train = put_coco(tmp_path / "set", images)
    val = put_coco(tmp_path / "set", images, names={1: "cat", 18: "dog"}, split="val")
    with pytest.raises(InputError, match=r"train and val do not have the same .*: 18 'dog', 90"):
        convert({"train": train, "val": val}, to="voc", output=tmp_path / "new", options=DEFAULT)
    val = put_coco(tmp_path / "set", images, split="val")
    convert({"train": train, "val": val}, to="voc", output=tmp_path / "new", options=DEFAULT)
    assert [image.file_name for image in read(locate(tmp_path / "new", "voc", "val")).values()] == [
        "x_1.jpg"
    ]
    with pytest.raises(UsageError, match="new: is there already"):
        convert({"train": train}, to="voc", output=tmp_path / "new", options=DEFAULT)
    with pytest.raises(UsageError, match=r"split '\.\./up': names are"):
        convert({"../up": train}, to="voc", output=tmp_path / "other", options=DEFAULT)


def test_classes_without_an_id_are_named(tmp_path: Path) -> None:
    source = put_coco(tmp_path / "set", [{"id": 1, "file_name": "x.jpg"}])
    write_label_map(tmp_path / "ids.pbtxt", {1: "cat"})
    options = ConversionOptions(map_ids=tmp_path / "ids.pbtxt")
    with pytest.raises(UsageError, match=r"ids\.pbtxt: has no id for 'dog'; add all classes"):
        convert({"train": source}, to="coco", output=tmp_path / "new", options=options)
