"""What an exported graph looks like from outside, and that it computes what PyTorch computes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from suite.checkpoint import TrainedDetector, load_detector
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph, cut_graph
from suite.deploy.pairing import PairingLimits, pair_detections
from suite.deploy.stages import split_rows
from suite.errors import InputError
from suite.runtime import postprocess_parameters


@pytest.fixture(scope="module")
def trained(small_checkpoint: Path) -> TrainedDetector:
    return load_detector(small_checkpoint)


def run_graph(model: bytes, pixels: torch.Tensor) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": pixels.numpy()}))


def smooth_noise(num_images: int) -> torch.Tensor:
    coarse = torch.randn(num_images, 3, 9, 9, generator=torch.Generator().manual_seed(num_images))
    return torch.nn.functional.interpolate(coarse, size=(300, 300), mode="bicubic")


def describe_signature(model: onnx.ModelProto) -> str:
    def show(values: list[onnx.ValueInfoProto]) -> list[str]:
        lines = []
        for value in values:
            tensor = value.type.tensor_type
            dims = [dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim]
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            lines.append(f"  {value.name} {kind} [{', '.join(dims)}]")
        return lines

    operators = Counter(node.op_type for node in model.graph.node)
    lines = [f"opset {model.opset_import[0].version}, IR {model.ir_version}", "inputs"]
    lines += [*show(list(model.graph.input)), "outputs", *show(list(model.graph.output))]
    lines += ["operators", *(f"  {name} {count}" for name, count in sorted(operators.items()))]
    lines += ["metadata", *(f"  {entry.key}" for entry in model.metadata_props)]
    return "\n".join(lines) + "\n"


ALL = ("small_graph", "small_raw_graph", "small_retinanet_graph")


@pytest.mark.parametrize(
    ("graph", "name"), list(zip(ALL, ("ssd_r34", "ssd_r34_raw", "retinanet"), strict=True))
)
def test_signature(
    request: pytest.FixtureRequest, golden: Callable[[str, str], None], graph: str, name: str
) -> None:
    model = onnx.load(request.getfixturevalue(graph))
    golden(f"{name}_signature.txt", describe_signature(model))


def test_one_nms_of_five_inputs_keeps_as_many_as_the_output_holds(small_graph: Path) -> None:
    model = onnx.load(small_graph)
    (nms,) = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    constants = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    most, iou, score = (constants[name].item() for name in nms.input[2:])
    assert most == 200
    assert (iou, score) == (np.float32(0.5), np.float32(0.05))


@pytest.mark.parametrize("graph", ALL)
def test_only_standard_operators_in_one_file(request: pytest.FixtureRequest, graph: str) -> None:
    model = onnx.load(request.getfixturevalue(graph), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert not any(weights.external_data for weights in model.graph.initializer)


@pytest.mark.parametrize("graph", ALL)
def test_nothing_in_the_file_speaks_of_the_machine_or_the_day(
    request: pytest.FixtureRequest, repository: Path, graph: str
) -> None:
    path = request.getfixturevalue(graph)
    model = onnx.load(path)
    for weights in model.graph.initializer:
        weights.ClearField("raw_data")  # random bytes spell anything
    content = model.SerializeToString()
    traces = [str(repository), str(Path.home()), str(path.parent), str(Path.cwd())]
    for trace in [*traces, "site-packages", ".py", "File ", "pkg.torch", "stack_trace"]:
        assert trace.encode() not in content
    assert re.search(rb"20\d\d-\d\d", content) is None


def test_a_second_build_elsewhere_gives_the_same_bytes(
    small_graph: Path,
    trained: TrainedDetector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    again = build_graph(trained, GraphRequest())
    assert again.SerializeToString(deterministic=True) == small_graph.read_bytes()


@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_detections_are_those_of_pytorch(
    small_graph: Path, trained: TrainedDetector, num_images: int
) -> None:
    parameters = postprocess_parameters(trained.recipe)
    pixels = smooth_noise(num_images)
    with torch.inference_mode():
        expected = trained.detector.detect(
            trained.detector(pixels), parameters, image_hw=(300, 300)
        )
    found = run_graph(small_graph.read_bytes(), pixels)
    limits = PairingLimits(score_threshold=0.05, iou_threshold=0.5, max_detections=200)
    pairs = zip(split_rows([v.numpy() for v in expected]), split_rows(found), strict=True)
    for ours, theirs in pairs:
        pairing = pair_detections(ours, theirs, limits)
        assert pairing.total > 20
        assert pairing.unpaired == 0 and pairing.borderline <= 2


def test_raw_heads_are_those_of_pytorch(small_raw_graph: Path, trained: TrainedDetector) -> None:
    pixels = smooth_noise(2)
    with torch.inference_mode():
        expected = trained.detector(pixels)
    found = run_graph(small_raw_graph.read_bytes(), pixels)
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


def test_a_nan_image_gives_no_detection_and_clean_padding(small_graph: Path) -> None:
    pixels = smooth_noise(2)
    pixels[0] = float("nan")
    boxes_xyxy, scores, labels, num_dets = run_graph(small_graph.read_bytes(), pixels)
    assert num_dets[0] == 0 < num_dets[1]
    assert not boxes_xyxy[0].any() and not scores[0].any() and (labels[0] == -1).all()


def test_a_part_of_a_graph_holds_only_what_it_needs(small_graph: Path) -> None:
    model = onnx.load(small_graph)
    part = cut_graph(model, inputs=("candidate_scores",), outputs=("candidate_scores",))
    assert not part.graph.node and not part.graph.initializer
    part = cut_graph(model, inputs=("logits", "deltas"), outputs=("candidate_boxes",))
    assert {"Conv", "NonMaxSuppression"}.isdisjoint(node.op_type for node in part.graph.node)
    session = onnxruntime.InferenceSession(part.SerializeToString())
    heads = {name: np.zeros((2, 8732, 4), np.float32) for name in ("logits", "deltas")}
    (boxes_xyxy,) = session.run(None, heads)
    assert boxes_xyxy.shape == (2, 300, 4)


def test_a_part_between_values_that_are_not_there_is_refused(small_graph: Path) -> None:
    model = onnx.load(small_graph)
    with pytest.raises(InputError, match="does not name its inner values"):
        cut_graph(model, inputs=("images",), outputs=("logits", "probabilities"))


def test_metadata_values_are_json(small_graph: Path, trained: TrainedDetector) -> None:
    values = {e.key: json.loads(e.value) for e in onnx.load(small_graph).metadata_props}
    assert values["class_names"] == ["square", "circle", "ring"]
    assert values["category_ids"] == [3, 5, 9]
    assert (values["image_hw"], values["min_side"]) == ([300, 300], 300)
    assert values["resize"] == {"mode": "stretch", "short_side": 300, "long_side": 300}
    assert values["input"]["resize"].endswith("aspect ratio not kept")
    assert values["outputs"].startswith("boxes: xyxy in pixels of the input")
    assert values["checkpoint_sha256"] == trained.sha256
    assert values["dataset"] == trained.recipe.data.name
    assert values["postprocess"] == {
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "max_detections": 200,
        "pre_topk": 300,
    }
