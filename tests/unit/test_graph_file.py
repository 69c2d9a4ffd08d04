"""Graph files that are damaged, hostile or another's get one sentence, and open no other file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.errors import InputError
from suite.graph_file import check_answer, load_graph
from suite.graph_metadata import encode_metadata, parse_metadata

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def changed(
    small_graph: Path, change_graph: Callable[[Path, Change], Path]
) -> Callable[[Change], Path]:
    """Write a changed copy of the small graph and return its path."""
    return partial(change_graph, small_graph)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_graph(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message.removeprefix(str(path))


def properties_of(graph: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(graph).metadata_props}


def test_what_was_exported_is_read_back(small_graph: Path) -> None:
    graph = load_graph(small_graph)
    assert graph.metadata.class_names == ("square", "circle", "ring")
    assert graph.metadata.category_ids == (3, 5, 9)
    assert graph.metadata.image_hw == (300, 300)
    assert graph.metadata.postprocess.pre_topk == 300
    assert graph.metadata.nms == "op"
    assert graph.model.opset_import[0].version == graph.metadata.opset == 18
    assert graph.model.ir_version == graph.metadata.ir_version == 8


def test_metadata_survives_writing_and_reading(small_graph: Path) -> None:
    metadata = load_graph(small_graph).metadata
    written = {key: json.dumps(value) for key, value in encode_metadata(metadata).items()}
    assert parse_metadata(written, source="here") == metadata
    assert parse_metadata(written | {"added": "by another tool"}, source="here") == metadata


def test_files_that_are_no_graph_are_refused(tmp_path: Path, small_graph: Path) -> None:
    path = tmp_path / "model.onnx"
    assert refusal(path) == ": no such graph"
    path.write_bytes(b"\x08\x08 this is not protobuf")
    assert "not an ONNX file" in refusal(path)
    path.write_bytes(b"")
    assert "no suite metadata" in refusal(path)
    path.write_bytes(small_graph.read_bytes()[:-100])
    assert "cut short" in refusal(path)


def test_a_file_too_large_for_protobuf_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    path.touch()
    os.truncate(path, 3 * 2**30)  # a hole, without a block on the disk
    assert "3,221,225,472 bytes" in refusal(path)


def refer(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "weights.bin"])
def test_tensors_in_other_files_are_refused(
    changed: Callable[[Change], Path], location: str
) -> None:
    path = changed(lambda model: refer(model.graph.initializer[0], location))
    assert "refers to tensors in other files" in refusal(path)


def test_tensors_in_other_files_are_found_in_branches_and_functions(
    changed: Callable[[Change], Path],
) -> None:
    def hide_in_branch(model: onnx.ModelProto) -> None:
        node = model.graph.node.add(op_type="If", input=["x"], output=["y"])
        branch = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        refer(branch.g.node.add(op_type="Constant").attribute.add(name="value").t, "../secret")

    def hide_in_function(model: onnx.ModelProto) -> None:
        constant = model.functions.add(name="f").node.add(op_type="Constant")
        refer(constant.attribute.add(name="value").tensors.add(), "../secret")

    def hide_in_sparse(model: onnx.ModelProto) -> None:
        refer(model.graph.sparse_initializer.add().values, "../secret")

    for hide in (hide_in_branch, hide_in_function, hide_in_sparse):
        assert "refers to tensors in other files" in refusal(changed(hide))


def test_graphs_of_others_are_refused(changed: Callable[[Change], Path]) -> None:
    def forget(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    assert "not a graph exported by this suite" in refusal(changed(forget))


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("class_names", None, "'class_names' is missing or not JSON"),
        ("class_names", "[oops", "'class_names' is missing or not JSON"),
        ("class_names", "[" * 100_000, "'class_names' is missing or not JSON"),
        ("class_names", '["square", "circle"]', "is 3, but class_names are not as many"),
        ("class_names", '["square", null, "ring"]', "class_names[1]: expected text, got null"),
        ("class_names", '["square", "\\u001b[2J", "ring"]', "without control characters"),
        ("category_ids", "[3, 5]", "is 3, but category_ids are not as many"),
        ("category_ids", "[3, 5, -9]", "category_ids[2]: expected at least 0"),
        ("category_ids", "[3, 5, 1" + "0" * 5000 + "]", "missing or not JSON"),
        ("image_hw", "[300]", "image_hw: expected height and width"),
        ("image_hw", "[300, 1000000]", "expected from 1 to 16384"),
        ("image_hw", '"300"', "image_hw: expected a list"),
        ("num_classes", "0", "num_classes: expected at least 1"),
        ("num_classes", "true", "num_classes: expected an integer"),
        ("nms", '"maybe"', "nms: expected one of op, none"),
        ("input", "{}", "input.name: missing"),
        ("postprocess", "[]", "postprocess: expected the keys"),
        ("width", "NaN", "width: expected a finite number"),
        ("checkpoint_sha256", '"abc"', "expected 64 hexadecimal digits"),
        ("schema", '"suite.graph/1"', "exported by another version of this suite"),
        ("schema", '"another.graph/2"', "not a graph exported by this suite"),
        ("num_logits", "0", "num_logits: expected at least 1"),
    ],
)
def test_damaged_metadata_is_named(
    small_graph: Path, key: str, text: str | None, complaint: str
) -> None:
    properties = properties_of(small_graph)
    if text is None:
        del properties[key]
    else:
        properties[key] = text
    with pytest.raises(InputError) as caught:
        parse_metadata(properties, source="model.onnx")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("model.onnx: ") and "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_in_any_field_is_accepted_or_refused_in_one_sentence(
    small_graph: Path, data: st.DataObject
) -> None:
    properties = properties_of(small_graph)
    key = data.draw(st.sampled_from(sorted(properties)))
    value: Any = data.draw(JSON)
    try:
        parse_metadata(properties | {key: json.dumps(value)}, source="model.onnx")
    except InputError as error:
        assert "\n" not in str(error)


def test_inputs_and_outputs_must_be_those_of_the_metadata(
    changed: Callable[[Change], Path],
) -> None:
    def widen(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 512

    def retype(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8

    def rename(model: onnx.ModelProto) -> None:
        model.graph.output[1].name = "confidence"

    def shorten(model: onnx.ModelProto) -> None:
        model.graph.output[2].type.tensor_type.shape.dim[1].dim_value = 100

    def duplicate(model: onnx.ModelProto) -> None:
        model.graph.input.add().CopyFrom(
            onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1])
        )

    assert "'images' is absent or not float32 [any, 3, 300, 300]" in refusal(changed(widen))
    assert "'images' is absent or not float32" in refusal(changed(retype))
    assert "'scores' is absent or not float32 [any, 200]" in refusal(changed(rename))
    assert "'labels' is absent or not int64 [any, 200]" in refusal(changed(shorten))
    assert "2 inputs; its metadata speaks of 1" in refusal(changed(duplicate))


def test_a_graph_that_is_not_what_its_sidecar_was_written_for_is_refused(
    changed: Callable[[Change], Path], small_graph: Path
) -> None:
    def flip_one_weight(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    path = changed(flip_one_weight)
    load_graph(path)
    sidecar = Path(f"{path}.json")
    sidecar.write_bytes(Path(f"{small_graph}.json").read_bytes())
    assert "not the file that was verified" in refusal(path)
    for content in ("", "[]", '{"sha": 1}', "[" * 100_000, "\udcff"):
        sidecar.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=r"changed.onnx.json: damaged"):
            load_graph(path)


def test_answers_are_held_against_the_metadata(small_graph: Path) -> None:
    metadata = load_graph(small_graph).metadata
    sound = [np.zeros(shape) for shape in [(2, 200, 4), (2, 200), (2, 200), (2,)]]
    check_answer(sound, metadata, num_images=2, source="here")
    for place, shape in enumerate([(2, 200, 5), (1, 200), (2, 100), (2, 1)]):
        wrong = [*sound[:place], np.zeros(shape), *sound[place + 1 :]]
        with pytest.raises(InputError, match="here: answers with"):
            check_answer(wrong, metadata, num_images=2, source="here")
