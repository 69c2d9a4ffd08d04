"""The verb `export`: what it leaves on disk when it succeeds and when it does not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from suite.checkpoint import load_checkpoint, write_checkpoint
from suite.deploy.export import export
from suite.errors import CheckFailed, InputError, SuiteError, UsageError
from suite.graph_file import load_graph
from suite.graph_metadata import encode_metadata


@pytest.fixture
def folder(tmp_path: Path, small_checkpoint: Path) -> Path:
    """A folder of its own with the small checkpoint in it."""
    shutil.copy(small_checkpoint, tmp_path / "small.pth")
    return tmp_path


@pytest.fixture
def built(small_graph: Path, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Make `export` build this model, which a test may change, in no time."""
    model = onnx.load(small_graph)
    monkeypatch.setattr("suite.deploy.export.build_graph", lambda trained, request: model)
    return model


def break_graph(model: onnx.ModelProto) -> None:
    (node,) = [n for n in model.graph.node if n.op_type == "Softmax"]
    node.attribute[0].i = 1


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_graph_has_its_sidecar(small_graph: Path, small_checkpoint: Path) -> None:
    graph = load_graph(small_graph)
    sidecar = json.loads(Path(f"{small_graph}.json").read_text(encoding="utf-8"))
    own = {"sha256", "parity"}
    assert {key: sidecar[key] for key in sidecar if key not in own} == json.loads(
        json.dumps(encode_metadata(graph.metadata))
    )
    assert own.isdisjoint(entry.key for entry in graph.model.metadata_props)
    assert sidecar["sha256"] == hashlib.sha256(small_graph.read_bytes()).hexdigest()
    assert sidecar["checkpoint_sha256"] == (
        hashlib.sha256(small_checkpoint.read_bytes()).hexdigest()
    )
    assert sidecar["parity"]["unpaired"] == 0
    assert sidecar["parity"]["nms_cases"] > 0


def test_the_graph_stands_beside_the_checkpoint_and_nothing_else_does(
    folder: Path, built: onnx.ModelProto
) -> None:
    path, parity = export(folder / "small.pth")
    assert path == folder / "small.onnx"
    assert parity.failures() == []
    assert names(folder) == {"small.pth", "small.onnx", "small.onnx.json"}


def test_photos_are_compared_on(
    folder: Path, built: onnx.ModelProto, small_photos: list[Path]
) -> None:
    assert export(folder / "small.pth", images=small_photos)[1].num_images == 5


def test_an_existing_target_stays_without_force(folder: Path, built: onnx.ModelProto) -> None:
    target = folder / "model.onnx"
    target.write_text("precious")
    with pytest.raises(UsageError, match=r"exists already; pass --force"):
        export(folder / "small.pth", output=target)
    assert target.read_text() == "precious"
    export(folder / "small.pth", output=target, force=True)
    assert load_graph(target).metadata.recipe == "small"


def test_a_graph_that_fails_leaves_nothing(folder: Path, built: onnx.ModelProto) -> None:
    break_graph(built)
    with pytest.raises(CheckFailed, match=r"does not compute the same: .* candidates") as caught:
        export(folder / "small.pth")
    assert caught.value.exit_code == 3
    assert names(folder) == {"small.pth"}


def test_a_graph_that_fails_leaves_the_older_one_of_that_name(
    folder: Path, built: onnx.ModelProto
) -> None:
    path, _ = export(folder / "small.pth")
    before = path.read_bytes()
    break_graph(built)
    with pytest.raises(CheckFailed, match=r"small.onnx is an older one, and stays"):
        export(folder / "small.pth", force=True)
    assert names(folder) == {"small.pth", "small.onnx", "small.onnx.json"}
    assert path.read_bytes() == before
    assert load_graph(path).metadata.recipe == "small"


def test_a_sidecar_that_is_there_stays_without_force(folder: Path, built: onnx.ModelProto) -> None:
    sidecar = folder / "small.onnx.json"
    sidecar.write_text("precious")
    with pytest.raises(UsageError, match=r"small.onnx.json: exists already; pass --force"):
        export(folder / "small.pth")
    assert (names(folder), sidecar.read_text()) == ({"small.pth", sidecar.name}, "precious")
    export(folder / "small.pth", force=True)
    assert load_graph(folder / "small.onnx").metadata.recipe == "small"


def test_an_unreadable_photo_leaves_the_older_graph(folder: Path, built: onnx.ModelProto) -> None:
    path, _ = export(folder / "small.pth")
    before = path.read_bytes()
    photo = folder / "photo.jpg"
    photo.write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"photo.jpg"):
        export(folder / "small.pth", images=[photo], force=True)
    assert path.read_bytes() == before
    assert load_graph(path).metadata.recipe == "small"


def test_death_between_sidecar_and_graph_is_noticed(
    folder: Path, built: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = export(folder / "small.pth")
    built.producer_version = "2"

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # The sidecar's own rename comes first; only the graph's is cut off.
        rename = Path.replace
        patch.setattr(
            Path,
            "replace",
            lambda self, to: die(self, to) if to.suffix == ".onnx" else rename(self, to),
        )
        export(folder / "small.pth", force=True)
    with pytest.raises(InputError, match="not the file that was verified"):
        load_graph(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_exported(folder: Path, value: float) -> None:
    state: dict[str, Any] = load_checkpoint(folder / "small.pth")
    del state["schema"]
    state["weights"]["extras.0.squeeze.bias"][3] = value
    broken = folder / "broken.pth"
    write_checkpoint(state, broken)
    with pytest.raises(InputError, match=r"broken.pth: .*'extras.0.squeeze.bias' is not a finite"):
        export(broken)
    assert not broken.with_suffix(".onnx").exists()


def test_targets_that_make_no_sense_are_refused(folder: Path) -> None:
    checkpoint = folder / "small.pth"
    with pytest.raises(UsageError, match=r"ends with .onnx"):
        export(checkpoint, output=folder / "model.pb")
    (folder / "model.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export(checkpoint, output=folder / "model.onnx", force=True)
    disguised = checkpoint.rename(folder / "disguised.onnx")
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        export(disguised, force=True)
    torch.load(disguised, weights_only=True)


@pytest.mark.parametrize("place", ["file/model.onnx", "file/new/model.onnx", f"{'x' * 300}.onnx"])
def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(
    folder: Path, place: str
) -> None:
    (folder / "file").touch()
    with pytest.raises(SuiteError, match=r".onnx: cannot be written: "):
        export(folder / "absent.pth", output=folder / place)


def test_a_new_folder_is_made_for_a_graph_and_not_before(
    folder: Path, built: onnx.ModelProto
) -> None:
    target = folder / "a" / "b" / "model.onnx"
    with pytest.raises(InputError):
        export(folder / "absent.pth", output=target)
    assert names(folder) == {"small.pth"}
    assert export(folder / "small.pth", output=target)[0] == target
    assert load_graph(target).metadata.recipe == "small"


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.pth"):
        export(tmp_path / "absent.pth")
