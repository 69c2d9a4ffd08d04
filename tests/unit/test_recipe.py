"""Recipes: ranges and rules with their lines, files and names, dictionaries, digests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import SuiteError, UsageError
from suite.recipe import (
    RULES,
    Recipe,
    differing_keys,
    find_recipe,
    list_shipped_recipes,
    load_recipe,
    parse_overrides,
    recipe_digest,
    recipe_from_dict,
    recipe_to_dict,
    write_recipe,
)
from suite.recipe_sections import (
    Augment,
    Data,
    Detector,
    Optimizer,
    Postprocess,
    Resize,
    RetinaNetVariant,
    Schedule,
    Split,
)
from suite.strict_yaml import encode_yaml, read_yaml

BASE = load_recipe("ssd_r34_bccd")
BATCH = BASE.global_batch


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("detector.num_classes", "0"),
        ("detector.name", "ssd_r43"),
        ("detector.width", "0"),
        ("detector.backbone_weights", "http://example.org/a.pth"),
        ("detector.padding", "valid"),
        ("detector.frozen_stages", "-1"),
        ("detector.frozen_stages", "5"),
        ("resize.mode", "crop"),
        ("resize.short_side", "0"),
        ("resize.long_side", "16385"),
        ("data.name", ""),
        ("data.name", " COCO2017"),
        ("data.format", "kitti"),
        ("data.workers", "-1"),
        ("data.use_crowd", "yes"),
        ("augment.crop", "some"),
        ("augment.flip", "1.01"),
        ("augment.flip", "-0.1"),
        ("augment.crop_factor", "2"),
        ("optimizer.momentum", "1"),
        ("optimizer.weight_decay", "-1e-4"),
        ("optimizer.clip_norm", "0"),
        ("optimizer.ema_decay", "1"),
        ("schedule.epochs", "0"),
        ("schedule.nominal_epoch_images", "0"),
        ("schedule.base_lr", "0"),
        ("schedule.base_batch", "0"),
        ("schedule.warmup_epochs", "-1"),
        ("schedule.warmup_start", "1.1"),
        ("schedule.decay_epochs", "0"),
        ("schedule.final_lr_factor", "1.5"),
        ("postprocess.score_threshold", "1"),
        ("postprocess.iou_threshold", "1.1"),
        ("postprocess.max_detections", "0"),
        ("postprocess.max_detections", "701"),
        ("postprocess.pre_topk", "1.5"),
        ("postprocess.pre_topk", "0"),
        ("postprocess.pre_topk", "3841"),
        ("global_batch", "0"),
        ("precision", "fp64"),
        ("device", "gpu"),
        ("devices", "0"),
        ("seed", "-1"),
        ("seed", "4294967296"),
        ("eval_every_epochs", "0"),
        ("checkpoint_every_epochs", "0"),
        ("log_every_steps", "0"),
        ("name", "../up"),
        ("name", "-rf"),
        ("name", "a" * 65),
        ("name", "ünique"),
        ("name", "a\n"),
        ("reference", "seed-003"),
    ],
)
def test_values_out_of_range_are_refused(key: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("ssd_r34_bccd", {key: text})
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"--set {key}: expected ")


def test_the_largest_limits_of_the_graph_are_allowed() -> None:
    largest = {"postprocess.pre_topk": "3840", "postprocess.max_detections": "700"}
    postprocess = load_recipe("ssd_r34_bccd", largest).postprocess
    assert (postprocess.pre_topk, postprocess.max_detections) == (3840, 700)


def shipped_text(name: str) -> str:
    return list_shipped_recipes()[name].read_text(encoding="utf-8")


def test_mistakes_of_all_kinds_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = encode_yaml(BASE).replace("num_classes: 3", "num_classes: 0")
    text = text.replace("flip: 0.5", "flip: half").replace(
        f"global_batch: {BATCH}", "global_batch: 15"
    )
    path.write_text(text.replace("pre_topk", "pre_topks").replace("devices: 1", "devices: 2"))
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    lines = path.read_text().splitlines()
    at = {key: 1 + next(n for n, line in enumerate(lines) if key in line) for key in
          ("num_classes", "flip", "postprocess", "pre_topks", "global_batch")}  # fmt: skip
    assert str(caught.value).splitlines() == [
        f"{path}:{at['num_classes']}: detector.num_classes: expected at least 1, got '0'",
        f"{path}:{at['flip']}: augment.flip: expected a finite number, got 'half'",
        f"{path}:{at['postprocess']}: postprocess.pre_topk: missing",
        f"{path}:{at['pre_topks']}: postprocess.pre_topks: unknown key (did you mean 'pre_topk'?)",
        f"{path}:{at['global_batch']}: global_batch: "
        "15 images a step (global_batch) cannot be shared evenly by 2 devices",
    ]


@pytest.mark.parametrize(
    ("written", "read"),
    [("O0", "fp32"), ("O1", "fp16"), ("O2", "fp16"), ("bf16", "bf16"), ("fp16", "fp16")],
)
def test_precision_has_the_aliases_of_ascends_tools(written: str, read: str) -> None:
    assert load_recipe("ssd_r34_bccd", {"precision": written}).precision == read


def test_a_file_goes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(dataclasses.replace(BASE, seed=7), Path("ssd_r34_8p"))
    assert load_recipe("ssd_r34_8p").seed == 7
    assert load_recipe("ssd_r34_8p.yaml").devices == 8
    Path("ssd_r34_1p").mkdir()
    assert load_recipe("ssd_r34_1p").devices == 1


def test_an_unknown_name_lists_close_and_shipped_ones() -> None:
    with pytest.raises(UsageError, match=r"'ssd_r34_bcd': no such file and no shipped recipe") as e:
        load_recipe("ssd_r34_bcd")
    assert "(did you mean 'ssd_r34_bccd'?)" in str(e.value)
    assert f"shipped are {', '.join(list_shipped_recipes())}" in str(e.value)
    assert {"demo", "ssd_r34_1p", "retinanet_r50_fpn_8p"} <= set(list_shipped_recipes())


@pytest.mark.parametrize(
    "name", ["../recipes/ssd_r34_8p", "a\0b", "x" * 5000, "", "/dev/null", "/"]
)
def test_odd_names_are_no_recipes(name: str) -> None:
    with pytest.raises(UsageError, match="no such file and no shipped recipe"):
        find_recipe(name)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(UsageError, match=r"a\.yaml: not UTF-8 text, wrong at byte 6"):
        load_recipe(str(path))
    path.write_bytes(b"\xc3\xa9" * 2**20)
    with pytest.raises(UsageError, match=r"a\.yaml: larger than 1,048,576 bytes"):
        load_recipe(str(path))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(encode_yaml(BASE), encoding="utf-8-sig")
    assert load_recipe(str(path)) == BASE


def test_overrides_are_split_at_the_first_equals_sign() -> None:
    assert parse_overrides(["seed=1", " a.b =x=y", "c="]) == {"seed": "1", "a.b": "x=y", "c": ""}
    with pytest.raises(UsageError, match="--set seed: expected key=value"):
        parse_overrides(["seed"])
    with pytest.raises(UsageError, match="--set seed: given twice"):
        parse_overrides(["seed=1", "seed=2"])


def test_writing_leaves_one_file_and_reads_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("old")
    write_recipe(BASE, path)
    assert load_recipe(str(path)) == BASE
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SuiteError, match="folder: cannot be written: Is a directory"):
        write_recipe(BASE, tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_recipe_as_dictionary_is_plain_and_survives_json() -> None:
    plain = recipe_to_dict(BASE)
    assert json.loads(json.dumps(plain)) == plain
    assert recipe_from_dict(plain, source="a.pt") == BASE
    with pytest.raises(UsageError, match=r"^a\.pt: global_batch: expected an integer, got 'x'$"):
        recipe_from_dict(plain | {"global_batch": "x"}, source="a.pt")
    with pytest.raises(UsageError, match=r"^a\.pt: .* cannot be shared evenly"):
        recipe_from_dict(plain | {"devices": 3}, source="a.pt")


def test_the_digest_follows_the_content_alone(tmp_path: Path) -> None:
    write_recipe(BASE, tmp_path / "other.yaml")
    assert recipe_digest(load_recipe(str(tmp_path / "other.yaml"))) == recipe_digest(BASE)
    assert recipe_digest(dataclasses.replace(BASE, seed=1)) != recipe_digest(BASE)
    # Written out or not, a default is the same, so a field that comes later changes no digest.
    written = load_recipe("ssd_r34_bccd", {"resize.mode": "stretch", "detector.width": "1"})
    assert recipe_digest(written) == recipe_digest(BASE)
    assert recipe_digest(load_recipe("ssd_r34_bccd", {"detector.width": "0.5"})) != recipe_digest(
        BASE
    )
    assert len(recipe_digest(BASE)) == 64


def test_differing_keys_are_dotted_and_in_order() -> None:
    changes = {"seed": "1", "data.root": "elsewhere", "optimizer.clip_norm": "null"}
    changed = load_recipe("ssd_r34_bccd", changes)
    assert differing_keys(BASE, changed) == ["data.root", "optimizer.clip_norm", "seed"]
    assert differing_keys(BASE, BASE) == []


def test_shipped_names_are_the_files() -> None:
    assert all(
        path.stem == name and path.is_file() for name, path in list_shipped_recipes().items()
    )


words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
counts = st.integers(1, 10**9)
positive = st.floats(1e-9, 1e9)
share = st.floats(0, 1)
below_one = st.floats(0, 1, exclude_max=True)
coco_splits = st.builds(Split, annotations=words, images=words)
voc_splits = st.builds(Split, annotations=words)


variants = st.builds(
    RetinaNetVariant,
    caffe_stride=st.booleans(),
    p6_from=st.sampled_from(["c5", "p5"]),
    relu_before_p7=st.booleans(),
    anchors=st.sampled_from(["exact", "torchvision"]),
    normaliser=st.sampled_from(["batch", "image"]),
    low_quality=st.sampled_from(["forced", "own_best"]),
)


@st.composite
def resizes(draw: st.DrawFn) -> Resize:
    short = draw(st.integers(1, 16384))
    return Resize(
        mode=draw(st.sampled_from(["pad", "fixed"])),
        short_side=short,
        long_side=draw(st.integers(short, 16384)),
    )


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    warmup = draw(st.floats(0, 10))
    by_epochs, cosine = draw(st.booleans()), draw(st.booleans())
    milestones = () if cosine else tuple(sorted(draw(st.sets(positive, min_size=1))))
    return Schedule(
        epochs=max(milestones, default=0) * 2 + draw(positive),
        nominal_epoch_images=draw(st.none() | st.integers(64 * 64, 10**9)),
        base_lr=draw(positive),
        base_batch=draw(counts),
        warmup_epochs=warmup if by_epochs else None,
        warmup_steps=None if by_epochs else draw(st.integers(0, 10**9)),
        warmup_start=draw(share),
        decay_epochs=warmup + draw(st.floats(0.1, 1000)) if cosine else None,
        final_lr_factor=draw(share) if cosine else None,
        milestones=milestones,
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    devices, each = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    form = draw(st.sampled_from(["coco", "voc"]))
    splits = coco_splits if form == "coco" else voc_splits
    limit = draw(st.integers(1, 700))
    detector = draw(st.sampled_from(["ssd_r34", "retinanet_r18_fpn", "retinanet_r50_fpn"]))
    is_ssd = detector == "ssd_r34"
    variant = RetinaNetVariant() if is_ssd else draw(variants)
    if detector == "retinanet_r18_fpn":
        variant = dataclasses.replace(variant, caffe_stride=False)
    backbone_weights = draw(st.none() | words.filter(lambda text: "://" not in text))
    return Recipe(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)),
        detector=Detector(
            name=detector,
            num_classes=draw(counts),
            backbone_weights=backbone_weights,
            weights=draw(st.none() | words) if backbone_weights is None else None,
            width=draw(positive),
            padding=draw(st.sampled_from(["torch", "same"])),
            frozen_stages=draw(st.none() | st.integers(0, 3 if is_ssd else 4)),
            variant=variant,
        ),
        resize=Resize() if is_ssd else draw(resizes()),
        data=draw(
            st.builds(
                Data,
                name=words.map(str.strip).filter(bool),
                format=st.just(form),
                root=words,
                train=splits,
                val=splits,
                use_crowd=st.booleans(),
                workers=st.integers(0, 64),
            )
        ),
        augment=draw(
            st.builds(
                Augment,
                crop=st.sampled_from(["none", "all_boxes", "any_box"] if is_ssd else ["none"]),
                crop_factor=share,
                flip=share,
                jitter=st.booleans(),
            )
        ),
        optimizer=draw(
            st.builds(
                Optimizer,
                momentum=below_one,
                weight_decay=share,
                clip_norm=st.none() | positive,
                ema_decay=st.none() | below_one,
            )
        ),
        schedule=draw(schedules()),
        postprocess=Postprocess(
            score_threshold=draw(below_one),
            iou_threshold=draw(share),
            max_detections=limit,
            pre_topk=limit + draw(st.integers(0, 3840 - 700)),
        ),
        global_batch=devices * each,
        precision=draw(st.sampled_from(["fp32", "bf16", "fp16"])),
        device=draw(st.sampled_from(["auto", "cpu", "cuda", "npu"])),
        devices=devices,
        seed=draw(st.integers(0, 2**32 - 1)),
        eval_every_epochs=draw(st.none() | positive),
        checkpoint_every_epochs=draw(positive),
        log_every_steps=draw(counts),
        reference=tuple(draw(st.lists(words, max_size=3))),
    )


@settings(max_examples=60, deadline=None)
@given(recipes())
def test_any_recipe_survives_yaml_and_dictionary(recipe: Recipe) -> None:
    text = encode_yaml(recipe)
    assert read_yaml(text, Recipe, source="f", rules=RULES) == recipe
    again = recipe_from_dict(recipe_to_dict(recipe), source="f")
    assert again == recipe
    assert recipe_digest(again) == recipe_digest(recipe)
