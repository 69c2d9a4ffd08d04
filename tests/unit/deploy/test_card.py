"""The verb `inspect`: a card says what stands in the file, and counts what torch counts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from suite.checkpoint import load_detector
from suite.deploy.card import Card, inspect
from suite.deploy.card_text import format_card
from suite.deploy.cost import count_graph
from suite.records import build_record, write_record


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def in_run(tmp_path: Path, small_checkpoint: Path, small_graph: Path) -> Path:
    """Copies of the small checkpoint and its graph in a run folder; its checkpoints folder."""
    folder = tmp_path / "runs" / "small-1" / "checkpoints"
    folder.mkdir(parents=True)
    for path in (small_checkpoint, small_graph, Path(f"{small_graph}.json")):
        shutil.copy(path, folder / path.name)
    return folder


def record_eval(folder: Path, name: str, ap: float, **subject: str) -> None:
    record = build_record(
        "eval",
        metrics={"ap": ap, "ap50": 0.5},
        subject={"dataset": "BCCD", **subject},
        conditions={"val_images": 87},
    )
    write_record(record, folder.parent.parent / name / "record.json")


def test_a_checkpoint_and_its_graph_have_one_description(
    small_checkpoint: Path, small_graph: Path
) -> None:
    checkpoint, graph = inspect(small_checkpoint), inspect(small_graph)
    assert (checkpoint.kind, graph.kind) == ("checkpoint", "graph")
    assert checkpoint.metadata == graph.metadata
    assert checkpoint.sha256 == sha256(small_checkpoint)
    assert graph.sha256 == sha256(small_graph)
    assert graph.num_bytes == len(small_graph.read_bytes())
    assert checkpoint.nodes is None and checkpoint.parity is None
    assert graph.nodes is not None and graph.parity is not None
    assert graph.parity["unpaired"] == 0


@pytest.mark.parametrize("name", ["small", pytest.param("small_retinanet", marks=pytest.mark.slow)])
def test_graph_and_detector_cost_the_same_counted_in_two_ways(
    request: pytest.FixtureRequest, name: str
) -> None:
    checkpoint = request.getfixturevalue("small_checkpoint" if name == "small" else name)
    graph = request.getfixturevalue(f"{name}_graph")
    ours, exported = inspect(checkpoint).cost, inspect(graph).cost
    assert exported.flops == ours.flops and ours.flops is not None
    assert exported.image_hw == ours.image_hw == ((300, 300) if name == "small" else (96, 160))
    detector = load_detector(checkpoint).detector
    assert ours.parameters == sum(p.numel() for p in detector.parameters())
    # A batch norm of C channels has 2 C parameters; folded, the convolution has C biases.
    assert 0.98 * ours.parameters < exported.parameters < ours.parameters


def test_operators_are_counted(small_graph: Path) -> None:
    nodes = inspect(small_graph).nodes
    assert nodes is not None
    model = onnx.load(small_graph)
    assert nodes.operators == Counter(node.op_type for node in model.graph.node)
    assert list(nodes.operators.values()) == sorted(nodes.operators.values(), reverse=True)
    assert nodes.opsets == {"": 18} and nodes.ir_version == 8
    assert [value.name for value in nodes.outputs] == ["boxes", "scores", "labels", "num_dets"]
    assert nodes.outputs[0].shape == ("batch", 200, 4)


def test_accuracy_is_that_of_the_newest_record_of_this_very_file(in_run: Path) -> None:
    checkpoint, graph = in_run / "small.pth", in_run / "small.onnx"
    assert inspect(checkpoint).measured is None
    record_eval(in_run, "eval-other-1", 0.9, checkpoint_sha256="0" * 64)
    assert inspect(checkpoint).measured is None
    record_eval(in_run, "eval-small-1", 0.31, checkpoint_sha256=sha256(checkpoint))
    found = inspect(checkpoint).measured
    assert found is not None
    assert (found.ap, found.dataset, found.images) == (0.31, "BCCD", 87)
    of_graph = inspect(graph).measured
    assert of_graph is not None and (of_graph.of, of_graph.ap) == ("its checkpoint", 0.31)
    both = {"checkpoint_sha256": sha256(checkpoint), "graph_sha256": sha256(graph)}
    record_eval(in_run, "eval-small-2", 0.29, **both)
    of_graph, of_checkpoint = inspect(graph).measured, inspect(checkpoint).measured
    assert of_graph is not None and (of_graph.of, of_graph.ap) == ("this file", 0.29)
    assert of_checkpoint is not None and of_checkpoint.ap == 0.31


def test_records_that_are_none_say_nothing(in_run: Path) -> None:
    broken = in_run.parent / "record.json"
    broken.write_text("{")
    assert inspect(in_run / "small.pth").measured is None


def test_an_int8_graph_says_by_which_accuracy_it_was_chosen(in_run: Path) -> None:
    sidecar = in_run / "small.onnx.json"
    content = json.loads(sidecar.read_text())
    stated: dict[str, Any] = {"ap": 0.27, "dataset": "BCCD", "val_images": 87}
    sidecar.write_text(json.dumps({**content, "quantization": stated}))
    found = inspect(in_run / "small.onnx").measured
    assert found is not None and (found.ap, found.of) == (0.27, "this file")
    for wrong in ([], {}, {**stated, "ap": "high"}, {**stated, "dataset": 3}):
        sidecar.write_text(json.dumps({**content, "quantization": wrong}))
        assert inspect(in_run / "small.onnx").measured is None


def foreign(**changes: Any) -> onnx.ModelProto:
    """Return a convolution of 16 kernels [3,3,3], and a matrix product, by another tool."""
    declare = helper.make_tensor_value_info
    sides = changes.get("sides", [1, 3, 20, 30])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
            helper.make_node("ReduceMean", ["maps"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["mean", "matrix"], ["scores"], transB=1),
        ],
        "net",
        [declare("picture", TensorProto.FLOAT, sides)],
        [declare("scores", TensorProto.FLOAT, ["n", 5])],
        [
            helper.make_tensor("kernel", TensorProto.FLOAT, [16, 3, 3, 3], [1.0] * 432),
            helper.make_tensor("matrix", TensorProto.FLOAT, [5, 16], [float("-inf")] * 80),
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="other\x1b[2J"
    )


def test_a_graph_of_another_tool_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(foreign(), path)
    card = inspect(path)
    assert card.kind == "foreign graph" and card.metadata is None
    assert card.cost.parameters == 432 + 80
    assert card.cost.flops == 2 * (16 * 20 * 30 * 27 + 5 * 16)
    assert card.nodes is not None
    assert card.nodes.operators == {"Conv": 1, "ReduceMean": 1, "Gemm": 1}
    text = format_card(card)
    assert "picture float32 [1, 3, 20, 30]" in text
    assert "not measured" in text
    assert "\x1b" not in text
    onnx.save(foreign(sides=["n", 3, "h", "w"]), path)
    assert inspect(path).cost.flops is None
    assert "not counted" in format_card(inspect(path))


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "expected"),
    [
        ("Conv", ([1, 4, 8, 8], [6, 2, 3, 3]), {"group": 2}, 6 * 6 * 6 * 18),
        ("ConvTranspose", ([1, 4, 8, 8], [4, 6, 2, 2]), {"strides": [2, 2]}, 4 * 64 * 24),
        ("MatMul", ([1, 4, 8, 8], [1, 4, 8, 5]), {}, 4 * 8 * 5 * 8),
        ("Gemm", ([7, 3], [7, 5]), {"transA": 1}, 3 * 5 * 7),
    ],
)
def test_each_product_is_counted(
    op_type: str, shapes: tuple[list[int], list[int]], attributes: dict[str, Any], expected: int
) -> None:
    fed, stored = shapes
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", "w"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, fed)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, stored, bytes(4 * num(stored)), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert count_graph(model, (8, 8)).flops == 2 * expected


def num(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


@pytest.fixture(params=["small_checkpoint", "small_graph", "small_retinanet"])
def card(request: pytest.FixtureRequest) -> Card:
    return inspect(request.getfixturevalue(request.param))


def test_the_text_fits_a_terminal(card: Card) -> None:
    lines = format_card(card).splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first holds the path, however long
    assert lines[0].startswith("file ") and lines[-1].endswith(card.sha256)


def test_many_classes_are_shortened(small_graph: Path, change_graph: Callable[..., Path]) -> None:
    def rename(model: onnx.ModelProto) -> None:
        names = [f"class {number}" for number in range(40)]
        changes = {"num_classes": 40, "class_names": names, "category_ids": list(range(40))}
        for entry in model.metadata_props:
            if entry.key in changes:
                entry.value = json.dumps(changes[entry.key])

    card = inspect(change_graph(small_graph, rename))
    text = " ".join(format_card(card).split())
    assert "40: class 0, class 1, " in text and "class 9 and 30 more" in text
    assert card.as_dict()["metadata"]["class_names"][39] == "class 39"


def test_the_verb_prints_text_or_json(
    run_suite: Callable[..., Any], small_graph: Path, small_checkpoint: Path
) -> None:
    shown = run_suite("inspect", small_graph)
    assert shown.code == 0 and shown.stdout.startswith("file ")
    for path in (small_graph, small_checkpoint):
        plain = json.loads(run_suite("inspect", path, "--json").stdout)
        assert plain["schema"] == "suite.inspect/1"
        assert plain["sha256"] == sha256(path)
        assert plain["metadata"]["class_names"] == ["square", "circle", "ring"]
    missing = run_suite("inspect", "absent.onnx")
    assert (missing.code, missing.stderr) == (1, "suite: absent.onnx: no such graph\n")


def test_figures_of_a_sidecar_that_are_no_figures_are_not_shown(
    small_graph: Path, tmp_path: Path, run_suite: Callable[..., Any]
) -> None:
    graph = tmp_path / "small.onnx"
    graph.write_bytes(small_graph.read_bytes())
    sidecar = json.loads(Path(f"{small_graph}.json").read_text())
    for logits in (10**400, "0.1"):
        sidecar["parity"]["logits"] = logits
        Path(f"{graph}.json").write_text(json.dumps(sidecar))
        done = run_suite("inspect", str(graph))
        assert done.code == 0, done.stderr
        assert "the sidecar has other figures" in " ".join(done.stdout.split())
