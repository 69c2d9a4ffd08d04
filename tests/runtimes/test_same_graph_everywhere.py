"""One graph in every runtime: the detections are those of ONNX Runtime on the CPU.

They are compared as sets, because scores a millionth apart may swap.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

from suite.data.transforms import STD
from suite.deploy.pairing import Pairing, PairingLimits, pair_detections
from suite.graph_file import INPUT_NAME, NETWORK_INPUT_NAME, OUTPUT_NAMES
from suite.graph_session import PROVIDERS, open_graph
from tests.runtimes.conftest import KINDS, Subject

pytestmark = pytest.mark.slow

Outputs = list[NDArray[np.generic]]
Run = Callable[[Subject, NDArray[np.generic], Path], Outputs]


def run_onnxruntime(subject: Subject, images: NDArray[np.generic], scratch: Path) -> Outputs:
    run = open_graph(subject.path.read_bytes(), source=str(subject.path))
    return run(OUTPUT_NAMES, {INPUT_NAME: images})


def run_cuda(subject: Subject, images: NDArray[np.generic], scratch: Path) -> Outputs:
    # `open_graph` refuses a session that runs on another provider.
    run = open_graph(subject.path.read_bytes(), source=str(subject.path), kind="cuda")
    return run(OUTPUT_NAMES, {INPUT_NAME: images})


def run_openvino(subject: Subject, images: NDArray[np.generic], scratch: Path) -> Outputs:
    # Left alone it computes in bf16 where the CPU has it.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(subject.path), "CPU", precise)
    assert compiled.get_property("EXECUTION_DEVICES") == ["CPU"]
    outputs = compiled({INPUT_NAME: images})
    return [np.array(outputs[name]) for name in OUTPUT_NAMES]


def run_in_node(
    module: Path, wasm: Path | None, subject: Subject, images: NDArray[np.generic], scratch: Path
) -> Outputs:
    images.tofile(scratch / "images")
    job = {
        "module": str(module),
        "wasm": wasm and str(wasm),
        "graph": str(subject.path),
        "input": {
            "file": str(scratch / "images"),
            "type": str(images.dtype),
            "dims": images.shape,
        },
        "folder": str(scratch),
    }
    script = Path(__file__).with_name("run_graph.mjs")
    done = subprocess.run(
        ["node", script], input=json.dumps(job), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return [
        np.fromfile(scratch / name, told[name]["type"]).reshape(told[name]["dims"])
        for name in OUTPUT_NAMES
    ]


@pytest.fixture
def run_node(npm_folder: Path) -> Run:
    module = npm_folder / "node_modules" / "onnxruntime-node" / "dist" / "index.js"
    return lambda *arguments: run_in_node(module, None, *arguments)


@pytest.fixture
def run_web(npm_folder: Path) -> Run:
    dist = npm_folder / "node_modules" / "onnxruntime-web" / "dist"
    wasm = dist / "ort-wasm-simd-threaded.wasm"
    return lambda *arguments: run_in_node(dist / "ort.wasm.min.mjs", wasm, *arguments)


def check_outputs(subject: Subject, outputs: Outputs) -> None:
    """Hold what a graph promises of its rows: types, order, padding."""
    boxes, scores, labels, num_dets = outputs
    assert [output.dtype for output in outputs] == ["float32", "float32", "int64", "int64"]
    rows = np.arange(scores.shape[1])
    for image, count in enumerate(num_dets):
        assert (np.diff(scores[image, :count]) <= 0).all()
        assert (scores[image, :count] > subject.graph.metadata.postprocess.score_threshold).all()
        assert (labels[image, :count] >= 0).all()
        assert (labels[image, :count] < subject.graph.metadata.num_classes).all()
        unused = rows >= count
        assert (boxes[image, unused] == 0).all()
        assert (scores[image, unused] == 0).all()
        assert (labels[image, unused] == -1).all()


def pair_outputs(
    subject: Subject, reference: Outputs, outputs: Outputs, *, slack: float = 1
) -> Pairing:
    postprocess = subject.graph.metadata.postprocess
    limits = PairingLimits(
        score_threshold=postprocess.score_threshold,
        iou_threshold=postprocess.iou_threshold,
        max_detections=postprocess.max_detections,
        max_score_difference=slack * 1e-4,
        max_box_difference=slack * 0.01,
        near_score=slack * 1e-4,
    )
    pairing = Pairing(0, 0, 0, 0)
    for image in range(len(reference[3])):
        first, second = (
            tuple(output[image, : answer[3][image]] for output in answer[:3])
            for answer in (reference, outputs)
        )
        pairing += pair_detections(first, second, limits)  # type: ignore[arg-type]
    return pairing


def check_runtime(
    run: Run, subject: Subject, num_images: int, scratch: Path, *, slack: float = 1
) -> None:
    images = subject.feed(num_images)
    reference = run_onnxruntime(subject, images, scratch)
    outputs = run(subject, images, scratch)
    assert [output.shape for output in outputs] == [output.shape for output in reference]
    check_outputs(subject, outputs)
    pairing = pair_outputs(subject, reference, outputs, slack=slack)
    # Else the test says nothing; what sits on a threshold is the exception.
    assert pairing.total > 30 * num_images
    assert pairing.unpaired == 0
    assert pairing.borderline <= 0.02 * pairing.total


batches = pytest.mark.parametrize("num_images", [1, 3])
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@batches
def test_onnxruntime_keeps_its_promises(
    subjects: Callable[[str], Subject], kind: str, num_images: int, tmp_path: Path
) -> None:
    subject = subjects(kind)
    operators = [node.op_type for node in subject.graph.model.graph.node]
    assert operators.count("NonMaxSuppression") == 1
    check_outputs(subject, run_onnxruntime(subject, subject.feed(num_images), tmp_path))


@kinds
@batches
def test_openvino(
    subjects: Callable[[str], Subject], kind: str, num_images: int, tmp_path: Path
) -> None:
    subject = subjects(kind)
    slack = 50 if subject.graph.metadata.prepares_images else 1
    check_runtime(run_openvino, subject, num_images, tmp_path, slack=slack)


@pytest.mark.parametrize("kind", ["ssd_bytes", "retinanet_bytes"])
def test_openvino_prepares_images_to_one_grey_level(
    subjects: Callable[[str], Subject], kind: str
) -> None:
    """It computes in float32 what is double in the graph, so that a few bytes round elsewhere."""
    subject = subjects(kind)
    model = onnx.load(subject.path)
    model.graph.output.append(onnx.ValueInfoProto(name=NETWORK_INPUT_NAME))
    model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    content, images = model.SerializeToString(), subject.feed(2)
    (expected,) = open_graph(content, source="whole")([NETWORK_INPUT_NAME], {INPUT_NAME: images})
    core = openvino.Core()
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(content), "CPU", precise)
    differences = np.abs(compiled({INPUT_NAME: images})[NETWORK_INPUT_NAME] - expected)
    assert differences.max() < 1.01 / 255 / STD.min()
    assert (differences > 1e-5).mean() < 0.02


@kinds
@batches
def test_node(
    run_node: Run, subjects: Callable[[str], Subject], kind: str, num_images: int, tmp_path: Path
) -> None:
    check_runtime(run_node, subjects(kind), num_images, tmp_path)


@kinds
@batches
def test_web_assembly(
    run_web: Run, subjects: Callable[[str], Subject], kind: str, num_images: int, tmp_path: Path
) -> None:
    check_runtime(run_web, subjects(kind), num_images, tmp_path)


# Where this build of ONNX Runtime has no CUDA there is nothing to test: neither a skip nor a pass.
if PROVIDERS["cuda"] in onnxruntime.get_available_providers():

    @kinds
    @batches
    def test_cuda(
        subjects: Callable[[str], Subject], kind: str, num_images: int, tmp_path: Path
    ) -> None:
        check_runtime(run_cuda, subjects(kind), num_images, tmp_path)


def test_a_changed_answer_is_seen(subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    subject = subjects("ssd")

    def moved(subject: Subject, images: NDArray[np.generic], scratch: Path) -> Outputs:
        boxes, *others = run_onnxruntime(subject, images, scratch)
        return [np.where(boxes > 0, boxes + np.float32(0.03), boxes), *others]

    with pytest.raises(AssertionError):
        check_runtime(moved, subject, 1, tmp_path)
