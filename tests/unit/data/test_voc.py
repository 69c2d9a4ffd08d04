"""VOC folders to samples: pixel convention, classes, image lookup, and hostile XML."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from suite.data.assembly import build_dataset, load_dataset
from suite.data.formats import Location
from suite.data.formats.annotated import Problem
from suite.data.formats.voc import read_voc, require_plain_name
from suite.data.sample import Dataset
from suite.errors import InputError


def load_voc(root: Path, *, image_set: str) -> Dataset:
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    return load_dataset(Location(format="voc", annotations=path))


def load_voc_named(root: Path, *, image_set: str, names: dict[int, str]) -> Dataset:
    path = root / "ImageSets" / "Main" / f"{image_set}.txt"
    return build_dataset(read_voc(path, root / "JPEGImages", category_names=names))


def object_xml(name: str, box: str = "1 1 10 10", difficult: str = "0") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


def annotation_xml(*objects: str, size: str = "64 48", filename: str = "") -> str:
    width, height = size.split()
    return (
        f"<annotation><filename>{filename}</filename>"
        f"<size><width>{width}</width><height>{height}</height></size>"
        f"{''.join(objects)}</annotation>"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / name).mkdir(parents=True)
    put(tmp_path, "b", annotation_xml(object_xml("dog", "8 12 30 40"), object_xml("cat")))
    put(tmp_path, "a", annotation_xml())
    put(tmp_path, "c", annotation_xml(object_xml("ant")))
    put_list(tmp_path, "train", "b\na\n")
    put_list(tmp_path, "val", "c\n")
    return tmp_path


def put(root: Path, stem: str, xml: str | bytes, *, suffix: str = ".jpg") -> None:
    content = xml if isinstance(xml, bytes) else xml.encode()
    (root / "Annotations" / f"{stem}.xml").write_bytes(content)
    Image.new("RGB", (64, 48)).save(root / "JPEGImages" / f"{stem}{suffix}")


def put_list(root: Path, name: str, content: str) -> None:
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text(content)


def test_pixels_are_one_based_and_inclusive(root: Path) -> None:
    dataset = load_voc(root, image_set="train")
    empty, full = dataset.samples
    assert full.boxes_xyxy.tolist() == [[7, 11, 30, 40], [0, 0, 10, 10]]
    assert full.image_hw == (48, 64)
    assert full.image.path == root / "JPEGImages" / "b.jpg"
    assert empty.boxes_xyxy.shape == (0, 4)
    assert [sample.image_id for sample in dataset.samples] == [1, 2]


def test_classes_come_from_all_files_so_that_splits_agree(root: Path) -> None:
    train, val = load_voc(root, image_set="train"), load_voc(root, image_set="val")
    assert train.class_names == val.class_names == ("ant", "cat", "dog")
    assert train.category_ids == (1, 2, 3)
    assert train.samples[1].labels.tolist() == [2, 1]
    assert val.samples[0].labels.tolist() == [0]


def test_given_classes_fix_the_labels_and_refuse_others(root: Path) -> None:
    dataset = load_voc_named(root, image_set="train", names={3: "dog", 7: "cat"})
    assert dataset.samples[1].labels.tolist() == [0, 1]
    assert dataset.category_ids == (3, 7)
    with pytest.raises(InputError, match=r"c\.xml: class 'ant' is unknown; known are dog, cat"):
        load_voc_named(root, image_set="val", names={3: "dog", 7: "cat"})


def test_ground_truth_is_coco_with_difficult_as_crowd(root: Path) -> None:
    put(root, "c", annotation_xml(object_xml("ant", "1 1 20 10", difficult="1")))
    dataset = load_voc(root, image_set="val")
    assert dataset.samples[0].crowd.tolist() == [True]
    assert dataset.coco["images"] == [{"id": 1, "width": 64, "height": 48, "file_name": "c.jpg"}]
    assert dataset.coco["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [0, 0, 20, 10],
            "area": 200,
            "iscrowd": 1,
        }
    ]
    assert dataset.coco["categories"][0] == {"id": 1, "name": "ant"}


def test_boxes_of_parts_are_not_objects(root: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    whole = object_xml("ant").replace("</object>", f"{part}</object>")
    put(root, "c", annotation_xml(whole))
    assert load_voc(root, image_set="val").class_names == ("ant", "cat", "dog")


def test_repair_rules_apply(root: Path) -> None:
    boxes = ("0 1 10 10", "5 5 4 20", "70 5 80 9", "nan 1 2 3")
    put(root, "c", annotation_xml(*(object_xml("ant", box) for box in boxes)))
    dataset = load_voc(root, image_set="val")
    assert dataset.repairs == {"clipped": 1, "degenerate": 1, "outside": 1, "not_finite": 1}
    assert dataset.samples[0].boxes_xyxy.tolist() == [[0, 0, 10, 10]]
    assert len(dataset.coco["annotations"]) == 4


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".JPG"])
def test_extensions_of_the_images(root: Path, suffix: str) -> None:
    put(root, "d", annotation_xml(object_xml("ant")), suffix=suffix)
    put_list(root, "extra", "d")
    sample = load_voc(root, image_set="extra").samples[0]
    assert sample.image.path == root / "JPEGImages" / f"d{suffix}"


def test_filename_of_the_xml_is_the_last_resort_and_stays_inside(root: Path) -> None:
    put(root, "d", annotation_xml(filename="other.bmp"))
    (root / "JPEGImages" / "d.jpg").rename(root / "JPEGImages" / "other.bmp")
    put_list(root, "extra", "d")
    assert load_voc(root, image_set="extra").samples[0].image.path.name == "other.bmp"

    put(root, "d", annotation_xml(filename="../../secret.jpg"))
    (root / "JPEGImages" / "d.jpg").unlink()
    with pytest.raises(InputError, match=r"d\.xml: file name '\.\./\.\./secret\.jpg' climbs"):
        load_voc(root, image_set="extra")


def test_a_missing_image_is_left_to_the_reader(root: Path) -> None:
    (root / "JPEGImages" / "c.jpg").unlink()
    assert load_voc(root, image_set="val").samples[0].image.path == root / "JPEGImages" / "c.jpg"


@pytest.mark.parametrize(
    "xml",
    [
        annotation_xml(object_xml("ant"), size="0 0"),
        f"<annotation>{object_xml('ant')}</annotation>",
    ],
)
def test_absent_size_is_taken_from_the_image(root: Path, xml: str) -> None:
    put(root, "c", xml)
    assert load_voc(root, image_set="val").samples[0].image_hw == (48, 64)


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'
    "<annotation><object><name>&y;</name></object></annotation>"
)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BOMB, "document type 'a' is not allowed"),
        (BOMB.encode("utf-16"), "document type 'a' is not allowed"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        ("<annotation>&x;</annotation>", "not a VOC annotation"),
        ("<annotation>", "not a VOC annotation"),
        (b"\xff\x00", "not a VOC annotation"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not a VOC annotation"),
        (annotation_xml(object_xml(" ")), "object 1: has no name"),
        (annotation_xml(object_xml("ant", "1 1 ten 10")), r"object 1 \(ant\): bndbox/xmax: 'ten'"),
        (annotation_xml("<object><name>ant</name></object>"), "bndbox/xmin is missing"),
        (annotation_xml(size="-4 48"), "image side -4"),
        (annotation_xml(size="nan 48"), "image side nan"),
        (annotation_xml(size="wide 48"), "size/width: 'wide' is not a number"),
    ],
)
def test_damaged_and_hostile_xml_is_refused_with_its_file(
    root: Path, xml: str | bytes, message: str
) -> None:
    put(root, "c", xml)
    with pytest.raises(InputError, match=message) as caught:
        load_voc(root, image_set="val")
    assert str(root / "Annotations" / "c.xml") in str(caught.value)


def test_deep_nesting_does_not_exhaust_the_stack(root: Path) -> None:
    put(root, "c", "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    assert len(load_voc(root, image_set="val").samples) == 1


def test_size_limit_of_xml(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "c", annotation_xml(object_xml("ant")) + " " * 2000)
    monkeypatch.setattr("suite.data.formats.voc.MAX_XML_BYTES", 2000)
    with pytest.raises(InputError, match=r"c\.xml: larger than 2000 bytes"):
        load_voc(root, image_set="val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no image"),
        ("a\nb\na\n", "'a' is listed 2 times; list every image once"),
        ("../a\n", "must be a plain name"),
        ("zebra\n", r"zebra\.xml: no such file; add it"),
    ],
)
def test_wrong_image_sets(root: Path, content: str, message: str) -> None:
    put_list(root, "train", content)
    with pytest.raises(InputError, match=message):
        load_voc(root, image_set="train")


def test_what_has_no_place_is_counted(root: Path) -> None:
    source = (
        "<source><database>x</database></source><segmented>0</segmented><owner/><folder>y</folder>"
    )
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    twice = "<pose>Left</pose><actions><run>1</run><run>0</run></actions><pose>Right</pose>"
    box = object_xml("ant").replace("</object>", f"{part * 3}{twice}</object>")
    put(root, "c", annotation_xml(box).replace("<size>", f"{source}<size>"))
    path = root / "ImageSets" / "Main" / "val.txt"
    annotated = read_voc(path, root / "JPEGImages")
    for _ in range(2):  # a second pass counts anew
        (image,) = annotated.images()
        assert image.boxes[0].extra["pose"] == "Right"
        assert annotated.dropped == {
            "source of an image": 1,
            "segmented of an image": 1,
            "part of a box, all but the last": 2,
            "bndbox in part of a box": 1,
            "pose of a box, all but the last": 1,
            "run in actions of a box": 1,
        }


def test_annotations_that_are_links_out_of_their_folder_are_refused(root: Path) -> None:
    path = root / "Annotations" / "c.xml"
    (root / "inside.xml").write_text(annotation_xml(object_xml("secret")))
    path.unlink()
    path.symlink_to(root / "inside.xml")
    with pytest.raises(InputError, match=r"Annotations: file name 'c\.xml' is a link that leads"):
        load_voc(root, image_set="val")
    assert load_voc(root, image_set="train").class_names == ("cat", "dog")
    path.unlink()
    path.symlink_to(root / "Annotations" / "b.xml")
    assert len(load_voc(root, image_set="val").samples[0].labels) == 2


def test_a_root_without_annotations(root: Path) -> None:
    (root / "Annotations").rename(root / "Elsewhere")
    with pytest.raises(InputError, match="Annotations: no such folder of annotations; check"):
        load_voc(root, image_set="val")


def test_a_missing_image_whose_size_is_not_stated(root: Path) -> None:
    put(root, "c", annotation_xml(object_xml("ant"), size="0 0"))
    (root / "JPEGImages" / "c.jpg").unlink()
    problems: list[Problem] = []
    path = root / "ImageSets" / "Main" / "val.txt"
    assert not list(read_voc(path, root / "JPEGImages", report=problems.append).images())
    (problem,) = problems
    assert (problem.rule, problem.value) == ("missing_image", "no such image file")
    assert problem.remedy == "add the image or remove its annotation"


@pytest.mark.parametrize("image_id", [-5, 10**18, 2**63 - 1])
def test_every_id_that_coco_may_have(root: Path, image_id: int) -> None:
    xml = annotation_xml().replace("<size>", f"<image_id>{image_id}</image_id><size>")
    put(root, "a", xml)
    put_list(root, "train", "a\n")
    assert load_voc(root, image_set="train").samples[0].image_id == image_id


def test_a_collecting_report_hears_of_everything_and_the_rest_is_read(root: Path) -> None:
    put(root, "a", "<annotation>")
    put(root, "c", annotation_xml(object_xml("ant"), object_xml("ant", "1 1 ten 10")))
    put(root, "d", annotation_xml(object_xml("yak")))
    put_list(root, "train", "b\na\nb\nc\nzebra\nd\n")
    problems: list[Problem] = []
    annotated = read_voc(
        root / "ImageSets" / "Main" / "train.txt",
        root / "JPEGImages",
        category_names={1: "ant", 2: "cat", 3: "dog"},
        report=problems.append,
    )
    images = list(annotated.images())
    assert [(image.file_name, len(image.boxes)) for image in images] == [
        ("b.jpg", 2),
        ("c.jpg", 1),
        ("d.jpg", 0),
    ]
    assert [(problem.rule, Path(problem.file).name) for problem in problems] == [
        ("duplicate_image", "train.txt"),
        ("invalid_annotation", "a.xml"),
        ("invalid_box", "c.xml"),
        ("unknown_category", "d.xml"),
        ("missing_annotation", "zebra.xml"),
    ]


@pytest.mark.parametrize("name", ["../train", "/train", "", "..", "sub/train", "a\\b", "a\0"])
def test_image_set_must_be_a_plain_name(name: str) -> None:
    require_plain_name("train", "image set")
    with pytest.raises(InputError, match="image set must be a plain name"):
        require_plain_name(name, "image set")


def test_missing_image_set(root: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt: no such file"):
        load_voc(root, image_set="test")


def test_digest_follows_boxes_list_and_classes(root: Path) -> None:
    before = load_voc(root, image_set="val")
    assert load_voc(root, image_set="val").digest == before.digest
    other_classes = load_voc_named(root, image_set="val", names={1: "ant"})
    put(root, "c", annotation_xml(object_xml("ant", "1 1 10 11")))
    after = load_voc(root, image_set="val")
    assert len({before.digest, other_classes.digest, after.digest}) == 3


def test_real_blood_cells(shared: Path) -> None:
    root = shared / "data" / "bccd"
    train, val = (load_voc(root, image_set=name) for name in ("train", "val"))
    assert (len(train.samples), len(val.samples)) == (205, 87)
    assert train.class_names == ("Platelets", "RBC", "WBC")
    assert len(train.coco["annotations"]) + len(val.coco["annotations"]) == 3943
    first = val.samples[0]
    assert first.image.path.name == "BloodImage_00000.jpg"
    assert first.boxes_xyxy[0].tolist() == [259, 176, 491, 376]
    assert all(sample.image.path.is_file() for sample in train.samples + val.samples)
