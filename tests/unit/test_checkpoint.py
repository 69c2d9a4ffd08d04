"""Checkpoints: what is written comes back, what is damaged or hostile does not get in."""

from __future__ import annotations

import hashlib
import pickle
import resource
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.checkpoint import (
    SCHEMA,
    build_recipe_detector,
    checkpoint_path,
    delete_old_checkpoints,
    list_checkpoints,
    load_checkpoint,
    load_detector,
    load_newest_checkpoint,
    recipe_of_checkpoint,
    start_from_checkpoint,
    write_checkpoint,
)
from suite.errors import InputError, SuiteError
from suite.recipe import Recipe, load_recipe, recipe_to_dict

NAMES = ["ball", "brick", "ring", "star", "leaf", "cone"]


def build_recipe() -> Recipe:
    recipe = load_recipe("demo")
    return replace(recipe, detector=replace(recipe.detector, width=0.125))


def build_state(*, step: int = 8, seed: int = 0) -> dict[str, Any]:
    recipe = build_recipe()
    torch.manual_seed(seed)
    return {
        "step": step,
        "weights": dict(build_recipe_detector(recipe).state_dict()),
        "ema": None,
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}, "param_groups": []},
        "scaler": {},
        "events": {},
        "recipe": recipe_to_dict(recipe),
        "class_names": NAMES,
        "category_ids": [1, 2, 3, 5, 7, 11],
        "data_digest": "0" * 64,
    }


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return build_state()


@pytest.fixture(scope="module")
def sound_bytes(sound: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "a.pth"
    write_checkpoint(sound, path)
    return path.read_bytes()


def test_what_is_written_comes_back(sound: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path / "checkpoints", 8)
    write_checkpoint(sound, path)
    loaded = load_checkpoint(path)
    assert loaded.keys() == sound.keys() | {"schema"}
    for key, tensor in sound["weights"].items():
        assert torch.equal(loaded["weights"][key], tensor)
    momentum = loaded["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, sound["optimizer"]["state"][0]["momentum_buffer"])
    assert recipe_of_checkpoint(loaded, source="a") == build_recipe()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


def test_the_digest_is_what_sha256sum_checks(sound: dict[str, Any], tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 8)
    write_checkpoint(sound, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Path(f"{path}.sha256").read_text() == f"{digest}  step-00000008.pth\n"
    command = ["sha256sum", "--check", f"{path.name}.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_equal_states_make_equal_files(sound: dict[str, Any], tmp_path: Path) -> None:
    # A run that is stopped where it was resumed writes the same name again, digest first.
    for folder in ("a", "b"):
        write_checkpoint(sound, tmp_path / folder / "step-00000008.pth")
    first, second = (tmp_path / f / "step-00000008.pth.sha256" for f in ("a", "b"))
    assert first.read_text() == second.read_text()


# A detector from a checkpoint


def test_a_detector_is_rebuilt_in_eval_mode(sound: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(sound, path)
    trained = load_detector(path)
    assert (trained.step, trained.recipe, list(trained.class_names)) == (8, build_recipe(), NAMES)
    assert trained.category_ids == (1, 2, 3, 5, 7, 11)
    assert trained.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not trained.detector.training
    for key, tensor in trained.detector.state_dict().items():
        assert torch.equal(tensor, sound["weights"][key])


def test_averaged_weights_go_before_the_trained_ones(tmp_path: Path) -> None:
    averaged = build_state(seed=1)["weights"]
    write_checkpoint(build_state() | {"ema": averaged}, tmp_path / "a.pth")
    for key, tensor in load_detector(tmp_path / "a.pth").detector.state_dict().items():
        assert torch.equal(tensor, averaged[key])


def start(path: Path, **detector: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Start a detector of other random weights from a checkpoint; return its weights."""
    recipe = build_recipe()
    section = replace(recipe.detector, weights=str(path), backbone_weights=None, **detector)
    torch.manual_seed(9)
    started = build_recipe_detector(replace(recipe, detector=section))
    fresh = start_from_checkpoint(started, replace(recipe, detector=section))
    return dict(started.state_dict()), fresh


def test_training_starts_from_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    state = build_state()
    averaged = {key: value + 1 for key, value in state["weights"].items()}
    for name, ema in (("plain", None), ("averaged", averaged)):
        path = tmp_path / f"{name}.pth"
        write_checkpoint(state | {"ema": ema}, path)
        weights, fresh = start(path)
        assert fresh == []
        for key, value in (ema or state["weights"]).items():
            assert torch.equal(weights[key], value)


def test_other_classes_start_with_a_fresh_class_head(tmp_path: Path) -> None:
    write_checkpoint(build_state(), tmp_path / "a.pth")
    weights, fresh = start(tmp_path / "a.pth", num_classes=4)
    assert fresh and all(key.startswith("class_heads.") for key in fresh)
    assert {key for key in weights if key.startswith("class_heads.")} == set(fresh)
    torch.manual_seed(9)
    recipe = build_recipe()
    section = replace(recipe.detector, num_classes=4)
    untouched = build_recipe_detector(replace(recipe, detector=section)).state_dict()
    stored = load_checkpoint(tmp_path / "a.pth")["weights"]
    for key, value in weights.items():
        assert torch.equal(value, untouched[key] if key in fresh else stored[key])


@pytest.mark.parametrize(
    ("detector", "complaint"),
    [
        ({"padding": "same"}, "has detector.padding torch, the recipe same; set it to torch"),
        ({"width": 0.25}, "has detector.width 0.125, the recipe 0.25; set it to 0.125"),
    ],
)
def test_a_checkpoint_of_another_network_is_no_start(
    detector: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    write_checkpoint(build_state(), tmp_path / "a.pth")
    with pytest.raises(InputError) as caught:
        start(tmp_path / "a.pth", **detector)
    assert str(caught.value) == f"{tmp_path / 'a.pth'}: {complaint}"


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", 7), ("num_classes", 10**8), ("width", 0.25), ("width", 1e5), ("width", 1e30)],
)
def test_weights_of_another_shape_do_not_fit(key: str, value: float, tmp_path: Path) -> None:
    state = build_state()
    state["recipe"]["detector"][key] = value
    write_checkpoint(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"the weights do not fit 'ssd_r34' with \d+ classes"):
        load_detector(tmp_path / "a.pth")


def test_names_have_to_be_as_many_as_classes(tmp_path: Path) -> None:
    write_checkpoint(build_state() | {"class_names": ["a", "b"]}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="names 2 classes, its recipe says 6"):
        load_detector(tmp_path / "a.pth")


def test_a_recipe_that_is_none_is_an_input_error(tmp_path: Path) -> None:
    state = build_state()
    state["recipe"]["detector"]["name"] = "ssd_vgg"
    write_checkpoint(state, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth, its recipe: detector\.name: expected"):
        load_detector(tmp_path / "a.pth")


# Damaged and hostile files

BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dictionary": (lambda state: [state], "not a checkpoint of this suite"),
    "no schema": (lambda state: {**state, "schema": None}, "no schema 'suite.checkpoint/1'"),
    "next schema": (lambda state: {**state, "schema": "suite.checkpoint/2"}, "no schema"),
    "step is text": (lambda state: {**state, "step": "8"}, "'step' is absent or of the wrong"),
    "ema is a list": (lambda state: {**state, "ema": []}, "'ema' is absent or of the wrong"),
    "names are numbers": (lambda state: {**state, "class_names": [1]}, "its classes are not"),
    "ids are texts": (lambda state: {**state, "category_ids": ["1"]}, "its classes are not"),
    "weight is text": (lambda state: with_weight(state, "x"), "'w' is not a finite tensor"),
    "weight is NaN": (
        lambda state: with_weight(state, torch.tensor([1.0, float("nan")])),
        "'w' is not a finite tensor",
    ),
    "ema is infinite": (
        lambda state: {**state, "ema": {"w": torch.tensor([float("inf")])}},
        "'w' is not a finite tensor",
    ),
    "weight is larger than the file": (
        lambda state: with_weight(state, torch.zeros(1).expand(10**13)),
        "'w' is not a finite tensor",
    ),
    "weight is on no device": (
        lambda state: with_weight(state, torch.zeros(3, device="meta")),
        "'w' is not a finite tensor",
    ),
    "weight without name": (
        lambda state: {**state, "weights": {7: torch.zeros(1)}},
        "'7' is not a finite tensor",
    ),
}


def with_weight(state: dict[str, Any], value: Any) -> dict[str, Any]:
    return {**state, "weights": {**state["weights"], "w": value}}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_checkpoint_is_refused(name: str, sound: dict[str, Any], tmp_path: Path) -> None:
    breaking, message = BROKEN[name]
    torch.save(breaking({"schema": SCHEMA, **sound}), tmp_path / "a.pth")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("key", build_state())
def test_every_part_is_needed(key: str, sound: dict[str, Any], tmp_path: Path) -> None:
    state = {name: value for name, value in sound.items() if name != key}
    torch.save({"schema": SCHEMA, **state}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=f"damaged checkpoint, '{key}' is absent"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pth: no such checkpoint"):
        load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_refused(share: float, sound_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(sound_bytes[: int(len(sound_bytes) * share)])
    with pytest.raises(InputError, match=r"a\.pth: not a file of tensors .* or cut short"):
        load_checkpoint(path)


def test_one_flipped_bit_is_found_by_the_digest(sound: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(sound, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged, its sha256 is not the one in a\.pth\.sha256"):
        load_checkpoint(path)


random_files = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@random_files
@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04"]))
def test_random_bytes_are_refused(tmp_path: Path, noise: bytes, start: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(start + noise)
    with pytest.raises(InputError, match=r"a\.pth: "):
        load_checkpoint(path)


@random_files
@given(st.data())
def test_damage_of_the_structure_ends_in_one_sentence(
    tmp_path: Path, sound_bytes: bytes, data: st.DataObject
) -> None:
    # The first and last kilobytes hold the pickle and the archive's directory.
    content = bytearray(sound_bytes)
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(-6000, 20_000))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    try:
        load_detector(path)
    except InputError as error:
        assert str(path) in str(error)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("container", ["pickle", "legacy", "zip", "inside", "digest"])
def test_a_payload_never_runs(container: str, sound: dict[str, Any], tmp_path: Path) -> None:
    path, proof = tmp_path / "a.pth", tmp_path / "ran"
    hostile = {"schema": SCHEMA, **sound, "scaler": {"x": Payload(proof)}}
    if container == "pickle":
        path.write_bytes(pickle.dumps(Payload(proof)))
    elif container == "digest":
        write_checkpoint(hostile, path)
    elif container == "inside":
        torch.save(hostile, path)
    else:
        torch.save(Payload(proof), path, _use_new_zipfile_serialization=container == "zip")
    for load in (load_checkpoint, load_detector):
        with pytest.raises(InputError, match="it was not loaded"):
            load(path)
    assert not proof.exists()


def test_compressed_members_are_refused(sound_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(sound_bytes)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(InputError, match="compressed members"):
        load_checkpoint(tmp_path / "a.pth")


# A folder of checkpoints


def write_steps(folder: Path, *steps: int) -> None:
    for step in steps:
        write_checkpoint(build_state(step=step), checkpoint_path(folder, step))


def test_the_newest_sound_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_steps(tmp_path, 8, 16, 120)
    assert load_newest_checkpoint(tmp_path)["step"] == 120
    newest = checkpoint_path(tmp_path, 120)
    newest.write_bytes(newest.read_bytes()[:-10])
    checkpoint_path(tmp_path, 16).write_bytes(b"")
    assert load_newest_checkpoint(tmp_path)["step"] == 8
    skipped = capsys.readouterr().err.splitlines()
    assert [line.partition(": damaged")[0] for line in skipped] == [
        f"skipped: {newest}",
        f"skipped: {checkpoint_path(tmp_path, 16)}",
    ]


def test_without_a_sound_one_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sound checkpoint to resume from"):
        load_newest_checkpoint(tmp_path)


def test_old_ones_go_with_their_digests_and_leftovers(tmp_path: Path) -> None:
    write_steps(tmp_path, 8, 16, 24, 32)
    (tmp_path / ".0123456789abcdef.pth").write_bytes(b"half")
    (tmp_path / "step-best.pth").write_bytes(b"mine")
    delete_old_checkpoints(tmp_path, keep=3)
    kept = [checkpoint_path(tmp_path, step) for step in (16, 24, 32)]
    assert list_checkpoints(tmp_path) == kept
    digests = [Path(f"{path}.sha256") for path in kept]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, *digests, tmp_path / "step-best.pth"])
    delete_old_checkpoints(tmp_path, keep=3)
    assert list_checkpoints(tmp_path) == kept


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    write_steps(tmp_path, 8)
    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SuiteError, match=r"step-00000016\.pth: the checkpoint cannot be writ"):
            write_steps(tmp_path, 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == before
    assert load_newest_checkpoint(tmp_path)["step"] == 8


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SuiteError, match=r"file/a\.pth: the checkpoint cannot be written \(File ex"
    ):
        write_checkpoint(build_state(), tmp_path / "file" / "a.pth")
