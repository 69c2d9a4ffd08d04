"""What of a recipe goes together: each rule of detectors, sizes and schedules, and the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.errors import UsageError
from suite.recipe import list_shipped_recipes, load_recipe, recipe_from_dict, recipe_to_dict
from suite.recipe_sections import RetinaNetVariant
from suite.strict_yaml import encode_yaml

BASE = load_recipe("ssd_r34_bccd")
BATCH = BASE.global_batch
DECAY = f"{BASE.schedule.decay_epochs:g}"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("detector.variant.caffe_stride", "maybe"),
        ("detector.variant.p6_from", "c4"),
        ("detector.variant.relu_before_p7", "1"),
        ("detector.variant.anchors", "rounded"),
        ("detector.variant.normaliser", "rank"),
        ("detector.variant.low_quality", "none"),
    ],
)
def test_variants_that_are_none_are_refused(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^--set {key}: expected [^\n]*$"):
        load_recipe("retinanet_r50_fpn_1p", {key: text})


@pytest.mark.parametrize("key", ["milestones[0]", "milestones[1]"])
def test_milestones_are_lists_of_epochs(key: str) -> None:
    text = "[0, 3]" if key.endswith("[0]") else "[3, x]"
    with pytest.raises(UsageError, match=r"^--set schedule\.milestones") as caught:
        load_recipe("retinanet_r50_fpn_1p", {"schedule.milestones": text})
    assert str(caught.value).startswith(f"--set schedule.{key}: expected ")


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "devices",
            "3",
            f"{BATCH} images a step (global_batch) cannot be shared evenly by 3 devices",
        ),
        (
            "postprocess.pre_topk",
            "100",
            "100 candidates (pre_topk) are fewer than 200 detections (max_detections)",
        ),
        (
            "schedule.nominal_epoch_images",
            "1",
            "1 images an epoch (nominal_epoch_images) are fewer than "
            f"{BATCH} a step (global_batch)",
        ),
        (
            "schedule.warmup_epochs",
            "40",
            f"a decay of {DECAY} epochs has to be longer than a warm-up of 40",
        ),
        (
            "data.train.images",
            "photos",
            "format voc knows its images itself; leave data.train.images out",
        ),
    ],
)
def test_rules_between_fields_name_both_values(key: str, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("ssd_r34_bccd", {key: text})
    assert str(caught.value) == f"--set {key}: {message}"


def test_coco_needs_the_folder_of_the_images_and_voc_has_none(tmp_path: Path) -> None:
    assert BASE.data.train.images is None
    path = tmp_path / "mine.yaml"
    text = list_shipped_recipes()["demo"].read_text(encoding="utf-8")
    path.write_text(text.replace("    images: train\n", "").replace("    images: val\n", ""))
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert [line.partition(": ")[2] for line in str(caught.value).splitlines()] == [
        f"data.format: format coco needs data.{split}.images, the folder of the images"
        for split in ("train", "val")
    ]


@pytest.mark.parametrize(
    ("recipe", "changes", "expected"),
    [
        (
            "retinanet_r50_fpn_1p",
            {"schedule.warmup_epochs": "1"},
            ["schedule.warmup_epochs: give either warmup_epochs or warmup_steps"],
        ),
        (
            "ssd_r34_bccd",
            {"schedule.warmup_epochs": "null"},
            ["schedule.warmup_epochs: give either warmup_epochs or warmup_steps"],
        ),
        (
            "ssd_r34_bccd",
            {"schedule.milestones": "[8, 11]"},
            [
                "schedule.milestones: give either decay_epochs and final_lr_factor (cosine) "
                "or milestones (steps)"
            ],
        ),
        (
            "ssd_r34_bccd",
            {"schedule.decay_epochs": "null"},
            [
                "schedule.decay_epochs: give either decay_epochs and final_lr_factor (cosine) "
                "or milestones (steps)"
            ],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"schedule.milestones": "[]"},
            [
                "schedule.milestones: give either decay_epochs and final_lr_factor (cosine) "
                "or milestones (steps)"
            ],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"schedule.milestones": "[11, 8]"},
            ["schedule.milestones: milestones have to rise"],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"schedule.milestones": "[8, 8]"},
            ["schedule.milestones: milestones have to rise"],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"resize.long_side": "700"},
            ["resize.long_side: long_side 700 is less than short_side 800"],
        ),
        (
            "ssd_r34_bccd",
            {"resize.short_side": "200"},
            [
                "resize.short_side: mode stretch makes squares; long_side is 300, short_side 200",
                "resize.short_side: ssd_r34 takes images stretched to 300x300; "
                "leave the section resize out",
            ],
        ),
        (
            "ssd_r34_bccd",
            {"resize.mode": "pad"},
            [
                "resize.mode: ssd_r34 takes images stretched to 300x300; "
                "leave the section resize out"
            ],
        ),
        (
            "ssd_r34_bccd",
            {"resize.short_side": "512", "resize.long_side": "512"},
            [
                "resize.short_side: ssd_r34 takes images stretched to 300x300; "
                "leave the section resize out"
            ],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"resize.mode": "stretch", "resize.long_side": "800"},
            [
                "resize.mode: retinanet_r50_fpn keeps an image's shape; "
                "give resize.mode pad or fixed, with both sides"
            ],
        ),
        (
            "ssd_r34_bccd",
            {"detector.variant.caffe_stride": "true"},
            ["detector.variant is RetinaNet's; ssd_r34 has none"],
        ),
        (
            "retinanet_r50_fpn_1p",
            {"augment.crop": "all_boxes"},
            [
                "augment.crop: crop all_boxes is SSD's; "
                "retinanet_r50_fpn is trained on whole images, crop none"
            ],
        ),
    ],
)
def test_what_does_not_go_together_is_said(
    recipe: str, changes: dict[str, str], expected: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, changes)
    found = str(caught.value).splitlines()
    assert len(found) == len(expected), found
    for line, words in zip(found, expected, strict=True):
        assert line.endswith(words)
        assert line == f"--set {words}" or words.startswith("detector.variant is")


def test_a_mistake_elsewhere_does_not_make_a_section_wrong(tmp_path: Path) -> None:
    # The rule on detector.variant looks at a whole section, here of a file that has its keys.
    path = tmp_path / "mine.yaml"
    path.write_text(encode_yaml(BASE).replace("num_classes: 3", "num_classes: 0"))
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "detector.num_classes"
    ]


def test_sections_left_out_are_those_of_the_published_detectors() -> None:
    assert (BASE.resize.mode, BASE.resize.short_side, BASE.resize.long_side) == (
        "stretch",
        300,
        300,
    )
    plain = recipe_to_dict(BASE)
    del plain["resize"], plain["detector"]["variant"], plain["detector"]["frozen_stages"]
    del plain["schedule"]["milestones"], plain["schedule"]["warmup_start"]
    assert recipe_from_dict(plain, source="an older checkpoint") == BASE
    assert BASE.detector.frozen_stages is None
    variant = load_recipe("retinanet_r50_fpn_8p").detector.variant
    assert variant == RetinaNetVariant(
        caffe_stride=False,
        p6_from="c5",
        relu_before_p7=False,
        anchors="exact",
        normaliser="batch",
        low_quality="forced",
    )


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "ssd_r34_1p",
            {"detector.frozen_stages": "4"},
            "detector.frozen_stages: ssd_r34 has three stages, not 4",
        ),
        (
            "ssd_r34_1p",
            {"detector.weights": "ours.pth"},
            "detector.weights: detector.weights has a backbone too; set backbone_weights to null",
        ),
        (
            "retinanet_r18_fpn_finetune",
            {"detector.variant.caffe_stride": "true"},
            "detector.variant.caffe_stride: retinanet_r18_fpn has no bottlenecks whose stride "
            "could be moved (caffe_stride)",
        ),
        (
            "retinanet_r50_fpn_1p",
            {"schedule.milestones": "[8, 12]"},
            "schedule.milestones: milestones (8.0, 12.0) have to come before the end, 12 epochs",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(
    recipe: str, overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, overrides)
    assert str(caught.value) == f"--set {message}"
