"""A graph that is not its checkpoint is noticed, and the message names the stage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from suite.data.transforms import MEAN, STD
from suite.deploy.description import GraphRequest
from suite.deploy.export import export
from suite.deploy.parity import Parity, format_parity
from suite.deploy.sides import generate_images
from suite.deploy.swaps import explain_input
from suite.deploy.verify import Comparison, verify
from suite.errors import CheckFailed, InputError
from suite.sizing import Sizing

Change = Callable[[onnx.ModelProto], None]
Tamper = Callable[[Change], Path]


@pytest.fixture
def tampered(small_graph: Path, change_graph: Callable[[Path, Change], Path]) -> Tamper:
    """Write a changed copy of the small graph, without a sidecar, and return its path."""
    return partial(change_graph, small_graph)


def change_weights(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (weights,) = [w for w in model.graph.initializer if w.name == name]
        changed = function(onnx.numpy_helper.to_array(weights)).astype(np.float32)
        weights.CopyFrom(onnx.numpy_helper.from_array(changed, name))

    return change


def change_constant_of(operator: str, place: int, value: float) -> Change:
    """Replace an input of the only node of a kind by a constant of its own."""

    def change(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if n.op_type == operator]
        (old,) = [w for w in model.graph.initializer if w.name == node.input[place]]
        new = np.full_like(onnx.numpy_helper.to_array(old), value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(new, "changed"))
        node.input[place] = "changed"

    return change


def change_metadata(**values: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key in values:
                entry.value = json.dumps(values[entry.key])

    return change


def find_anchors(graph: Path) -> str:
    (name,) = [w.name for w in onnx.load(graph).graph.initializer if list(w.dims) == [8732, 4]]
    return str(name)


def test_a_graph_is_its_checkpoint_on_photos_too(
    small_graph: Path, small_checkpoint: Path, small_photos: list[Path]
) -> None:
    parity = verify(small_graph, small_checkpoint, Comparison(images=small_photos))
    assert parity.failures() == []
    assert parity.num_images == 3 + len(small_photos)
    assert 0 < parity.logits < 1e-4 and 0 < parity.deltas < 1e-4
    assert parity.candidates == 4 * 300
    assert parity.nms_cases >= 12
    assert parity.detections > 100
    assert parity.paired + parity.borderline >= parity.detections


def test_raw_heads_are_compared_too(small_raw_graph: Path, small_checkpoint: Path) -> None:
    parity = verify(small_raw_graph, small_checkpoint)
    assert parity.failures() == []
    assert 0 < parity.logits < 1e-4 and 0 < parity.deltas < 1e-4
    assert (parity.nms_cases, parity.detections, parity.num_images) == (0, 0, 3)


def test_weights_changed_by_a_percent_show_in_the_heads(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    graph = tampered(change_weights("detector.extras.1.expand.weight", lambda w: w * 1.01))
    failures = verify(graph, small_checkpoint).failures()
    assert failures[0].startswith("heads differ by 0.0")
    assert not any("NMS" in failure or "candidates" in failure for failure in failures)


def test_anchors_changed_by_a_percent_show_in_the_candidates(
    tampered: Tamper, small_checkpoint: Path, small_graph: Path
) -> None:
    graph = tampered(change_weights(find_anchors(small_graph), lambda anchors: anchors * 1.01))
    failures = verify(graph, small_checkpoint).failures()
    assert "candidates have no counterpart (of 1200)" in failures[0]
    assert not any("heads" in failure or "NMS" in failure for failure in failures)


@pytest.mark.parametrize(
    ("place", "value"), [(3, 0.51), (4, 0.06), (2, 190)], ids=["iou", "score", "most"]
)
def test_a_changed_threshold_shows_in_the_nms_stage(
    tampered: Tamper, small_checkpoint: Path, place: int, value: float
) -> None:
    graph = tampered(change_constant_of("NonMaxSuppression", place, value))
    failures = verify(graph, small_checkpoint).failures()
    assert failures[0].startswith("NMS stage differs in ")


def test_other_detections_are_without_counterpart(tampered: Tamper, small_checkpoint: Path) -> None:
    def negate_input(model: onnx.ModelProto) -> None:
        zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")
        model.graph.initializer.append(zero)
        node = onnx.helper.make_node("Sub", ["zero", "images"], ["negated"])
        first = next(n for n in model.graph.node if "images" in n.input)
        first.input[0] = "negated"
        model.graph.node.insert(0, node)

    failures = verify(tampered(negate_input), small_checkpoint).failures()
    assert failures[0].startswith("heads differ by ")
    assert any("detections have no counterpart" in failure for failure in failures)


def test_an_answer_that_depends_on_the_batch_is_noticed(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def subtract_batch_sum(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis0"))
        total = onnx.helper.make_node("ReduceSum", ["images", "axis0"], ["total"], keepdims=1)
        difference = onnx.helper.make_node("Sub", ["images", "total"], ["centred"])
        first = next(n for n in model.graph.node if "images" in n.input)
        first.input[0] = "centred"
        model.graph.node.insert(0, difference)
        model.graph.node.insert(0, total)

    failures = verify(tampered(subtract_batch_sum), small_checkpoint).failures()
    assert "3 images change with the batch around them" in failures


def test_padding_that_is_not_minus_one_is_noticed(tampered: Tamper, small_checkpoint: Path) -> None:
    def pad_with_zero(model: onnx.ModelProto) -> None:
        (node,) = [n for n in model.graph.node if "labels" in n.output]
        zero = onnx.numpy_helper.from_array(np.array(0, dtype=np.int64), "zero")
        model.graph.initializer.append(zero)
        node.input[2] = "zero"

    failures = verify(tampered(pad_with_zero), small_checkpoint).failures()
    assert failures[0].startswith("NMS stage differs")
    assert any("break the padding or label rules" in failure for failure in failures)


def test_overflow_in_the_graph_is_noticed(
    tampered: Tamper, small_checkpoint: Path, run_suite: Callable[..., Any], tmp_path: Path
) -> None:
    graph = tampered(change_weights("detector.class_heads.0.weight", lambda w: w * 1e38))
    output = tmp_path / "runs"
    done = run_suite("verify", graph, "--against", small_checkpoint, "--output", output, "--json")
    assert done.code == 3
    told = json.loads(done.stdout, parse_constant=pytest.fail)
    (record,) = output.glob("*/record.json")
    assert told["parity"]["logits"] is json.loads(record.read_text())["metrics"]["logits"] is None
    failures = [stage["detail"] for stage in told["stages"] if stage["passed"] is False]
    assert re.match(r"heads differ by (inf|nan) in logits", failures[0])
    assert "values are NaN or infinite" in failures[-1]


def test_metadata_of_another_checkpoint_is_named_by_field(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    graph = tampered(
        change_metadata(
            checkpoint_sha256="0" * 64,
            class_names=["circle", "square", "ring"],
            postprocess={
                "score_threshold": 0.05,
                "iou_threshold": 0.6,
                "max_detections": 200,
                "pre_topk": 300,
            },
        )
    )
    parity = verify(graph, small_checkpoint)
    failures = parity.failures()
    assert failures[0] == "metadata says otherwise: class_names, checkpoint_sha256"
    assert parity.cause == "the graph is of another checkpoint"
    # Its thresholds are its own; that it does not keep to them shows where they are used.
    assert failures[1].startswith("NMS stage differs")


def test_mean_and_std_swapped_in_the_metadata_are_named(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def swap(model: onnx.ModelProto) -> None:
        (entry,) = [e for e in model.metadata_props if e.key == "input"]
        fed = json.loads(entry.value)
        fed["mean"], fed["std"] = fed["std"], fed["mean"]
        entry.value = json.dumps(fed)

    parity = verify(tampered(swap), small_checkpoint)
    first, second = parity.failures()
    assert first == "metadata says otherwise: input.mean, input.std"
    assert second.startswith("input tensor differs by ")
    assert parity.cause == "it asks for images that are prepared otherwise (input.mean, input.std)"


def test_a_checkpoint_of_another_shape_is_no_comparison(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def claim_fewer(model: onnx.ModelProto) -> None:
        change_metadata(num_classes=2, class_names=["square", "circle"], category_ids=[3, 5])(model)

    with pytest.raises(CheckFailed, match="they differ in num_classes, class_names, category_ids"):
        verify(tampered(claim_fewer), small_checkpoint)


def test_a_graph_rewritten_without_its_inner_names_is_refused(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == "logits":
                        names[place] = "fused_17"

    with pytest.raises(InputError, match="does not name its inner values"):
        verify(tampered(rename), small_checkpoint)


def feeding(*nodes: onnx.NodeProto, **weights: object) -> Change:
    """Put nodes that lead from `given` to `fed` between the input and the network."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == "images":
                    node.input[place] = "fed"
        for place, node in enumerate(nodes):
            graph.node.insert(place, node)
        for name, value in weights.items():
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))

    return change


def three(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32).reshape(1, 3, 1, 1)


make_node = onnx.helper.make_node
CAUSES: dict[str, tuple[Change, str, str]] = {
    "BGR": (
        feeding(make_node("Gather", ["images", "order"], ["fed"], axis=1), order=[2, 1, 0]),
        "logits",
        "it agrees when channels are swapped: the graph takes BGR",
    ),
    "normalises itself": (
        feeding(
            make_node("Sub", ["images", "mean"], ["centred"]),
            make_node("Div", ["centred", "std"], ["fed"]),
            mean=three(MEAN),
            std=three(STD),
        ),
        "logits",
        "it agrees when it is fed values from 0 to 1, neither mean nor std",
    ),
    "takes bytes": (
        feeding(
            make_node("Sub", ["images", "mean"], ["centred"]),
            make_node("Div", ["centred", "std"], ["fed"]),
            mean=three(255 * MEAN),
            std=three(255 * STD),
        ),
        "logits",
        "it agrees when it is fed values from 0 to 255, neither mean nor std",
    ),
    "one head": (
        change_weights("detector.class_heads.0.weight", lambda w: w * 1.05),
        "logits",
        "weights of the class heads, as only the logits differ",
    ),
    "overlap": (
        change_constant_of("NonMaxSuppression", 3, 0.6),
        "NMS",
        "its NonMaxSuppression has IoU threshold 0.6 instead of 0.5",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_guilty_is_named(tampered: Tamper, small_checkpoint: Path, name: str) -> None:
    change, stage, cause = CAUSES[name]
    parity = verify(tampered(change), small_checkpoint)
    first = parity.first_failure()
    assert first is not None and first.name == stage
    assert cause in parity.cause
    assert format_parity(parity).splitlines()[-1].startswith(f"first difference: {stage}; most pr")


RESIZES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bilinear without antialiasing": lambda p: F.interpolate(p, (300, 300), mode="bilinear"),
    "bilinear with aligned corners": lambda p: F.interpolate(
        p, (300, 300), mode="bilinear", align_corners=True
    ),
    "takes the nearest pixel": lambda p: F.interpolate(p, (300, 300), mode="nearest"),
    "bicubic and antialiased": lambda p: F.interpolate(
        p, (300, 300), mode="bicubic", antialias=True
    ),
}
STRETCHED = Sizing(keep_ratio=False, short_side=300, long_side=300, canvases=((300, 300),))


@pytest.mark.parametrize("name", RESIZES)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_guilty_resize_is_named(name: str, swapped: bool) -> None:
    images = generate_images((480, 640))
    pixels = RESIZES[name](torch.from_numpy(images).permute(0, 3, 1, 2).float())
    pixels = pixels.flip(1) if swapped else pixels
    found = (pixels.numpy() / 255 - three(MEAN)) / three(STD)
    told = explain_input(images, found.astype(np.float32), STRETCHED)
    assert name in told
    assert ("the graph takes BGR" in told) == swapped


PERFECT = Parity(
    network_input=0,
    logits=0,
    deltas=0,
    nms_cases=1,
    batch_differences=0,
    nonfinite=0,
    num_images=3,
)


def test_each_figure_alone_is_a_failure() -> None:
    assert PERFECT.failures() == []
    assert replace(PERFECT, borderline=5).failures() == []
    for change in (
        {"metadata": ("step",)},
        {"network_input": 1.0},
        {"logits": 2e-3},
        {"deltas": float("nan")},
        {"candidates_unpaired": 1},
        {"nms_differences": 1},
        {"unpaired": 1},
        {"batch_differences": 1},
        {"misfits": 1},
        {"nonfinite": 1},
    ):
        assert len(replace(PERFECT, **change).failures()) == 1, change


def test_figures_are_shown_with_what_failed() -> None:
    text = format_parity(replace(PERFECT, nms_cases=16, nms_differences=2))
    assert "NMS stage differs in 2 of 16 cases" in text
    assert text.endswith("first difference: NMS")
    text = format_parity(replace(PERFECT, nms_cases=16, candidates=1200, detections=7))
    assert text.endswith("no stage differs")
    assert "no counterpart" not in text
    for told in ("of 1200", "of 16 cases", "of 7; 0 sit on a threshold", "of 3"):
        assert any(line.endswith(told) for line in text.splitlines())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rounding_excuses_no_wrong_weights(
    precision: Literal["fp16", "int8"],
    small_checkpoint: Path,
    small_photos: list[Path],
    change_graph: Callable[[Path, Change], Path],
    tmp_path: Path,
) -> None:
    """Where few of the detections are left, and of int8 no AP is known, the heads still tell."""
    request = GraphRequest(precision=precision, score_threshold=0.99)
    graph, parity = export(
        small_checkpoint, request, images=small_photos, output=tmp_path / "graph.onnx"
    )
    assert parity.failures() == []

    def shuffle(model: onnx.ModelProto) -> None:
        weights = [w for w in model.graph.initializer if len(w.dims) == 4]
        for weight in weights:
            values = onnx.numpy_helper.to_array(weight)
            mixed = np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)
            weight.CopyFrom(onnx.numpy_helper.from_array(mixed, weight.name))

    wrong = verify(change_graph(graph, shuffle), small_checkpoint, Comparison(images=small_photos))
    first = wrong.first_failure()
    assert first is not None and first.name == "logits"
    assert f"more than {precision} rounds" in first.detail


def test_what_rounds_is_judged_by_what_it_finds() -> None:
    noise = {"logits_noise": 0.01, "deltas_noise": 0.01}
    half = replace(PERFECT, precision="fp16", logits=0.02, unpaired=9, overlapping=0.96, **noise)
    assert half.failures() == []
    for name in ("logits", "deltas"):
        (failure,) = replace(half, **{f"{name}_noise": 0.03}).failures()
        assert failure.startswith(f"heads are off by 3% of the deviation of {name}, allowed 2%")
    (failure,) = replace(half, overlapping=0.94).failures()
    assert failure.endswith("; 95 % are needed")
    int8 = replace(half, precision="int8", overlapping=0.5, logits_noise=0.3)
    assert int8.failures() == []
    assert replace(int8, deltas_noise=0.6).failures() != []
    assert format_parity(int8).endswith("not judged: end to end; no stage differs")
    assert "an int8 graph is judged by its AP: pass --data" in format_parity(int8)
    judged = {"ap_checkpoint": 0.4, "ap_images": 10}
    assert replace(int8, ap_graph=0.396, **judged).failures() == []
    assert replace(int8, ap_graph=0.394, **judged).failures() != []
    assert replace(half, ap_graph=0.398, **judged).failures() != []
