"""Model and annotation files that ask for other files, for ever, or for all memory: one sentence.

Every verb that loads a graph is asked, on the smallest graph there is; what `load_graph` refuses
is listed once, here and in test_graph_file.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from suite.errors import InputError
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.graph_file import load_graph, read_model
from tests.fuzz import tiny
from tests.unit.hostile_graphs import (
    HOSTILE,
    UNINFERABLE,
    Change,
    add_operator,
    add_tensor,
    declare_value,
    put_outside,
    write,
)

Verb = Callable[..., Any]

VERBS: dict[str, tuple[str, ...]] = {
    "predict": ("predict", "MODEL", "photo.png", "--output", "out"),
    "eval": ("eval", "MODEL", "--recipe", "demo", "--output", "out"),
    "verify": ("verify", "MODEL", "--against", "absent.pth", "--output", "out"),
    "inspect": ("inspect", "MODEL"),
    "bench": ("bench", "infer", "MODEL", "--output", "out"),
    "quantize": ("quantize", "MODEL", "--calibrate", ".", "--output", "out.onnx"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photo in it."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("photo.png")
    return tmp_path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_graph(path)
    message = str(caught.value)
    assert message.startswith(str(path.parent)) and message.isprintable()
    return message


def test_the_tiny_graph_itself_is_sound(folder: Path, run_suite: Verb) -> None:
    path = write(folder / "tiny.onnx")
    assert load_graph(path).metadata.recipe == "tiny"
    assert run_suite("predict", path, "photo.png", "--output", "out").code == 0
    assert run_suite("inspect", path).code == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_are_refused(folder: Path, name: str) -> None:
    change, complaint = HOSTILE[name]
    assert complaint in refusal(write(folder / "hostile.onnx", change))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_in_one_sentence_and_writes_nothing(
    folder: Path, run_suite: Verb, verb: str
) -> None:
    model = folder / "model.onnx"
    for name in ("outside", "loop", "functions", "filled", "nan"):
        write(model, HOSTILE[name][0])
        assert_refused(run_suite, verb, model, HOSTILE[name][1])
    model.write_bytes(model.read_bytes()[:-40])
    assert_refused(run_suite, verb, model, "not an ONNX file, or cut short")
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "photo.png"]


@pytest.mark.parametrize("name", UNINFERABLE)
def test_the_cost_of_what_onnx_cannot_infer_is_unknown(
    folder: Path, run_suite: Verb, name: str
) -> None:
    def change(model: onnx.ModelProto) -> None:
        UNINFERABLE[name](model)
        del model.metadata_props[:]

    finished = run_suite("inspect", write(folder / "model.onnx", change), "--json")
    assert finished.code == 0 and finished.stderr == ""
    cost = json.loads(finished.stdout)["cost"]
    assert cost["flops"] is None and cost["parameters"] == 6
    assert_refused(
        run_suite, "verify", folder / "model.onnx", "the sizes of its values cannot be inferred"
    )


def test_the_cost_of_what_only_others_use_is_counted(folder: Path, run_suite: Verb) -> None:
    def change(model: onnx.ModelProto) -> None:
        add_operator("LayerNormalization", "x", inputs="images side")(model)
        model.graph.initializer.append(helper.make_tensor("side", TensorProto.FLOAT, [1], [1.0]))
        del model.metadata_props[:]

    # What lies in the working folder is not what looks at it.
    (folder / "onnx.py").write_text("raise SystemExit('imported')")
    finished = run_suite("inspect", write(folder / "model.onnx", change), "--json")
    assert json.loads(finished.stdout)["cost"]["flops"] == 2 * 32 * 32 * 3 * 2


@pytest.mark.parametrize(
    "change, complaint",
    [
        (add_tensor(TensorProto.BFLOAT16, *[2**62] * 100_000), "'strange' declares 100,000 sides"),
        (add_tensor(TensorProto.BFLOAT16, -5, 3), "'strange' declares -5x3 numbers"),
        (declare_value(100_000), "declares a value of 100,000 sides"),
    ],
)
def test_shapes_in_graphs_of_others_are_limited_too(
    folder: Path, run_suite: Verb, change: Change, complaint: str
) -> None:
    def change_both(model: onnx.ModelProto) -> None:
        change(model)
        del model.metadata_props[:]

    assert_refused(run_suite, "inspect", write(folder / "model.onnx", change_both), complaint)


def assert_refused(run_suite: Verb, verb: str, model: Path, complaint: str) -> None:
    words = [str(model) if word == "MODEL" else word for word in VERBS[verb]]
    finished = run_suite(*words)
    assert finished.code == 1 and finished.stdout == ""
    assert finished.stderr.count("\n") == 1 and finished.stderr.startswith("suite: ")
    assert complaint in finished.stderr


class Watch:
    """What this process opens, by the paths that lead there, while `paths` is a list."""

    paths: list[str] | None = None

    def note(self, event: str, arguments: tuple[object, ...]) -> None:
        path = arguments[0] if arguments else None
        if event == "open" and self.paths is not None and isinstance(path, str | bytes):
            self.paths.append(os.path.realpath(os.fsdecode(path)))


@pytest.fixture(scope="session")
def lasting_watch() -> Watch:
    """One for all tests: Python cannot take such a hook away."""
    watch = Watch()
    sys.addaudithook(watch.note)
    return watch


@pytest.fixture
def opened(lasting_watch: Watch) -> Iterator[list[str]]:
    """What the test opens, links followed."""
    lasting_watch.paths = []
    yield lasting_watch.paths
    lasting_watch.paths = None


@pytest.mark.parametrize("location", ["../secret", "SECRET", "link.bin", "hard.bin"])
def test_other_files_are_not_opened_by_any_way_to_them(
    folder: Path, location: str, opened: list[str]
) -> None:
    inside = folder / "inside"
    inside.mkdir()
    secret = folder / "secret"
    secret.write_bytes(bytes(24))
    (inside / "link.bin").symlink_to(secret)
    (inside / "hard.bin").hardlink_to(secret)

    def refer(model: onnx.ModelProto) -> None:
        put_outside(model)
        place = location.replace("SECRET", str(secret))
        model.graph.initializer[0].external_data[0].value = place

    path = write(inside / "model.onnx", refer)
    opened.clear()
    assert "refers to tensors in other files" in refusal(path)
    with pytest.raises(InputError, match="refers to tensors in other files"):
        read_model(path)
    assert [name for name in opened if name.startswith(str(folder))] == [str(path)] * 2
    secret.read_bytes()
    assert opened[-1] == str(secret)  # so would we have seen it


def test_a_link_to_a_model_is_a_model(folder: Path) -> None:
    path = write(folder / "real.onnx")
    sidecar = tiny.build_sidecar(load_graph(path).sha256)
    Path(f"{path}.json").write_text(json.dumps(sidecar))
    for name in ("linked.onnx", "linked.onnx.json"):
        (folder / name).symlink_to(folder / name.replace("linked", "real"))
    assert load_graph(folder / "linked.onnx").metadata.recipe == "tiny"


def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    pipe = folder / "pipe.onnx"
    os.mkfifo(pipe)
    (folder / "zero.onnx").symlink_to("/dev/zero")
    (folder / "loop.onnx").symlink_to(folder / "loop.onnx")
    (folder / "folder.onnx").mkdir()
    for name in ("pipe", "zero", "loop", "folder", "x" * 300):
        assert refusal(folder / f"{name}.onnx").endswith(": no such graph")


def test_sidecars_that_are_none_are_refused(folder: Path) -> None:
    path = write(folder / "model.onnx")
    sound = json.dumps(tiny.build_sidecar(load_graph(path).sha256))
    sidecar, elsewhere = Path(f"{path}.json"), folder / "elsewhere.json"
    sidecar.write_text(sound)
    load_graph(path)
    elsewhere.write_text(sound)
    sidecar.unlink()
    sidecar.symlink_to(elsewhere)
    assert "is a link beside a graph that is none" in refusal(path)
    sidecar.unlink()
    os.mkfifo(sidecar)
    assert "not a regular file" in refusal(path)
    sidecar.unlink()
    sidecar.mkdir()
    assert "not a regular file" in refusal(path)
    sidecar.rmdir()
    sidecar.touch()
    os.truncate(sidecar, 3 * 2**40)  # a hole, without a block on the disk
    assert "larger than 1048576 bytes" in refusal(path)
    for content in ('{"sha256":' * 50_000, "[" * 100_000, '{"sha256": 1' + "0" * 5000 + "}"):
        sidecar.write_text(content)
        assert "model.onnx.json: damaged" in refusal(path)


@pytest.mark.parametrize("load", [load_ground_truth, load_results])
def test_annotations_that_are_no_files_are_not_opened(
    folder: Path, load: Callable[[Path], object]
) -> None:
    pipe, huge, deep = (folder / name for name in ("pipe.json", "huge.json", "deep.json"))
    os.mkfifo(pipe)
    huge.touch()
    os.truncate(huge, 5 * 2**40)
    deep.write_text("[" * 200_000)
    (folder / "zero.json").symlink_to("/dev/zero")
    for path, complaint in (
        (pipe, "not a regular file"),
        (folder / "zero.json", "not a regular file"),
        (huge, "larger than"),
        (deep, "not valid JSON"),
    ):
        with pytest.raises(InputError, match=complaint):
            load(path)


def test_recipes_that_are_no_files_or_too_much_are_refused(folder: Path, run_suite: Verb) -> None:
    huge, deep, pipe = (folder / name for name in ("huge.yaml", "deep.yaml", "pipe.yaml"))
    huge.touch()
    os.truncate(huge, 2**40)
    deep.write_text("a: " + "[" * 500_000)
    os.mkfifo(pipe)
    (folder / "escape.yaml").write_text('# more than a character can be\na: "\\UFFFFFFFF"\n')
    (folder / "version.yaml").write_text("%YAML 1." + "1" * 5000 + "\n---\na: 1\n")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    for name, complaint in (
        ("huge.yaml", "larger than 1,048,576 bytes"),
        ("deep.yaml", "nested deeper than 20 levels"),
        ("pipe.yaml", "no such file"),
        ("zero.yaml", "no such file"),
        ("escape.yaml", ":2: not valid YAML: an escaped character or a version is out of range"),
        ("version.yaml", ":1: not valid YAML: an escaped character or a version is out of range"),
    ):
        finished = run_suite("recipes", "validate", folder / name)
        assert finished.code == 2 and complaint in finished.stderr
        assert "Traceback" not in finished.stderr


def test_a_model_may_have_any_sound_numbers(folder: Path) -> None:
    def widen(model: onnx.ModelProto) -> None:
        kernel = np.full((2, 3, 1, 1), 1e38, np.float32)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "kernel"))

    assert load_graph(write(folder / "model.onnx", widen)).metadata.recipe == "tiny"


def test_a_digest_of_a_checkpoint_is_not_read_further_than_a_digest_goes(
    folder: Path, run_suite: Verb
) -> None:
    (folder / "a.pth").write_bytes(b"weights")
    digest = folder / "a.pth.sha256"
    digest.touch()
    os.truncate(digest, 5 * 2**40)
    for words in (("inspect", "a.pth"), ("export", "a.pth")):
        finished = run_suite(*words)
        assert finished.code == 1
        assert (
            finished.stderr == "suite: a.pth: damaged, its sha256 is not the one in a.pth.sha256\n"
        )
