"""PyTorch, ONNX Runtime and nothing answer alike: one type, boxes in pixels of the original."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.detector import Detector
from models.postprocess import PaddedDetections
from models.structures import Detections, Images
from suite.checkpoint import load_detector
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.device import Device, build_device
from suite.errors import InputError, MissingEnvironment
from suite.files import file_sha256
from suite.graph_session import GraphRuntime
from suite.recipe import load_recipe
from suite.recipe_sections import Resize
from suite.runtime import (
    build_model_device,
    load_detect,
    null_detect,
    postprocess_parameters,
    torch_detect,
    unpad,
)
from suite.sizing import build_sizing

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def cpu() -> Device:
    return build_device("cpu", "fp32")


@pytest.fixture(scope="module")
def images(small_photos: list[Path]) -> Images:
    """The two photos, of 200 x 400 and 330 x 120 (height x width)."""
    sizing = build_sizing(Resize())
    return collate([prepare_image(read_image(path), sizing) for path in small_photos]).images


@pytest.fixture
def changed(
    small_graph: Path, change_graph: Callable[[Path, Change], Path]
) -> Callable[[Change], Path]:
    """Write a changed copy of the small graph and return its path."""
    return partial(change_graph, small_graph)


def set_metadata(model: onnx.ModelProto, **values: object) -> None:
    for entry in model.metadata_props:
        if entry.key in values:
            entry.value = json.dumps(values[entry.key])


def as_rows(found: Detections) -> set[tuple[int, ...]]:
    """Return detections as label and box in whole pixels, which rounding hardly ever moves."""
    boxes = found.boxes_xyxy.round().int().tolist()
    return {(label, *box) for label, box in zip(found.labels.tolist(), boxes, strict=True)}


def test_checkpoint_and_graph_answer_alike(
    small_checkpoint: Path, small_graph: Path, cpu: Device, images: Images
) -> None:
    ours = load_detect(small_checkpoint, device=cpu)
    theirs = load_detect(small_graph, device=cpu)
    assert ours.sizing == theirs.sizing == build_sizing(Resize())
    assert ours.class_names == theirs.class_names == ("square", "circle", "ring")
    assert ours.category_ids == theirs.category_ids == (3, 5, 9)
    for one, other in zip(ours.detect(images), theirs.detect(images), strict=True):
        assert len(one.scores) > 20
        assert len(as_rows(one) & as_rows(other)) > 0.9 * len(one.scores)
        for found in (one, other):
            assert found.boxes_xyxy.dtype == found.scores.dtype == torch.float32
            assert found.labels.dtype == torch.int64
            assert found.boxes_xyxy.shape == (len(found.scores), 4)
            assert (found.scores.diff() <= 0).all() and found.scores.min() > 0.05
            assert found.labels.min() >= 0 and found.labels.max() <= 2


@pytest.mark.parametrize("suffix", [".pth", ".onnx"])
def test_boxes_are_in_pixels_of_the_original(
    small_checkpoint: Path, small_graph: Path, cpu: Device, images: Images, suffix: str
) -> None:
    path = {".pth": small_checkpoint, ".onnx": small_graph}[suffix]
    detect = load_detect(path, device=cpu).detect
    square = replace(images, original_hw=torch.full((2, 2), 300))
    for found, plain, (height, width) in zip(
        detect(images), detect(square), images.original_hw.tolist(), strict=True
    ):
        factors = torch.tensor([width, height, width, height]) / 300
        torch.testing.assert_close(found.boxes_xyxy, plain.boxes_xyxy * factors)
        assert found.boxes_xyxy[:, 2].max() <= width
        assert found.boxes_xyxy[:, 3].max() <= height


def test_boxes_are_scaled_by_the_picture_and_end_at_its_edges() -> None:
    images = Images(
        torch.zeros(2, 3, 64, 128, dtype=torch.uint8),
        torch.zeros(2, 3, 4),
        original_hw=torch.tensor([[100, 220], [64, 128]]),
        resized_hw=torch.tensor([[50, 100], [64, 128]]),
    )
    boxes = torch.tensor([[[10.0, 20, 30, 40], [90, 45, 128, 64], [-1, -2, 3, 4]]]).repeat(2, 1, 1)
    labels = torch.tensor([[0, 1, 2], [2, 1, 0]])
    first, second = unpad([boxes, boxes[..., 0], labels, torch.tensor([3, 2])], images)
    expected = [[22, 40, 66, 80], [198, 90, 220, 100], [0, 0, 6.6, 8]]
    torch.testing.assert_close(first.boxes_xyxy, torch.tensor(expected))
    torch.testing.assert_close(second.boxes_xyxy, boxes[1, :2])
    assert (first.labels.tolist(), second.labels.tolist()) == ([0, 1, 2], [2, 1])


@pytest.mark.parametrize("mode", ["pad", "fixed"])
def test_boxes_come_back_to_where_they_were(small_photos: list[Path], mode: str) -> None:
    sizing = build_sizing(Resize(mode=mode, short_side=67, long_side=130))  # type: ignore[arg-type]
    boxes = np.array([[0, 0, 11, 7], [20.5, 30, 100, 110]], np.float32)
    photos = [read_image(path) for path in small_photos]
    examples = [prepare_image(photo, sizing, boxes_xyxy=boxes) for photo in photos]
    shown = torch.stack([torch.from_numpy(example.boxes_xyxy) for example in examples])
    rest = torch.zeros(2, 2), torch.zeros(2, 2).long(), torch.tensor([2, 2])
    labelled = [replace(example, labels=np.zeros(2, np.int64)) for example in examples]
    for found in unpad([shown, *rest], collate(labelled).images):
        np.testing.assert_allclose(found.boxes_xyxy, boxes, rtol=1e-6, atol=1e-5)


def test_a_network_is_told_the_size_of_its_input(cpu: Device) -> None:
    """A picture of 80 x 60 within 96 x 64: what is found on all of it is found on all of it."""

    class Everything(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

        def detect(
            self, outputs: torch.Tensor, parameters: object, *, image_hw: tuple[int, int]
        ) -> PaddedDetections:
            height, width = image_hw
            box = torch.tensor([[[0.0, 0, width, height]]])
            found = outputs[:, 0].count_nonzero().view(1, 1).float()
            return box, found, torch.zeros(1, 1).long(), torch.ones(1).long()

        detect_as_published = detect

    sizing = build_sizing(Resize(mode="pad", short_side=60, long_side=100))
    white = np.full((160, 120, 3), 255, np.uint8)
    batch = collate([prepare_image(white, sizing)])
    assert batch.images.pixels.shape == (1, 3, 96, 64)
    detector = cast(Detector, Everything())
    parameters = postprocess_parameters(load_recipe("demo"))
    (found,) = torch_detect(detector, parameters, cpu)(batch.images)
    assert found.boxes_xyxy.tolist() == [[0, 0, 120, 160]]
    assert found.scores.tolist() == [80 * 60]


def test_nothing_detects_nothing_in_the_same_form(images: Images) -> None:
    found = null_detect(torch.device("cpu"))(images)
    assert len(found) == 2
    assert found[0].boxes_xyxy.shape == (0, 4)
    assert found[0].scores.shape == found[0].labels.shape == (0,)
    assert found[0].labels.dtype == torch.int64


@pytest.fixture
def torch_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU that torch can use."""
    monkeypatch.setattr("suite.device.cuda_problem", lambda: None)
    monkeypatch.setattr("suite.device._select", lambda kind, index: torch.device(kind, index))


@pytest.mark.usefixtures("torch_has_cuda")
@pytest.mark.parametrize(
    ("provider", "kind"), [("CUDAExecutionProvider", "cuda"), ("CPUExecutionProvider", "cpu")]
)
def test_auto_is_what_the_models_own_runtime_can_use(
    provider: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    assert build_model_device(Path("model.onnx"), "auto").kind == kind
    assert build_model_device(Path("model.pth"), "auto").kind == "cuda"


def test_auto_is_the_cpu_where_torch_has_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.device.cuda_problem", lambda: "device cuda: no driver")
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    assert build_model_device(Path("model.onnx"), "auto").kind == "cpu"


@pytest.mark.usefixtures("torch_has_cuda")
def test_a_device_asked_for_is_never_replaced(small_graph: Path) -> None:
    device = build_model_device(small_graph, "cuda")
    with pytest.raises(MissingEnvironment, match="no CUDAExecutionProvider"):
        load_detect(small_graph, device=device)


def test_records_say_what_was_loaded(
    small_checkpoint: Path, small_graph: Path, cpu: Device
) -> None:
    recipe = load_detector(small_checkpoint).recipe
    ours = load_detect(small_checkpoint, device=cpu)
    theirs = load_detect(small_graph, device=cpu)
    assert ours.subject["detector"] == "ssd_r34"
    assert ours.subject["width"] == 0.125
    assert ours.subject["dataset"] == recipe.data.name
    assert ours.subject["recipe"] == "small"
    assert ours.subject["checkpoint_sha256"] == file_sha256(small_checkpoint)
    assert theirs.subject == {**ours.subject, "graph_sha256": file_sha256(small_graph)}
    assert ours.runtime == "torch cpu"
    assert theirs.runtime == "onnxruntime CPUExecutionProvider"


def test_a_graph_is_fed_as_its_own_metadata_says(
    changed: Callable[[Change], Path], small_graph: Path, cpu: Device, images: Images
) -> None:
    """Zero mean, unit deviation and no scale: what arrives is the bytes themselves."""

    def feed_bytes(model: onnx.ModelProto) -> None:
        (entry,) = [e for e in model.metadata_props if e.key == "input"]
        fed = json.loads(entry.value) | {"scale": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]}
        set_metadata(model, input=fed)

    (first, _) = load_detect(changed(feed_bytes), device=cpu).detect(images)
    session = onnxruntime.InferenceSession(small_graph.read_bytes())
    (scores,) = session.run(["scores"], {"images": images.pixels.float().numpy()})
    np.testing.assert_allclose(first.scores, scores[0, : len(first.scores)], atol=1e-4)
    assert not scores[0, len(first.scores) :].any()


def test_raw_heads_do_not_detect(small_raw_graph: Path, cpu: Device) -> None:
    with pytest.raises(InputError, match=r"raw.onnx: holds raw heads .* --nms op"):
        load_detect(small_raw_graph, device=cpu)


def test_labels_that_are_no_class_are_refused(
    changed: Callable[[Change], Path], cpu: Device, images: Images
) -> None:
    path = changed(
        lambda model: set_metadata(model, num_classes=1, class_names=["square"], category_ids=[3])
    )
    detect = load_detect(path, device=cpu).detect
    with pytest.raises(InputError, match="labels outside of its 1 classes"):
        detect(images)


def test_counts_beyond_the_rows_are_refused(
    changed: Callable[[Change], Path], cpu: Device, images: Images
) -> None:
    def negate(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if "num_dets" in n.output]
        node.output[0] = "count"
        none = onnx.numpy_helper.from_array(np.array([0]), "none")
        model.graph.initializer.append(none)
        model.graph.node.append(onnx.helper.make_node("Sub", ["none", "count"], ["num_dets"]))

    detect = load_detect(changed(negate), device=cpu).detect
    with pytest.raises(InputError, match="a count of detections beyond its rows"):
        detect(images)


def test_an_answer_of_another_shape_than_promised_is_refused(
    changed: Callable[[Change], Path], cpu: Device, images: Images
) -> None:
    def shorten(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if "labels" in n.output]
        node.output[0] = "all_labels"
        for name, number in (("from", 0), ("to", 50), ("axis", 1)):
            tensor = onnx.numpy_helper.from_array(np.array([number]), name)
            model.graph.initializer.append(tensor)
        inputs = ["all_labels", "from", "to", "axis"]
        model.graph.node.append(onnx.helper.make_node("Slice", inputs, ["labels"]))

    detect = load_detect(changed(shorten), device=cpu).detect
    with pytest.raises(InputError, match=r"changed.onnx: answers with 'labels' of shape \[2, 50\]"):
        detect(images)


def test_a_graph_that_onnxruntime_refuses_is_named(
    changed: Callable[[Change], Path], cpu: Device, capfd: pytest.CaptureFixture[str]
) -> None:
    def misspell(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute[0].name = "misspelt"

    with pytest.raises(InputError, match=r"changed.onnx: ONNX Runtime refuses it \(.*misspelt"):
        load_detect(changed(misspell), device=cpu)
    assert capfd.readouterr().err == ""


def test_a_graph_that_fails_when_it_runs_is_named(
    changed: Callable[[Change], Path], cpu: Device, images: Images
) -> None:
    def look_too_far(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if "labels" in n.output]
        node.output[0] = "all_labels"
        far = onnx.numpy_helper.from_array(np.full(200, 10**6), "far")
        model.graph.initializer.append(far)
        inputs = ["all_labels", "far"]
        model.graph.node.append(onnx.helper.make_node("Gather", inputs, ["labels"], axis=1))

    with pytest.raises(InputError, match=r"changed.onnx: fails when it runs"):
        load_detect(changed(look_too_far), device=cpu).detect(images)


def test_the_provider_of_another_device_is_not_replaced(small_graph: Path) -> None:
    cuda = Device("cuda", torch.device("cpu"), "fp32")
    with pytest.raises(MissingEnvironment, match=r"no CUDAExecutionProvider .* --device cpu"):
        load_detect(small_graph, device=cuda)


def test_a_provider_that_falls_back_is_noticed(
    small_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "get_available_providers",
        lambda: ["CANNExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda content, options, providers, enable_fallback: session(content, options),
    )
    npu = Device("npu", torch.device("cpu"), "fp32")
    with pytest.raises(MissingEnvironment, match=r"asked for CANN.* fell back to CPU"):
        load_detect(small_graph, device=npu)


@given(
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_bytes_changed_anywhere_end_in_an_answer_or_one_sentence(
    small_graph: Path,
    tmp_path: Path,
    cpu: Device,
    images: Images,
    places: list[float],
    byte: int,
    cut: bool,
) -> None:
    content = bytearray(small_graph.read_bytes())
    # Nodes come first, then weights, then metadata; half of the changes go to the 40 kB of nodes.
    spans = [len(content) if place > 0.5 else 40_000 for place in places]
    for place, span in zip(places, spans, strict=True):
        content[int(place * span)] = byte
    path = tmp_path / "mutated.onnx"
    path.write_bytes(content[: int(places[0] * len(content))] if cut else content)
    try:
        load_detect(path, device=cpu, runtime=GraphRuntime(threads=1)).detect(images)
    except InputError as error:
        assert "\n" not in str(error)
