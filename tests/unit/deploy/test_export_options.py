"""What `suite export` can be asked for, and that ONNX Runtime finds it so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from suite.checkpoint import load_detector
from suite.data.collating import collate
from suite.data.preparing import prepare_image
from suite.data.transforms import MEAN, STD
from suite.deploy.description import GraphRequest, describe_graph
from suite.deploy.graph import build_graph
from suite.deploy.preparation import Preparation, to_image
from suite.device import build_device
from suite.errors import UsageError
from suite.graph_file import OUTPUT_NAMES, load_graph
from suite.graph_metadata import GraphInput
from suite.predict import detect_image
from suite.runtime import load_detect
from suite.sizing import Sizing
from tests.once import build_once

STRETCHED = Sizing(keep_ratio=False, short_side=300, long_side=300, canvases=((300, 300),))
FITTED = Sizing(keep_ratio=True, short_side=96, long_side=160, canvases=((96, 160),))
BYTES = GraphInput(
    name="images",
    layout="NHWC",
    dtype="uint8",
    colour="RGB",
    scale=1 / 255,
    mean=tuple(MEAN.tolist()),
    std=tuple(STD.tolist()),
    resize="",
)
KINDS = {
    "prepared": GraphRequest(prepare=True),
    "pairs": GraphRequest(batch=2),
    "thresholds": GraphRequest(runtime_thresholds=True, score_threshold=0.02),
    "half": GraphRequest(precision="fp16"),
    "opset16": GraphRequest(opset=16, prepare=True),
}

Image = NDArray[np.uint8]
Graphs = dict[str, Path]


def noise(*image_hw: int) -> Image:
    """The hardest to resize: neighbours have nothing in common."""
    return np.random.default_rng(image_hw).integers(0, 256, (*image_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize("sizing", [STRETCHED, FITTED])
@pytest.mark.parametrize(
    "image_hw", [(480, 640), (300, 300), (96, 160), (123, 77), (1080, 1920), (3000, 900), (1, 1)]
)
def test_the_graph_resizes_as_training_does(sizing: Sizing, image_hw: tuple[int, int]) -> None:
    image = noise(*image_hw)
    loaded = collate([prepare_image(image, sizing)]).images
    prepared, picture_hw = Preparation(sizing, BYTES)(torch.from_numpy(image)[None])
    assert picture_hw.tolist() == loaded.resized_hw[0].tolist()
    # One grey level would be 0.017.
    assert float((prepared - loaded.normalised()).abs().max()) < 2e-6


def test_boxes_come_back_in_pixels_of_the_image() -> None:
    boxes_xyxy = torch.tensor([[[10.0, 20.0, 30.0, 48.0], [0.0, 0.0, 160.0, 96.0]]])
    image_hw, picture_hw = torch.tensor([200.0, 100.0]), torch.tensor([96.0, 48.0])
    moved = to_image(boxes_xyxy, image_hw.double(), picture_hw.double())
    # x by 100/48, y by 200/96, and not beyond the image.
    expected = [[[20.8333, 41.6667, 62.5, 100.0], [0.0, 0.0, 100.0, 200.0]]]
    torch.testing.assert_close(moved, torch.tensor(expected), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Graphs:
    """A graph of the same checkpoint of each kind, and the plain one."""

    def build(folder: Path) -> None:
        trained = load_detector(small_checkpoint)
        for name, request in {"plain": GraphRequest(), **KINDS}.items():
            model = build_graph(trained, request)
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))

    folder = build_once(tmp_path_factory, "graphs-of-all-kinds", build)
    return {name: folder / f"{name}.onnx" for name in ("plain", *KINDS)}


@pytest.mark.parametrize("name", KINDS)
def test_a_graph_says_what_was_asked_for(graphs: Graphs, small_checkpoint: Path, name: str) -> None:
    graph = load_graph(graphs[name])
    assert graph.metadata == describe_graph(load_detector(small_checkpoint), KINDS[name])
    (entry,) = graph.model.opset_import
    assert entry.version == graph.metadata.opset == KINDS[name].opset


def run(path: Path, feed: dict[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs: Sequence[NDArray[Any]] = session.run(list(OUTPUT_NAMES), feed)
    return outputs


def prepare(*images: Image) -> NDArray[np.float32]:
    pixels = collate([prepare_image(image, STRETCHED) for image in images]).images.normalised()
    return np.asarray(pixels.numpy())


def test_a_graph_that_prepares_images_finds_what_the_others_do(graphs: Graphs) -> None:
    images = noise(240, 320), noise(240, 320)[::-1]
    theirs = run(graphs["plain"], {"images": prepare(*images)})
    ours = run(graphs["prepared"], {"images": np.stack(images)})
    scale = np.array([320, 240, 320, 240]) / 300
    np.testing.assert_array_equal(ours[3], theirs[3])
    assert ours[3].min() > 0
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)
    np.testing.assert_allclose(ours[0], theirs[0] * scale, atol=0.05)


def test_an_image_of_any_size_goes_in(graphs: Graphs) -> None:
    for image_hw in ((1, 1), (700, 80), (300, 300)):
        boxes_xyxy, _, _, num_dets = run(graphs["prepared"], {"images": noise(*image_hw)[None]})
        assert boxes_xyxy[..., 0::2].max() <= image_hw[1]
        assert boxes_xyxy[..., 1::2].max() <= image_hw[0]
        assert num_dets.shape == (1,)


def test_every_kind_detects_alike(graphs: Graphs) -> None:
    device = build_device("cpu", "fp32")
    image = noise(200, 260)
    plain = detect_image(load_detect(graphs["plain"], device=device), image)
    for name in ("prepared", "pairs", "opset16"):
        found = detect_image(load_detect(graphs[name], device=device), image)
        assert len(found.scores) == len(plain.scores)
        torch.testing.assert_close(found.scores, plain.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes_xyxy, plain.boxes_xyxy, atol=0.05, rtol=0)


def test_images_of_many_sizes_share_a_batch(graphs: Graphs) -> None:
    loaded = load_detect(graphs["prepared"], device=build_device("cpu", "fp32"))
    images = [noise(60, 90), noise(60, 90), noise(120, 50), noise(60, 90)]
    together = loaded.detect(
        collate([prepare_image(image, loaded.sizing) for image in images]).images
    )
    for image, found in zip(images, together, strict=True):
        alone = detect_image(loaded, image)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=0)


def test_thresholds_are_inputs_with_defaults(graphs: Graphs) -> None:
    images = prepare(noise(240, 320))
    default = run(graphs["thresholds"], {"images": images})
    assert default[1][default[1] > 0].min() > 0.02
    limit = float(np.median(default[1][default[1] > 0]))
    raised = {"images": images, "score_threshold": np.array([limit], np.float32)}
    scores = run(graphs["thresholds"], raised)[1]
    np.testing.assert_array_equal(scores[scores > 0], default[1][default[1] > limit])
    # Nothing is suppressed where boxes may overlap as they like.
    all_kept = run(
        graphs["thresholds"], {"images": images, "iou_threshold": np.ones(1, np.float32)}
    )
    assert all_kept[3] >= default[3]
    assert load_graph(graphs["thresholds"]).metadata.postprocess.score_threshold == 0.02


def test_half_of_the_bytes_and_the_same_promise(graphs: Graphs) -> None:
    plain, half = load_graph(graphs["plain"]), load_graph(graphs["half"])
    assert half.model.ByteSize() < 0.6 * plain.model.ByteSize()
    kinds = {tensor.data_type for tensor in half.model.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    inputs = {"images": prepare(noise(240, 320))}
    ours, theirs = run(graphs["half"], inputs), run(graphs["plain"], inputs)
    assert ours[1].dtype == np.float32
    np.testing.assert_allclose(ours[1][:, :5], theirs[1][:, :5], atol=5e-3)


def test_two_exports_are_equal_in_every_byte(graphs: Graphs, small_checkpoint: Path) -> None:
    again = build_graph(load_detector(small_checkpoint), KINDS["prepared"])
    assert again.SerializeToString(deterministic=True) == graphs["prepared"].read_bytes()


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (GraphRequest(opset=13), "--opset 13: 16 to 20 can be written"),
        (GraphRequest(nms="none", runtime_thresholds=True), "--nms none has no thresholds"),
        (GraphRequest(pre_topk=10), "--pre-topk 10: fewer candidates than --max-detections 200"),
    ],
)
def test_what_cannot_be_is_refused(
    small_checkpoint: Path, request_: GraphRequest, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        describe_graph(load_detector(small_checkpoint), request_)


def test_a_free_size_cannot_be_prepared_for(small_retinanet: Path) -> None:
    with pytest.raises(UsageError, match=r"--preprocess: needs a fixed size .* --size \d+x\d+"):
        describe_graph(load_detector(small_retinanet), GraphRequest(prepare=True))


@pytest.mark.parametrize("value", ["0", "x", "-1", "10000"])
def test_a_batch_is_a_number_or_dynamic(run_suite: Callable[..., Any], value: str) -> None:
    done = run_suite("export", "any.pth", "--batch", value)
    assert done.code == 2
    assert "or dynamic" in done.stderr
    assert json.dumps(value)[1:-1] in done.stderr
