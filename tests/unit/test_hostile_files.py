"""Model and annotation files that ask for other files, for ever, or for all memory: one sentence.

Every verb that loads a graph is asked, on the smallest graph there is; what `load_graph` refuses
is listed once, here and in test_graph_file.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
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
from suite.graph_limits import MAX_PARTS, check_encoding
from tests.fuzz import tiny

Change = Callable[[onnx.ModelProto], None]
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


def write(path: Path, change: Change = lambda model: None) -> Path:
    model = tiny.build_graph()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_graph(path)
    message = str(caught.value)
    assert message.startswith(str(path.parent)) and message.isprintable()
    return message


def put_outside(model: onnx.ModelProto) -> None:
    kernel = model.graph.initializer[0]
    kernel.ClearField("float_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="weights.bin")


def insert_first(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    model.graph.node.insert(0, node)


def loop_for_ever(model: onnx.ModelProto) -> None:
    declare = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [declare("turn", TensorProto.INT64, []), declare("go", TensorProto.BOOL, [])],
        [declare("on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    insert_first(model, helper.make_node("Loop", ["", "yes"], [], body=body))


def nest_branches(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(24):
        node = graph.node.add(op_type="If", input=["images"], output=["deeper"])
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g


def call_twice_thirty_times(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="own", version=1)
    for level in range(30):
        function = model.functions.add(name=f"f{level}", domain="own", input=["x"], output=["y"])
        kind = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        function.node.add(op_type=kind[0], domain=kind[1], input=["x"], output=["z"])
        function.node.add(op_type=kind[0], domain=kind[1], input=["z"], output=["y"])
    insert_first(model, helper.make_node("f29", ["images"], ["slow"], domain="own"))


def fill_a_terabyte(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("side", TensorProto.INT64, [1], [2**38]))
    insert_first(model, helper.make_node("ConstantOfShape", ["side"], ["filled"]))


def declare(*dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def shorten_raw(model: onnx.ModelProto) -> None:
    kernel = model.graph.initializer[0]
    kernel.ClearField("float_data")
    kernel.raw_data = bytes(4 * 6 - 1)


def spoil(value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].float_data[2] = value

    return change


def rename_operator(op_type: str, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type, model.graph.node[0].domain = op_type, domain

    return change


def import_opset(*versions: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return change


def set_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def store_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[2**40])
    sparse.values.CopyFrom(helper.make_tensor("much", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("at", TensorProto.INT64, [1], [0]))


def store_texts(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"x"]))


def use_unmade(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def make_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "logits"


HOSTILE: dict[str, tuple[Change, str]] = {
    "outside": (put_outside, "refers to tensors in other files"),
    "loop": (loop_for_ever, "operator 'Loop' has a graph inside"),
    "branches": (nest_branches, "operator 'If' has a graph inside"),
    "functions": (call_twice_thirty_times, "has functions or sparse tensors"),
    "sparse": (store_sparse, "has functions or sparse tensors"),
    "filled": (fill_a_terabyte, "value 'filled' has 274877906944 numbers"),
    "terabyte": (declare(2**40, 3, 1, 1), "declares 1099511627776x3x1x1 numbers and holds 6"),
    "overflow": (declare(2**62, 2**62, 4, 4), "numbers and holds 6"),
    "negative": (declare(-2, -3, 1, 1), "declares -2x-3x1x1 numbers and holds 6"),
    "short": (shorten_raw, "declares 2x3x1x1 numbers and holds 5.75"),
    "nan": (spoil(float("nan")), "'kernel' holds NaN or infinity"),
    "infinity": (spoil(float("inf")), "'kernel' holds NaN or infinity"),
    "texts": (store_texts, "'t' is of a kind that no graph of this suite has"),
    "operator": (rename_operator("Frobnicate"), "'Frobnicate' is none of ONNX opset 18"),
    "domain": (rename_operator("Conv", "evil\x1b[2J"), "of 'evil\\x1b[2J' is none of ONNX"),
    "old opset": (import_opset(7), "of opset 7 and IR 8, its metadata says 18"),
    "future opset": (import_opset(999), "of opset 999 and IR 8"),
    "no opset": (import_opset(), "of opset none"),
    "two opsets": (import_opset(18, 18), "of opset 18, 18"),
    "ir version": (set_ir, "IR 99, its metadata says 18 and 8"),
    "unmade": (use_unmade, "value 'nowhere' is used before it is made"),
    "made twice": (make_twice, "value 'logits' is made twice"),
}


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


def assert_refused(run_suite: Verb, verb: str, model: Path, complaint: str) -> None:
    words = [str(model) if word == "MODEL" else word for word in VERBS[verb]]
    finished = run_suite(*words)
    assert finished.code == 1 and finished.stdout == ""
    assert finished.stderr.count("\n") == 1 and finished.stderr.startswith("suite: ")
    assert complaint in finished.stderr


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "link.bin", "hard.bin"])
def test_other_files_are_not_opened_by_any_way_to_them(
    folder: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = folder / "inside"
    inside.mkdir()
    secret = folder / "secret"
    secret.write_bytes(bytes(24))
    (inside / "link.bin").symlink_to(secret)
    (inside / "hard.bin").hardlink_to(secret)

    def refer(model: onnx.ModelProto) -> None:
        put_outside(model)
        model.graph.initializer[0].external_data[0].value = location

    path = write(inside / "model.onnx", refer)
    assert "refers to tensors in other files" in refusal(path)
    with pytest.raises(InputError, match="refers to tensors in other files"):
        read_model(path)


def enclose(field: bytes, content: bytes) -> bytes:
    """Return a field of a message: its tag, the length of what is in it, that itself."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return field + length + bytes([size]) + content


def test_a_million_empty_nodes_are_refused_before_there_are_objects_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder / "many.onnx")
    nodes = enclose(b"\x0a", b"") * (2 * MAX_PARTS)
    path.write_bytes(path.read_bytes() + enclose(b"\x3a", nodes))
    monkeypatch.setattr(onnx, "load_model_from_string", lambda *_: pytest.fail("was parsed"))
    assert f"more than {MAX_PARTS:,} nodes" in refusal(path)


def test_numbers_that_grow_when_they_are_parsed_are_refused() -> None:
    numbers = enclose(b"\x3a", bytes(64 * 2**20))  # int64_data, packed: eight times that
    content = enclose(b"\x3a", enclose(b"\x2a", numbers))
    with pytest.raises(InputError, match="more than 500,000 nodes, names and numbers"):
        check_encoding(content, source="here")


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\x7f",  # a graph of 127 bytes that are not there
        b"\x3a\x02\x0a\x01",  # a node that ends after its graph
        b"\x08\xff",  # a number without an end
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of more than 64 bits
        b"\x3b\x3c",  # a group, which ONNX has none of
        b"\x09\x00",  # eight bytes, of which one is there
        b"\x12\x01\xff",  # a producer that is not UTF-8
        b"\x00\x00",  # no field has the number 0
    ],
)
def test_what_is_not_the_encoding_of_a_model_is_refused(folder: Path, content: bytes) -> None:
    path = folder / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not an ONNX file, or cut short"):
        read_model(path)


def test_messages_nested_deeper_than_protobuf_reads_are_refused() -> None:
    content = b""
    for _ in range(40):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # a graph of an attribute of a node
            content = enclose(field, content)
    with pytest.raises(InputError, match="not an ONNX file, or cut short"):
        check_encoding(enclose(b"\x3a", content), source="here")


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
    (folder / "zero.yaml").symlink_to("/dev/zero")
    for name, complaint in (
        ("huge.yaml", "larger than 1,048,576 bytes"),
        ("deep.yaml", "nested deeper than 20 levels"),
        ("pipe.yaml", "no such file"),
        ("zero.yaml", "no such file"),
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
