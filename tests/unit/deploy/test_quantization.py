"""What is in an int8 graph, what is not, and that it is the same graph whoever makes it when."""

from __future__ import annotations

import copy
import hashlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.numpy_helper import to_array
from PIL import Image

from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.deploy.graph import INNER_NAMES, cut_graph
from suite.deploy.quantization import (
    Feed,
    calibrate,
    choose_images,
    describe_calibration,
    expand_blocks,
    list_blocks,
    prepare_feeds,
    quantize_graph,
)
from suite.errors import InputError
from suite.graph_file import HEAD_NAMES, INPUT_NAME, OUTPUT_NAMES, GraphFile, load_graph
from suite.sizing import build_sizing


@pytest.fixture(scope="module")
def graph(small_graph: Path) -> GraphFile:
    return load_graph(small_graph)


@pytest.fixture(scope="module")
def feeds(graph: GraphFile, small_photos: list[Path]) -> list[Feed]:
    return list(prepare_feeds(small_photos, graph.metadata))


@pytest.fixture(scope="module")
def quantised(graph: GraphFile, feeds: list[Feed]) -> onnx.ModelProto:
    return quantize_graph(graph.model, feeds)


def serialise(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def run_heads(model: onnx.ModelProto, feed: Feed, *, optimised: bool = True) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    part = cut_graph(model, inputs=[INPUT_NAME], outputs=HEAD_NAMES)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(list(HEAD_NAMES), feed))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def float_convolutions(model: onnx.ModelProto) -> set[str]:
    """Return the convolutions whose weights do not come from 8 bits."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and makers.get(node.input[1]) != "DequantizeLinear"
    }


def test_convolutions_alone_are_quantised(graph: GraphFile, quantised: onnx.ModelProto) -> None:
    before, after = (
        Counter(node.op_type for node in model.graph.node) for model in (graph.model, quantised)
    )
    added = {"QuantizeLinear", "DequantizeLinear"}
    changed = {kind for kind in before | after if before[kind] != after[kind]}
    assert changed == {*added, "Relu"}
    assert after["Relu"] < before["Relu"]  # merged with the convolution before them
    assert float_convolutions(quantised) == set()
    assert float_convolutions(graph.model) == {
        n for block in list_blocks(graph.model) for n in block
    }


def test_activations_are_unsigned_weights_signed_and_per_channel(
    quantised: onnx.ModelProto,
) -> None:
    values = {weight.name: weight for weight in quantised.graph.initializer}
    makers = {name: node for node in quantised.graph.node for name in node.output}
    zeros = {n.input[2] for n in quantised.graph.node if n.op_type == "QuantizeLinear"}
    assert {values[name].data_type for name in zeros} == {onnx.TensorProto.UINT8}
    for conv in (node for node in quantised.graph.node if node.op_type == "Conv"):
        weight, scale, zero = (values[name] for name in makers[conv.input[1]].input)
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        assert not to_array(zero).any()


def test_the_input_range_is_that_of_the_images(
    quantised: onnx.ModelProto, feeds: list[Feed]
) -> None:
    values = {weight.name: to_array(weight) for weight in quantised.graph.initializer}
    (entry,) = (n for n in quantised.graph.node if list(n.input[:1]) == [INPUT_NAME])
    low = min(feed[INPUT_NAME].min() for feed in feeds)
    high = max(feed[INPUT_NAME].max() for feed in feeds)
    scale, zero = values[entry.input[1]], values[entry.input[2]]
    assert scale == pytest.approx((high - low) / 255, rel=1e-6)
    assert int(zero) == round(-low / float(scale))


def test_heads_stay_near_and_nearer_with_more_float(
    graph: GraphFile, quantised: onnx.ModelProto, feeds: list[Feed]
) -> None:
    blocks = list_blocks(graph.model)
    half = quantize_graph(
        graph.model,
        feeds,
        float_nodes=[name for block in blocks[: len(blocks) // 2] for name in block],
    )
    errors = [
        [
            relative_error(found, expected)
            for found, expected in zip(
                run_heads(model, feeds[0]), run_heads(graph.model, feeds[0]), strict=True
            )
        ]
        for model in (quantised, half)
    ]
    assert all(0.001 < error < 0.3 for error in errors[0])
    assert all(less < more for less, more in zip(errors[1], errors[0], strict=True))


def test_fused_and_unfused_operators_agree(
    quantised: onnx.ModelProto, feeds: list[Feed], graph: GraphFile
) -> None:
    """ONNX Runtime fuses the pairs into integer operators; without, it computes what they say."""
    fused = run_heads(quantised, feeds[0])
    plain = run_heads(quantised, feeds[0], optimised=False)
    exact = run_heads(graph.model, feeds[0])
    for one, other, expected in zip(fused, plain, exact, strict=True):
        assert relative_error(one, other) < relative_error(one, expected)


def test_inner_names_and_outputs_stay(
    graph: GraphFile, quantised: onnx.ModelProto, feeds: list[Feed]
) -> None:
    assert list(quantised.graph.input) == list(graph.model.graph.input)
    assert list(quantised.graph.output) == list(graph.model.graph.output)
    part = cut_graph(quantised, inputs=[INPUT_NAME], outputs=INNER_NAMES + OUTPUT_NAMES)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    two = {INPUT_NAME: np.concatenate([feed[INPUT_NAME] for feed in feeds])}
    outputs = dict(zip(INNER_NAMES + OUTPUT_NAMES, session.run(None, two), strict=True))
    assert len(outputs["boxes"]) == 2
    assert outputs["candidate_scores"].dtype == np.float32


def test_nothing_else_of_the_model_changes(
    small_graph: Path, feeds: list[Feed], quantised: onnx.ModelProto
) -> None:
    original = onnx.load(small_graph)
    before = serialise(original)
    assert serialise(quantize_graph(original, feeds)) == serialise(quantised)
    assert serialise(original) == before
    for name in ("ir_version", "producer_name", "producer_version", "doc_string"):
        assert getattr(quantised, name) == getattr(original, name)
    assert list(quantised.metadata_props) == list(original.metadata_props)
    assert list(quantised.opset_import) == list(original.opset_import)
    assert quantised.graph.name == original.graph.name
    onnx.checker.check_model(quantised, full_check=True)
    assert len(serialise(quantised)) < 0.6 * len(before)


def test_ranges_kept_give_the_same_bytes_as_ranges_measured(
    graph: GraphFile, feeds: list[Feed], quantised: onnx.ModelProto
) -> None:
    with calibrate(graph.model, reversed(feeds)) as quantise:
        first, second = quantise(()), quantise(())
    assert serialise(first) == serialise(second) == serialise(quantised)


def test_named_convolutions_stay_float(graph: GraphFile, feeds: list[Feed]) -> None:
    names = {block[0] for block in list_blocks(graph.model)[1::7]}
    assert float_convolutions(quantize_graph(graph.model, feeds, float_nodes=names)) == names


def test_convolutions_that_share_weights_stay_float_together(
    small_retinanet_graph: Path, small_photos: list[Path]
) -> None:
    graph = load_graph(small_retinanet_graph)
    blocks = list_blocks(graph.model)
    shared = [block for block in blocks if len(block) > 1]
    assert {len(block) for block in shared} == {5}  # the levels of the pyramid
    model = quantize_graph(
        graph.model, prepare_feeds(small_photos, graph.metadata), float_nodes=[shared[2][3]]
    )
    assert float_convolutions(model) == set(shared[2])
    assert expand_blocks(blocks, [shared[2][3]]) == shared[2]
    # Each level has its own scale, and so its own bias.
    feed = next(prepare_feeds(small_photos, graph.metadata))
    for found, expected in zip(run_heads(model, feed), run_heads(graph.model, feed), strict=True):
        assert relative_error(found, expected) < 0.3


def makers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


@pytest.mark.parametrize("offset", [0, 1])
def test_what_stays_float_reads_what_nobody_rounded(
    graph: GraphFile, feeds: list[Feed], offset: int
) -> None:
    """Every second convolution stays float, so that many of them share an input with another."""
    before = {node.name: node for node in graph.model.graph.node}
    staying = {block[0] for block in list_blocks(graph.model)[offset::2]}
    model = quantize_graph(graph.model, feeds, float_nodes=staying)
    makers, rounded, shared = makers_of(model), 0, 0
    for node in model.graph.node:
        if node.name not in staying or node.op_type != "Conv":
            continue
        (wanted,) = before[node.name].input[:1]
        if node.input[0] == wanted:
            pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
            shared += any(n.input[0] == wanted for n in pairs)
            continue
        # Only where the one before it computes in 8 bits, and its result is rounded with it.
        source = makers[makers[makers[node.input[0]].input[0]].input[0]]
        assert source.op_type == "Conv" and source.name not in staying
        rounded += 1
    assert shared > 0
    assert rounded > 0
    assert float_convolutions(model) == staying


def test_thresholds_stay_inputs_and_nothing_is_said(
    graph: GraphFile, feeds: list[Feed], capfd: pytest.CaptureFixture[str]
) -> None:
    model = copy.deepcopy(graph.model)
    (suppression,) = [n for n in model.graph.node if n.op_type == "NonMaxSuppression"]
    for place, name in ((3, "iou_threshold"), (4, "score_threshold")):
        (baked,) = [t for t in model.graph.initializer if t.name == suppression.input[place]]
        baked.name = suppression.input[place] = name
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, [1]))
    found = quantize_graph(model, feeds[:1])
    assert [value.name for value in found.graph.input] == [
        "images",
        "iou_threshold",
        "score_threshold",
    ]
    assert capfd.readouterr() == ("", "")


def test_the_level_of_onnxruntime_is_left_alone(
    graph: GraphFile, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no way to ask for the level, so that nobody could set it back."""

    def refuse(level: int) -> None:
        raise AssertionError(level)

    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", refuse)
    quantize_graph(graph.model, feeds[:1])


def test_nothing_is_left_and_nothing_said(
    graph: GraphFile,
    feeds: list[Feed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    handlers, level = list(logging.getLogger().handlers), logging.root.manager.disable
    quantize_graph(graph.model, feeds[:1])
    assert list(tmp_path.iterdir()) == []
    assert (list(logging.getLogger().handlers), logging.root.manager.disable) == (handlers, level)
    assert capfd.readouterr() == ("", "")


def test_feeds_are_taken_one_at_a_time(graph: GraphFile, feeds: list[Feed]) -> None:
    alive = 0

    def watched() -> Iterator[Feed]:
        nonlocal alive
        for feed in feeds * 2:
            alive += 1
            yield feed

    with calibrate(graph.model, watched()) as quantise:
        assert alive == 0
        quantise(())
        assert alive == 2 * len(feeds)
        quantise(())
    assert alive == 2 * len(feeds)


def test_no_feeds_is_an_error(graph: GraphFile) -> None:
    with pytest.raises(ValueError, match="data"):
        quantize_graph(graph.model, [])


def test_feeds_are_what_the_loaders_make(graph: GraphFile, small_photos: list[Path]) -> None:
    sizing = build_sizing(graph.metadata.resize, canvas_hw=graph.metadata.image_hw)
    for path, feed in zip(small_photos, prepare_feeds(small_photos, graph.metadata), strict=True):
        expected = collate([prepare_image(read_image(path), sizing)]).images.normalised()
        np.testing.assert_allclose(feed[INPUT_NAME], expected.numpy(), atol=1e-5)


def test_feeds_do_what_the_metadata_say(graph: GraphFile, small_photos: list[Path]) -> None:
    """Word by word: bytes x scale, minus mean, divided by std."""
    contract = replace(
        graph.metadata.input, scale=1 / 128, mean=(1.0, 0.5, 0.25), std=(0.5, 2.0, 4.0)
    )
    metadata = replace(graph.metadata, input=contract)
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    for path, feed in zip(small_photos, prepare_feeds(small_photos, metadata), strict=True):
        pixels = collate([prepare_image(read_image(path), sizing)]).images.pixels.numpy()
        expected = pixels / 128
        for channel, (mean, std) in enumerate([(1.0, 0.5), (0.5, 2.0), (0.25, 4.0)]):
            expected[:, channel] = (expected[:, channel] - mean) / std
        np.testing.assert_allclose(feed[INPUT_NAME], expected, atol=1e-5)


def test_an_image_too_small_for_the_graph_is_named(
    small_retinanet_graph: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (300, 1)).save(tmp_path / "line.png")
    metadata = load_graph(small_retinanet_graph).metadata
    with pytest.raises(InputError, match=r"line.png: an input of 32x160 is too small"):
        list(prepare_feeds([tmp_path / "line.png"], metadata))


def test_padding_is_zero_and_sizes_are_free(
    small_retinanet_graph: Path, small_photos: list[Path]
) -> None:
    metadata = load_graph(small_retinanet_graph).metadata
    first, second = (feed[INPUT_NAME] for feed in prepare_feeds(small_photos, metadata))
    assert first.shape[2:] == (96, 160)  # of a picture of 80 x 160
    assert not first[:, :, 80:].any()
    assert first[:, :, :80].all()
    assert second.shape[2:] == (160, 64)  # of 160 x 58
    assert not second[..., 58:].any()


def test_a_fixed_batch_is_filled_up(graph: GraphFile, small_photos: list[Path]) -> None:
    metadata = replace(graph.metadata, batch=3)
    three = [*small_photos, *small_photos]
    alone = [feed[INPUT_NAME][0] for feed in prepare_feeds(three, graph.metadata)]
    first, second = (feed[INPUT_NAME] for feed in prepare_feeds(three, metadata))
    np.testing.assert_array_equal(first, np.stack(alone[:3]))
    np.testing.assert_array_equal(second, np.stack([alone[3]] * 3))


def test_a_graph_that_prepares_images_gets_them_as_they_are(
    graph: GraphFile, small_photos: list[Path]
) -> None:
    contract = replace(graph.metadata.input, layout="NHWC", dtype="uint8")
    metadata = replace(graph.metadata, input=contract, batch=2)
    for path, feed in zip(small_photos, prepare_feeds(small_photos, metadata), strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(feed[INPUT_NAME], np.stack([np.asarray(image)] * 2))


def test_calibration_images_are_named_by_their_content(small_photos: list[Path]) -> None:
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in small_photos)
    found = describe_calibration(small_photos, ("a", "b"))
    assert found.sha256 == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert (found.num_images, found.float_nodes) == (2, ("a", "b"))
    assert describe_calibration(small_photos[::-1], ()).sha256 == found.sha256
    assert describe_calibration(small_photos[:1], ()).sha256 != found.sha256


def test_images_are_chosen_evenly() -> None:
    paths = [Path(str(number)) for number in range(10)]
    assert choose_images(paths, 4) == [Path("0"), Path("2"), Path("5"), Path("7")]
    assert choose_images(paths, 100) == paths
