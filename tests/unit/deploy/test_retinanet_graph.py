"""RetinaNet as a graph: any size it is asked for, the sizes it refuses, and what verify notices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from models.structures import Images
from suite.checkpoint import TrainedDetector, load_detector
from suite.deploy.description import GraphRequest, describe_graph
from suite.deploy.export import export
from suite.deploy.pairing import PairingLimits, pair_detections
from suite.deploy.stages import split_rows
from suite.deploy.verify import Comparison, verify
from suite.device import build_device
from suite.errors import CheckFailed, InputError, UsageError
from suite.graph_file import check_size, load_graph
from suite.runtime import load_detect, postprocess_parameters

Change = Callable[[onnx.ModelProto], None]
LIMITS = PairingLimits(score_threshold=0.05, iou_threshold=0.5, max_detections=700)


@pytest.fixture(scope="module")
def trained(small_retinanet: Path) -> TrainedDetector:
    return load_detector(small_retinanet)


@pytest.fixture(scope="module")
def session(small_retinanet_graph: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(small_retinanet_graph, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def fixed_graph(small_retinanet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same detector, for inputs of 128 x 192 alone."""
    path = tmp_path_factory.mktemp("fixed") / "fixed.onnx"
    return export(small_retinanet, GraphRequest(size=(128, 192)), output=path)[0]


def smooth_noise(num_images: int, image_hw: tuple[int, int]) -> Tensor:
    coarse = torch.randn(num_images, 3, 9, 9, generator=torch.Generator().manual_seed(num_images))
    return torch.nn.functional.interpolate(coarse, size=image_hw, mode="bicubic")


def compare(session: onnxruntime.InferenceSession, trained: TrainedDetector, pixels: Tensor) -> int:
    """Hold a graph's answer against PyTorch's and return the number of detections."""
    parameters = postprocess_parameters(trained.recipe)
    height, width = pixels.shape[2:]
    with torch.inference_mode():
        outputs = trained.detector(pixels)
        expected = trained.detector.detect(outputs, parameters, image_hw=(height, width))
    found = list(session.run(None, {"images": pixels.numpy()}))
    assert [part.shape for part in found] == [tuple(part.shape) for part in expected]
    pairs = zip(split_rows([v.numpy() for v in expected]), split_rows(found), strict=True)
    total = 0
    for ours, theirs in pairs:
        pairing = pair_detections(ours, theirs, LIMITS)
        assert pairing.unpaired == 0 and pairing.borderline <= 2
        total += pairing.total
    return total


# Free height and width


def test_anchors_are_computed_not_stored(small_retinanet_graph: Path) -> None:
    weights = onnx.load(small_retinanet_graph).graph.initializer
    assert max(tensor.dims[0] for tensor in weights if tensor.dims) <= 64


@pytest.mark.parametrize(
    ("num_images", "image_hw"),
    [
        (2, (256, 384)),  # what it was exported with
        (1, (96, 320)),
        (3, (320, 96)),
        (2, (64, 64)),  # the smallest it takes
        (1, (416, 352)),
    ],
)
def test_detections_are_those_of_pytorch_at_any_size(
    session: onnxruntime.InferenceSession,
    trained: TrainedDetector,
    num_images: int,
    image_hw: tuple[int, int],
) -> None:
    assert compare(session, trained, smooth_noise(num_images, image_hw)) > 10 * num_images


def test_metadata_says_that_sizes_are_free(
    small_retinanet_graph: Path, trained: TrainedDetector
) -> None:
    metadata = load_graph(small_retinanet_graph).metadata
    assert (metadata.image_hw, metadata.min_side) == ((), 64)
    assert metadata.detector == "retinanet_r18_fpn"
    assert metadata.resize == trained.recipe.resize
    assert "aspect ratio kept; zeros to the right and below" in metadata.input.resize
    sidecar = json.loads(Path(f"{small_retinanet_graph}.json").read_text(encoding="utf-8"))
    assert sidecar["image_hw"] == []
    assert sidecar["parity"]["unpaired"] == sidecar["parity"]["nms_differences"] == 0


def test_a_graph_is_its_checkpoint_on_lying_and_standing_photos(
    small_retinanet_graph: Path, small_retinanet: Path, small_photos: list[Path]
) -> None:
    parity = verify(small_retinanet_graph, small_retinanet, Comparison(images=small_photos))
    assert parity.failures() == []
    assert parity.num_images == 3 + len(small_photos)
    assert 0 < parity.logits < 1e-4 and 0 < parity.deltas < 1e-4
    # At 96 x 160 the levels have 6480, 1620, 405, 162 and 54 pairs, of which 700 go on.
    assert parity.candidates == 4 * (700 + 700 + 405 + 162 + 54)
    assert parity.nms_cases >= 12
    assert parity.detections > 100


def test_a_nan_image_gives_no_detection_and_clean_padding(
    session: onnxruntime.InferenceSession,
) -> None:
    pixels = smooth_noise(2, (96, 128))
    pixels[0] = float("nan")
    boxes_xyxy, scores, labels, num_dets = session.run(None, {"images": pixels.numpy()})
    assert num_dets[0] == 0 < num_dets[1]
    assert not boxes_xyxy[0].any() and not scores[0].any() and (labels[0] == -1).all()


def test_an_input_with_fewer_candidates_than_rows_is_refused(
    small_retinanet_graph: Path,
) -> None:
    detect = load_detect(small_retinanet_graph, device=build_device("cpu", "fp32")).detect
    for side, fits in ((64, True), (32, False)):
        sizes = torch.tensor([[side, side]])
        pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        images = Images(pixels, torch.zeros(1, 3, 4), sizes, sizes)
        if fits:
            assert len(detect(images)) == 1
            continue
        with pytest.raises(InputError) as caught:
            detect(images)
        assert str(caught.value) == (
            f"{small_retinanet_graph}: an input of 32x32 is too small, it takes at least 64 pixels "
            "each way: smaller ones may have fewer candidates than the 700 detections it answers "
            "with"
        )


def test_either_side_may_be_the_small_one(small_retinanet_graph: Path) -> None:
    metadata = load_graph(small_retinanet_graph).metadata
    check_size((64, 64), metadata, source="here")
    for image_hw in ((32, 640), (640, 32)):
        with pytest.raises(InputError, match=f"here: an input of {image_hw[0]}x{image_hw[1]} "):
            check_size(image_hw, metadata, source="here")


@pytest.mark.parametrize(
    ("num_classes", "max_detections", "min_side"),
    # A square of 32 has 9 * (16 + 4 + 1 + 1 + 1) anchors, one of 64 has 9 * 87.
    [(1, 207, 32), (1, 208, 64), (1, 700, 64), (4, 700, 32)],
)
def test_the_smallest_input_has_as_many_candidates_as_rows(
    trained: TrainedDetector, num_classes: int, max_detections: int, min_side: int
) -> None:
    recipe = trained.recipe
    postprocess = dataclasses.replace(recipe.postprocess, max_detections=max_detections)
    detector = type(trained.detector)(num_classes, depth=18, width=0.125)  # type: ignore[call-arg]
    changed = dataclasses.replace(
        trained,
        detector=detector,
        recipe=dataclasses.replace(
            recipe,
            postprocess=postprocess,
            detector=dataclasses.replace(recipe.detector, num_classes=num_classes),
        ),
    )
    assert describe_graph(changed, GraphRequest()).min_side == min_side


# A fixed size


def test_a_fixed_size_is_all_that_such_a_graph_takes(
    fixed_graph: Path, small_retinanet: Path, trained: TrainedDetector, small_photos: list[Path]
) -> None:
    graph = load_graph(fixed_graph)
    assert graph.metadata.image_hw == (128, 192)
    dims = graph.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims][1:] == [3, 128, 192]
    assert verify(fixed_graph, small_retinanet, Comparison(images=small_photos)).failures() == []
    session = onnxruntime.InferenceSession(fixed_graph, providers=["CPUExecutionProvider"])
    assert compare(session, trained, smooth_noise(2, (128, 192))) > 20
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        session.run(None, {"images": np.zeros((1, 3, 128, 160), np.float32)})


def test_fixed_and_free_graph_answer_alike(
    fixed_graph: Path, session: onnxruntime.InferenceSession
) -> None:
    pixels = smooth_noise(2, (128, 192)).numpy()
    fixed = onnxruntime.InferenceSession(fixed_graph, providers=["CPUExecutionProvider"])
    answers = [split_rows(runner.run(None, {"images": pixels})) for runner in (session, fixed)]
    for one, other in zip(*answers, strict=True):
        assert pair_detections(one, other, LIMITS).unpaired == 0


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("small_retinanet", "100x100", "--size 100x100: height and width are multiples of 32"),
        ("small_retinanet", "0x32", "--size 0x32: height and width are multiples of 32"),
        ("small_retinanet", "32x16416", "multiples of 32 up to 16384"),
        (
            "small_retinanet",
            "32x64",
            "--size 32x64: gives fewer candidates than postprocess.max_detections 700; "
            "at least 64 pixels each way",
        ),
        ("small_retinanet", "64", "'64': expected height x width, such as 800x1344"),
        ("small_retinanet", "64x-64", "expected height x width"),
        ("small_checkpoint", "320x320", "--size 320x320: ssd_r34 takes 300x300 only"),
    ],
)
def test_sizes_that_no_graph_can_have_are_refused(
    request: pytest.FixtureRequest,
    run_suite: Callable[..., Any],
    tmp_path: Path,
    model: str,
    size: str,
    words: str,
) -> None:
    checkpoint = request.getfixturevalue(model)
    target = tmp_path / "a.onnx"
    done = run_suite("export", checkpoint, "--size", size, "--output", target)
    assert (done.code, words in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_size_of_an_ssd_may_be_said(small_checkpoint: Path) -> None:
    trained = load_detector(small_checkpoint)
    said = describe_graph(trained, GraphRequest(size=(300, 300)))
    assert said == describe_graph(trained, GraphRequest())
    with pytest.raises(UsageError, match="takes 300x300 only"):
        describe_graph(trained, GraphRequest(size=(300, 332)))


# Raw heads


def test_raw_heads_are_those_of_pytorch_at_any_size(
    small_retinanet: Path, trained: TrainedDetector, tmp_path: Path
) -> None:
    graph, parity = export(small_retinanet, GraphRequest(nms="none"), output=tmp_path / "raw.onnx")
    assert (parity.nms_cases, parity.detections, parity.num_images) == (0, 0, 3)
    metadata = load_graph(graph).metadata
    assert metadata.image_hw == ()
    assert metadata.outputs.startswith("logits: before the sigmoid, no background")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for image_hw in ((256, 384), (64, 160), (224, 32)):
        pixels = smooth_noise(2, image_hw)
        with torch.inference_mode():
            expected = trained.detector(pixels)
        found = session.run(["logits", "deltas"], {"images": pixels.numpy()})
        assert found[0].shape == (2, trained.detector.num_anchors(image_hw), 3)
        for ours, theirs in zip(expected, found, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)
    with pytest.raises(InputError, match="holds raw heads"):
        load_detect(graph, device=build_device("cpu", "fp32"))


# What verify notices


@pytest.fixture
def tampered(
    small_retinanet_graph: Path, change_graph: Callable[[Path, Change], Path]
) -> Callable[[Change], Path]:
    """Write a changed copy of the free graph, without a sidecar, and return its path."""
    return partial(change_graph, small_retinanet_graph)


def scale(weights: onnx.TensorProto, factor: float) -> None:
    changed = onnx.numpy_helper.to_array(weights) * np.float32(factor)
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))


def test_weights_changed_by_a_percent_show_in_the_heads(
    tampered: Callable[[Change], Path], small_retinanet: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        name = "detector.neck.p7.weight"
        scale(next(w for w in model.graph.initializer if w.name == name), 1.01)

    failures = verify(tampered(change), small_retinanet).failures()
    assert failures[0].startswith("heads differ by ")
    assert not any("NMS" in failure or "candidates" in failure for failure in failures)


def test_anchors_of_one_level_changed_show_in_the_candidates(
    tampered: Callable[[Change], Path], small_retinanet: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        # The widths of P5's nine shapes.
        for weights in model.graph.initializer:
            values = onnx.numpy_helper.to_array(weights)
            if values.shape == (9,) and values.dtype == np.float32 and values[3] == 128:
                scale(weights, 1.01)

    failures = verify(tampered(change), small_retinanet).failures()
    assert "candidates have no counterpart" in failures[0]
    assert not any("heads" in failure or "NMS" in failure for failure in failures)


def test_a_stride_that_is_right_for_one_size_only_shows(
    tampered: Callable[[Change], Path], small_retinanet: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        # Cells of P7 as far apart as in an input of 256 x 384: not 128 but the whole of its side.
        for weights in model.graph.initializer:
            values = onnx.numpy_helper.to_array(weights)
            if values.shape == () and values.dtype == np.float32 and values == 128:
                scale(weights, 0.75)

    failures = verify(tampered(change), small_retinanet).failures()
    assert "candidates have no counterpart" in failures[0]


@pytest.mark.parametrize(("place", "value"), [(3, 0.51), (4, 0.06)], ids=["iou", "score"])
def test_a_changed_threshold_shows_in_the_nms_stage(
    tampered: Callable[[Change], Path], small_retinanet: Path, place: int, value: float
) -> None:
    def change(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if n.op_type == "NonMaxSuppression"]
        changed = onnx.numpy_helper.from_array(np.array([value], np.float32), "changed")
        model.graph.initializer.append(changed)
        node.input[place] = "changed"

    failures = verify(tampered(change), small_retinanet).failures()
    assert failures[0].startswith("NMS stage differs in ")


def test_a_free_graph_that_claims_one_size_is_refused(
    tampered: Callable[[Change], Path], small_retinanet: Path
) -> None:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key == "image_hw":
                entry.value = "[256, 384]"
        for axis, size in ((2, 256), (3, 384)):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    # Its anchors still follow the images, which the graph of one size does not need for them.
    with pytest.raises(InputError, match="ONNX Runtime refuses it"):
        verify(tampered(change), small_retinanet)


def test_the_graph_of_another_detector_is_no_comparison(
    small_retinanet_graph: Path, small_checkpoint: Path
) -> None:
    with pytest.raises(CheckFailed, match=r"they differ in .*image_hw"):
        verify(small_retinanet_graph, small_checkpoint)
