"""Limits of runtimes, and the words that hand a graph to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from suite.deploy.targets import (
    LIMITS,
    atc_command,
    check_target,
    format_handover,
    list_providers,
    require_int8,
    trtexec_command,
)
from suite.errors import UsageError
from suite.graph_metadata import GraphInput, GraphMetadata, Software
from suite.recipe_sections import Postprocess, Resize

LIMITED = {
    "ssd": Resize(),
    "retinanet": Resize(mode="pad", short_side=800, long_side=1333),
}


def describe(detector: str = "ssd", **changes: Any) -> GraphMetadata:
    """A graph of a free batch for ONNX Runtime, or as changed."""
    limits = changes.pop("postprocess", {})
    values: dict[str, Any] = {
        "schema": "suite.graph/3",
        "detector": detector,
        "width": 1.0,
        "num_classes": 2,
        "num_logits": 3,
        "class_names": ("a", "b"),
        "category_ids": (1, 2),
        "image_hw": (300, 300) if detector == "ssd" else (),
        "batch": 0,
        "min_side": 300 if detector == "ssd" else 90,
        "resize": LIMITED[detector],
        "input": GraphInput(
            name="images",
            layout="NCHW",
            dtype="float32",
            colour="RGB",
            scale=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            resize="as trained",
        ),
        "outputs": "boxes",
        "postprocess": Postprocess(
            **{
                "score_threshold": 0.05,
                "iou_threshold": 0.5,
                "max_detections": 200,
                "pre_topk": 1000,
                **limits,
            }
        ),
        "nms": "op",
        "runtime_thresholds": False,
        "precision": "fp32",
        "calibration": None,
        "target": "ort",
        "opset": 18,
        "ir_version": 8,
        "recipe": "r",
        "recipe_digest": "0" * 64,
        "dataset": "D",
        "checkpoint_sha256": "0" * 64,
        "step": 1,
        "software": Software(suite="0", torch="0", onnx="0"),
    }
    return GraphMetadata(**{**values, **changes})


def prepared(metadata: GraphMetadata) -> GraphMetadata:
    return replace(metadata, input=replace(metadata.input, dtype="uint8", layout="NHWC"))


@pytest.mark.parametrize("target", ["ort", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("opset", [16, 20])
def test_what_the_tests_run_takes_every_graph(target: str, precision: str, opset: int) -> None:
    for detector in LIMITED:
        metadata = describe(detector, target=target, precision=precision, opset=opset)
        check_target(metadata)
        check_target(prepared(metadata))


def test_fixed_graphs_are_for_everyone() -> None:
    for target in LIMITS:
        check_target(describe(target=target, batch=4))
        check_target(describe("retinanet", target=target, batch=1, image_hw=(800, 1344)))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"opset": 19}, "opset 16 to 18, not 19; pass --opset 18"),
        ({"precision": "int8"}, "fp32 and fp16, not int8; pass --precision fp32"),
        ({"batch": 0}, "a fixed batch; pass --batch 1, or another number"),
        ({"image_hw": ()}, "a fixed size; pass --size, such as --size 800x1344"),
        (
            {"postprocess": {"max_detections": 701}},
            "at most 700 detections, not 701; pass --max-detections 700",
        ),
    ],
)
def test_what_cann_refuses(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=r"^--target cann: CANN takes\n  ") as refused:
        check_target(describe(**{"target": "cann", "batch": 1, **changes}))
    assert str(refused.value).splitlines()[1:] == [f"  {sentence}"]


def test_what_tensorrt_refuses() -> None:
    few = {"pre_topk": 3839}
    check_target(describe(target="tensorrt", opset=20, postprocess=few))
    with pytest.raises(UsageError, match=r"at most 3839 candidates of one TopK, not 3840; pass --"):
        check_target(describe(target="tensorrt", postprocess={"pre_topk": 3840}))
    with pytest.raises(UsageError, match=r"not as uint8; leave --preprocess out"):
        check_target(prepared(describe(target="tensorrt")))
    # Raw heads have neither.
    check_target(describe(target="tensorrt", nms="none", postprocess={"pre_topk": 3840}))


def test_all_that_is_broken_is_named_at_once() -> None:
    with pytest.raises(UsageError) as refused:
        check_target(prepared(describe("retinanet", target="cann", opset=20, precision="int8")))
    assert len(str(refused.value).splitlines()) == 6


def build_model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph(list(nodes), "g", [], []))


def test_operators_are_held_against_the_limits() -> None:
    four = onnx.helper.make_node("NonMaxSuppression", ["b", "s", "m", "i", ""], ["k"])
    smooth = onnx.helper.make_node("Resize", ["x", "", "", "z"], ["y"], antialias=1)
    plain = onnx.helper.make_node("Resize", ["x", "", "", "z"], ["y"], antialias=0)
    loop = onnx.helper.make_node("Trilu", ["x"], ["y"])
    cann = describe(target="cann", batch=1)
    check_target(cann, build_model(plain))
    with pytest.raises(UsageError) as refused:
        check_target(cann, build_model(four, smooth, loop))
    assert str(refused.value).splitlines()[1:] == [
        "  no operator Trilu, which is in the graph",
        "  NonMaxSuppression with 5 inputs, the graph's has 4",
        "  no antialiased Resize, which is in the graph",
    ]
    check_target(describe(), build_model(four, smooth, loop))
    with pytest.raises(UsageError, match="no antialiased Resize"):
        check_target(describe(target="openvino"), build_model(smooth))


def test_command_lines_and_options(golden: Callable[[str, str], None]) -> None:
    graph = Path("my models/model.onnx")
    fixed = {"batch": 1, "image_hw": (800, 1344)}
    lines = []
    for metadata in (
        describe(target="cann", batch=4),
        describe("retinanet", target="cann", precision="fp16", **fixed),
        describe(target="tensorrt"),
        describe("retinanet", target="tensorrt"),
        describe("retinanet", target="tensorrt", **fixed),
    ):
        check_target(metadata)
        size = "free" if not metadata.image_hw else "fixed"
        lines.append(f"## {metadata.detector}, {metadata.precision}, {size} size\n")
        lines.append(format_handover(metadata, graph, soc="Ascend310P3"))
    golden("target_commands.txt", "".join(lines))


def test_a_graph_for_another_runtime_gets_no_command() -> None:
    graph = Path("model.onnx")
    with pytest.raises(UsageError, match=r"made for ONNX Runtime; export it with --target cann"):
        atc_command(describe(), graph, "Ascend310P3")
    with pytest.raises(UsageError, match=r"made for CANN; export it with --target tensorrt"):
        trtexec_command(describe(target="cann", batch=1), graph)
    for soc in ("", "310P3", "Ascend310P3; rm", "Ascend310P3 --x"):
        with pytest.raises(UsageError, match="no Ascend; give its name, such as Ascend310P3"):
            atc_command(describe(target="cann", batch=1), graph, soc)
    assert list_providers(describe()) == [("CPUExecutionProvider", {})]
    with pytest.raises(UsageError, match="OpenVINO runs its graphs itself"):
        list_providers(describe(target="openvino"))


def test_int8_is_for_those_that_take_it() -> None:
    for target in ("ort", "openvino"):
        require_int8(describe(target=target), source="m.onnx")
    for target, name in (("tensorrt", "TensorRT"), ("cann", "CANN")):
        told = (
            f"^m.onnx: exported with --target {target}, and {name} takes fp32 and fp16, not int8; "
            "export it with --target ort or openvino$"
        )
        with pytest.raises(UsageError, match=told):
            require_int8(describe(target=target, batch=1), source="m.onnx")
