"""A graph that is not its checkpoint is noticed, and the message names the stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from suite.deploy.parity import Parity, format_parity
from suite.deploy.verify import verify
from suite.errors import CheckFailed, InputError

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
    parity = verify(small_graph, small_checkpoint, images=small_photos)
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
        node = onnx.helper.make_node("Neg", ["images"], ["negated"])
        first = next(n for n in model.graph.node if "images" in n.input)
        first.input[0] = "negated"
        model.graph.node.insert(0, node)

    failures = verify(tampered(negate_input), small_checkpoint).failures()
    assert failures[0].startswith("heads differ by ")
    assert any("detections have no counterpart" in failure for failure in failures)


def test_an_answer_that_depends_on_the_batch_is_noticed(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def subtract_batch_mean(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis0"))
        mean = onnx.helper.make_node("ReduceMean", ["images", "axis0"], ["mean"], keepdims=1)
        difference = onnx.helper.make_node("Sub", ["images", "mean"], ["centred"])
        first = next(n for n in model.graph.node if "images" in n.input)
        first.input[0] = "centred"
        model.graph.node.insert(0, difference)
        model.graph.node.insert(0, mean)

    failures = verify(tampered(subtract_batch_mean), small_checkpoint).failures()
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


def test_nan_in_the_graph_is_noticed(tampered: Tamper, small_checkpoint: Path) -> None:
    graph = tampered(change_weights("detector.class_heads.0.weight", lambda w: w * np.nan))
    failures = verify(graph, small_checkpoint).failures()
    assert failures[0].startswith("heads differ by nan")
    assert failures[-1].endswith("values are NaN or infinite")


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
    (failure,) = verify(graph, small_checkpoint).failures()
    assert failure == (
        "metadata says otherwise: class_names, postprocess.iou_threshold, checkpoint_sha256"
    )


def test_mean_and_std_swapped_in_the_metadata_are_named(
    tampered: Tamper, small_checkpoint: Path
) -> None:
    def swap(model: onnx.ModelProto) -> None:
        (entry,) = [e for e in model.metadata_props if e.key == "input"]
        fed = json.loads(entry.value)
        fed["mean"], fed["std"] = fed["std"], fed["mean"]
        entry.value = json.dumps(fed)

    (failure,) = verify(tampered(swap), small_checkpoint).failures()
    assert failure == "metadata says otherwise: input.mean, input.std"


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


PERFECT = Parity(logits=0, deltas=0, batch_differences=0, nonfinite=0, num_images=3)


def test_each_figure_alone_is_a_failure() -> None:
    assert PERFECT.failures() == []
    assert replace(PERFECT, borderline=5).failures() == []
    for change in (
        {"metadata": ("step",)},
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
    assert "16 cases, 2 not bit-equal" in text
    assert text.endswith("FAILED      NMS stage differs in 2 of 16 cases")
