"""Graphs without metadata, of the layouts of other tools, are read and held to their checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from suite.checkpoint import load_checkpoint, write_checkpoint
from suite.data.images import read_image
from suite.data.synthetic import write_synthetic
from suite.deploy.verify import Comparison, verify
from suite.device import build_device
from suite.errors import CheckFailed, InputError, UsageError
from suite.predict import detect_image
from suite.runtime import load_detect
from tests.unit.deploy.foreign_graphs import (
    FLOAT,
    INT64,
    Change,
    normalising,
    of_mmdeploy,
    of_torchvision,
    of_ultralytics,
    prepend,
    store,
    swapping,
)

Write = Callable[..., Path]
Run = Callable[..., Any]


@pytest.fixture
def rewritten(small_graph: Path, change_graph: Callable[[Path, Change], Path]) -> Write:
    """Write the small graph without metadata, after some changes, and return its path."""

    def write(*changes: Change, graph: Path = small_graph) -> Path:
        def change(model: onnx.ModelProto) -> None:
            del model.metadata_props[:]
            for one in changes:
                one(model)
            onnx.checker.check_model(model)

        return change_graph(graph, change)

    return write


SHIFTED = partial(of_mmdeploy, make_node("Add", ["labels", "shift"], ["others"]), labels="others")
IDS = of_mmdeploy(
    make_node("Max", ["labels", "none"], ["some"]),
    make_node("Gather", ["ids", "some"], ["others"]),
    labels="others",
    none=np.array(0),
    ids=[3, 5, 9],
)
SOUND: dict[str, tuple[list[Change], str]] = {
    "mmdeploy": ([of_mmdeploy()], "normalised as the checkpoint's; labels as they are"),
    "background": ([SHIFTED(shift=np.array(1))], "labels less 1, as 0 is background"),
    "ids": ([IDS], "labels as category ids"),
    "ultralytics": ([of_ultralytics(), normalising()], "values from 0 to 1; labels as they are"),
    "torchvision": ([of_torchvision()], "values from 0 to 1; labels less 1, as 0 is background"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_known_layout_is_read_and_agrees(
    rewritten: Write, small_checkpoint: Path, small_photos: list[Path], name: str
) -> None:
    changes, reading = SOUND[name]
    parity = verify(rewritten(*changes), small_checkpoint, Comparison(images=small_photos))
    assert parity.failures() == [] and parity.cause == ""
    assert parity.num_images == 5 and parity.detections > 100
    assert parity.paired + parity.borderline >= parity.detections
    assert parity.reading.endswith(reading)
    assert (parity.batch_differences is None) == (name == "torchvision")


CENTRES = of_ultralytics(
    make_node("Div", ["boxes", "side"], ["fractions"]),
    make_node("Split", ["fractions"], ["low", "high"], axis=-1, num_outputs=2),
    make_node("Sub", ["high", "low"], ["sides"]),
    make_node("Div", ["sides", "two"], ["half"]),
    make_node("Add", ["low", "half"], ["centres"]),
    make_node("Concat", ["centres", "sides"], ["formed"], axis=-1),
    boxes="formed",
    two=np.array(2.0),
    side=np.array(300.0),
)
ABOVE = of_mmdeploy(
    make_node("Greater", ["scores", "limit"], ["above"]),
    make_node("Where", ["above", "scores", "nothing"], ["kept"]),
    limit=np.array(0.2),
    nothing=np.array(0.0),
)
ORDER = of_mmdeploy(
    make_node("Max", ["labels", "none"], ["some"]),
    make_node("Gather", ["ids", "some"], ["others"]),
    labels="others",
    none=np.array(0),
    ids=[1, 0, 2],
)


def take_kept_scores(model: onnx.ModelProto) -> None:
    (node,) = [node for node in model.graph.node if "column" in node.output]
    node.input[0] = "kept"


def suppress_less(model: onnx.ModelProto) -> None:
    (node,) = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    store(model, overlap=np.array([0.6]))
    node.input[3] = "overlap"


GUILTY: dict[str, tuple[list[Change], str]] = {
    "labels": (
        [SHIFTED(shift=np.array(2))],
        "the labels: boxes and scores are equal, its labels are +2",
    ),
    "classes": ([ORDER], "its classes are in another order (1 for 0, 0 for 1, 2 for 2)"),
    "BGR": ([of_mmdeploy(), swapping()], "channels are swapped: the graph takes BGR"),
    "mean": (
        [of_ultralytics(), normalising(mean=0.4)],
        "the preparation of images; mean (0.400, 0.400, 0.400) and std (0.229, 0.224, 0.225)",
    ),
    "no std": ([of_mmdeploy(), normalising(std=1.0)], "it has the mean but no std"),
    "boxes": (
        [CENTRES, normalising()],
        "the boxes: it agrees when they are read as centre and size in fractions of the input",
    ),
    "threshold": ([ABOVE, take_kept_scores], "it leaves out what scores below 0.2"),
    "overlap": ([of_mmdeploy(), suppress_less], "IoU threshold 0.6 instead of 0.5"),
}


@pytest.mark.parametrize("name", GUILTY)
def test_the_guilty_is_named(rewritten: Write, small_checkpoint: Path, name: str) -> None:
    changes, cause = GUILTY[name]
    parity = verify(rewritten(*changes), small_checkpoint)
    assert parity.failures() != []
    first = parity.first_failure()
    assert first is not None and first.name == "end to end"
    assert cause in parity.cause


def test_a_graph_of_ours_that_lost_its_metadata_goes_through_every_stage(
    rewritten: Write, small_checkpoint: Path, small_raw_graph: Path
) -> None:
    whole = verify(rewritten(), small_checkpoint)
    assert whole.failures() == []
    assert (whole.candidates, whole.nms_cases >= 12) == (4 * 300, True)
    assert whole.reading == "read as this suite's boxes, scores, labels and num_dets"
    heads = verify(rewritten(graph=small_raw_graph), small_checkpoint)
    assert heads.failures() == []
    assert heads.logits is not None and 0 < heads.logits < 1e-4
    assert heads.reading == "read as raw heads logits [N,A,K] and deltas [N,A,4]"


def test_heads_are_fed_by_any_name(
    rewritten: Write, small_checkpoint: Path, small_raw_graph: Path
) -> None:
    path = rewritten(swapping(), graph=small_raw_graph)
    parity = verify(path, small_checkpoint)
    first = parity.first_failure()
    assert first is not None and first.name == "logits"
    assert "channels are swapped" in parity.cause


def test_a_graph_of_another_detector_is_none_of_the_checkpoint(
    rewritten: Write, small_checkpoint: Path, small_raw_graph: Path
) -> None:
    def claim(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 81

    with pytest.raises(CheckFailed, match=r"its outputs end in sides \[81, 4\], not \[4, 4\]"):
        verify(rewritten(claim, graph=small_raw_graph), small_checkpoint)
    larger = prepend(
        make_node("Slice", ["given", "low", "high", "axes"], ["images"]),
        dims=("batch", 3, 320, 320),
        low=[0, 0],
        high=[300, 300],
        axes=[2, 3],
    )
    with pytest.raises(CheckFailed, match="no graph of this checkpoint: --size 320x320"):
        verify(rewritten(of_mmdeploy(), larger), small_checkpoint)


def rename(model: onnx.ModelProto) -> None:
    """Call raw heads what nobody does."""
    for node in model.graph.node:
        node.output[:] = [name.replace("logits", "cls\x1b[2J") for name in node.output]
    model.graph.output[0].name = "cls\x1b[2J"


def loop(model: onnx.ModelProto) -> None:
    """Add a loop, which might never end, within a branch."""
    flags = [make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "kept")]
    body = onnx.helper.make_graph(
        [make_node("Identity", ["go"], ["on"]), make_node("Identity", ["kept"], ["left"])],
        "body",
        [make_tensor_value_info("turn", INT64, []), *flags],
        [make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("on", "left")],
    )
    store(model, yes=np.array(True))
    branches = {
        f"{side}_branch": onnx.helper.make_graph(
            [make_node("Loop", ["", "yes", "yes"], [side], body=body)],
            side,
            [],
            [make_tensor_value_info(side, TensorProto.BOOL, [])],
        )
        for side in ("then", "else")
    }
    model.graph.node.append(make_node("If", ["yes"], ["never"], **branches))


def test_a_branch_is_read_and_a_loop_is_not(rewritten: Write, small_checkpoint: Path) -> None:
    def choose(model: onnx.ModelProto) -> None:
        """Detections through a branch that uses a value of the graph around it."""
        branches = {
            f"{side}_branch": onnx.helper.make_graph(
                [make_node("Mul", ["output0", factor], [side])],
                side,
                [],
                [make_tensor_value_info(side, FLOAT, ["batch", 200, 6])],
            )
            for side, factor in (("then", "one"), ("else", "zero"))
        }
        store(model, yes=np.array(True), one=np.array(1.0), zero=np.array(0.0))
        model.graph.node.append(make_node("If", ["yes"], ["chosen"], **branches))
        model.graph.output[0].name = "chosen"

    path = rewritten(of_ultralytics(), choose)
    assert verify(path, small_checkpoint).failures() == []
    path = rewritten(of_ultralytics(), loop)
    with pytest.raises(InputError, match="operator 'Loop' has a graph inside"):
        verify(path, small_checkpoint)


def test_what_is_of_no_known_layout_is_refused_with_what_it_has(
    rewritten: Write, small_raw_graph: Path, small_checkpoint: Path, run_suite: Run, tmp_path: Path
) -> None:
    path = rewritten(rename, graph=small_raw_graph)
    output = tmp_path / "runs"
    done = run_suite("verify", path, "--against", small_checkpoint, "--output", output)
    assert done.code == 1 and done.stdout == "" and not output.exists()
    assert done.stderr.count("\n") == 1 and done.stderr[:-1].isprintable()
    for told in ("raw heads logits [N,A,K]", "mmdeploy's dets [N,D,5]", "ultralytics' [N,D,6]",
                 "torchvision's boxes [D,4]", "images float [?,3,300,300] in",
                 "float [?,8732,4] out"):  # fmt: skip
        assert told in done.stderr


def test_the_command_tells_reading_and_cause(
    rewritten: Write, small_checkpoint: Path, run_suite: Run, tmp_path: Path
) -> None:
    words = ("--against", str(small_checkpoint), "--output", str(tmp_path / "runs"))
    done = run_suite("verify", rewritten(of_torchvision()), *words)
    assert done.code == 0
    assert "torchvision's boxes [D,4], scores [D] and labels [D] of one image; fed" in done.stdout
    assert done.stdout.splitlines()[-2] == "no stage differs"
    done = run_suite("verify", rewritten(of_mmdeploy(), swapping()), *words, "--json")
    assert done.code == 3
    told = json.loads(done.stdout)
    assert told["first_difference"] == "end to end"
    assert "the graph takes BGR" in told["parity"]["cause"]
    (first, second) = sorted((tmp_path / "runs").glob("*/record.json"))
    record = json.loads(second.read_text())
    assert record["conditions"]["reading"].startswith("mmdeploy's dets [N,D,5]")
    assert record["subject"]["graph_sha256"] != record["subject"]["checkpoint_sha256"]
    assert record["conditions"]["failures"] and first != second


def write_findings(checkpoint: Path, folder: Path) -> None:
    """Write a data set whose truth is part of what a checkpoint finds in its images."""
    write_synthetic(folder, num_train=1, num_val=3, seed=0)
    path = folder / "annotations" / "instances_val.json"
    document = json.loads(path.read_text())
    loaded = load_detect(checkpoint, device=build_device("cpu", "fp32"))
    truth: list[dict[str, Any]] = []
    for image in document["images"]:
        found = detect_image(loaded, read_image(folder / "val" / image["file_name"]))
        for (x0, y0, x1, y1), label in zip(
            found.boxes_xyxy.tolist()[:40:2], found.labels.tolist()[:40:2], strict=True
        ):
            truth.append({"id": len(truth) + 1, "image_id": image["id"], "iscrowd": 0,
                          "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0),
                          "category_id": loaded.category_ids[label]})  # fmt: skip
    classes = zip(loaded.category_ids, loaded.class_names, strict=True)
    document["categories"] = [{"id": number, "name": name} for number, name in classes]
    path.write_text(json.dumps(document | {"annotations": truth}))


def test_accuracy_is_measured_of_it_too(
    rewritten: Write, small_checkpoint: Path, small_raw_graph: Path, tmp_path: Path
) -> None:
    write_findings(small_checkpoint, tmp_path / "data")
    on = Comparison(data=str(tmp_path / "data"))
    for changes in ([of_torchvision()], []):
        parity = verify(rewritten(*changes), small_checkpoint, on)
        assert parity.failures() == []
        assert parity.ap_images == 3
        assert parity.ap_checkpoint is not None and parity.ap_checkpoint > 0.3
        assert parity.ap_graph == pytest.approx(parity.ap_checkpoint, abs=1e-6)
    parity = verify(rewritten(SHIFTED(shift=np.array(2))), small_checkpoint, on)
    assert parity.failures()[-1].startswith("AP of the checkpoint 0.")
    with pytest.raises(UsageError, match="no AP; leave --data out"):
        verify(rewritten(graph=small_raw_graph), small_checkpoint, on)


def test_nothing_found_proves_nothing(
    rewritten: Write, small_checkpoint: Path, tmp_path: Path
) -> None:
    state = load_checkpoint(small_checkpoint)
    state["recipe"]["postprocess"]["score_threshold"] = 0.999999
    blind = tmp_path / "blind.pth"
    write_checkpoint(state, blind)
    with pytest.raises(UsageError, match="nothing is proven; pass photos with --images"):
        verify(rewritten(of_mmdeploy()), blind)


def test_rows_that_are_no_detections_are_told(rewritten: Write, small_checkpoint: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        store(model, nothing=np.array(np.nan))
        (node,) = [node for node in model.graph.node if "column" in node.output]
        model.graph.node.insert(
            len(model.graph.node) - 2, make_node("Add", ["scores", "nothing"], ["spoiled"])
        )
        node.input[0] = "spoiled"

    failures = verify(rewritten(of_mmdeploy(), spoil), small_checkpoint).failures()
    assert "detections have no counterpart" in failures[0]
    assert failures[-1] == "600 values are NaN or infinite"


@pytest.mark.parametrize("version", [0, 99, 2**40])
def test_an_unknown_opset_is_refused(rewritten: Write, tmp_path: Path, version: int) -> None:
    path = rewritten(of_mmdeploy())
    model = onnx.load(path)
    model.opset_import[0].version = version
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=f"of opset {version}; one of 1 to "):
        verify(path, tmp_path / "absent.pth")
