"""A graph that prepares its images wrongly: what of the preparation is guilty is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from suite.checkpoint import load_detector
from suite.data.transforms import MEAN, STD
from suite.deploy.description import GraphRequest
from suite.deploy.graph import build_graph
from suite.deploy.verify import verify
from suite.graph_file import NETWORK_INPUT_NAME
from tests.once import build_once

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def prepared_graph(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """The small detector as a graph that takes images as they are."""

    def build(folder: Path) -> None:
        model = build_graph(load_detector(small_checkpoint), GraphRequest(prepare=True))
        (folder / "prepared.onnx").write_bytes(model.SerializeToString())

    return build_once(tmp_path_factory, "prepared-graph", build) / "prepared.onnx"


def instead(*nodes: onnx.NodeProto, **weights: Any) -> Change:
    """Let nodes write the network's input, of what was it, `sound`, or of `images`."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        place = next(i for i, n in enumerate(graph.node) if NETWORK_INPUT_NAME in n.output)
        graph.node[place].output[:] = ["sound"]
        for number, node in enumerate(nodes, start=place + 1):
            graph.node.insert(number, node)
        for name, value in weights.items():
            array = np.asarray(value)
            array = array.astype(np.float32) if array.dtype.kind == "f" else array
            graph.initializer.append(onnx.numpy_helper.from_array(array, name))

    return change


def to_input(*names: str) -> onnx.NodeProto:
    """Give the last value of a chain, `x - mean` by std, its name."""
    return make_node("Div", names, [NETWORK_INPUT_NAME])


def normalising(mean: Any, std: Any, order: Sequence[int] = (0, 1, 2)) -> Change:
    """Undo the normalisation, then use another one, both of values from 0 to 1."""
    return instead(
        make_node("Mul", ["sound", "own_std"], ["spread"]),
        make_node("Add", ["spread", "own_mean"], ["unit"]),
        make_node("Gather", ["unit", "order"], ["ordered"], axis=1),
        make_node("Sub", ["ordered", "mean"], ["centred"]),
        to_input("centred", "std"),
        own_mean=MEAN[:, None, None],
        own_std=STD[:, None, None],
        order=order,
        mean=np.broadcast_to(mean, 3)[:, None, None],
        std=np.broadcast_to(std, 3)[:, None, None],
    )


def resizing(mode: str, places: str, extra: Sequence[str] = ()) -> Change:
    """Resize by ONNX's own operator, which never smoothes what it makes smaller."""
    options = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return instead(
        make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        make_node("Cast", ["planes"], ["pixels"], to=onnx.TensorProto.FLOAT),
        make_node("Shape", ["pixels"], ["batch"], end=1),
        make_node("Concat", ["batch", "rest"], ["sizes"], axis=0),
        make_node(
            "Resize",
            ["pixels", "", "", "sizes"],
            ["resized"],
            mode=mode,
            coordinate_transformation_mode=places,
            **options,
        ),
        make_node("Div", ["resized", "most"], ["unit"]),
        make_node("Sub", ["unit", "mean"], ["centred"]),
        to_input("centred", "std"),
        rest=[3, 300, 300],
        most=np.array(255.0),
        mean=MEAN[:, None, None],
        std=STD[:, None, None],
    )


FAULTS: dict[str, tuple[Change, str]] = {
    "BGR": (normalising(MEAN, STD, [2, 1, 0]), "channels are swapped: the graph takes BGR"),
    "mean": (normalising(0.4, STD), "mean (0.400, 0.400, 0.400) and std (0.229, 0.224, 0.225)"),
    "not normalised": (normalising(0.0, 1.0), "it has values from 0 to 1, neither mean nor std"),
    "half pixel": (resizing("linear", "half_pixel"), "bilinear without antialiasing"),
    "corners": (resizing("linear", "align_corners"), "bilinear with aligned corners"),
    "asymmetric": (resizing("linear", "asymmetric"), "bilinear without half-pixel centres"),
    "nearest": (resizing("nearest", "asymmetric"), "its resize takes the nearest pixel"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_guilty_preparation_inside_is_named(
    prepared_graph: Path,
    small_checkpoint: Path,
    change_graph: Callable[[Path, Change], Path],
    run_suite: Callable[..., Any],
    name: str,
) -> None:
    change, cause = FAULTS[name]
    path = change_graph(prepared_graph, change)
    runs = path.with_name("runs")
    done = run_suite("verify", path, "--against", small_checkpoint, "--output", runs, "--json")
    assert done.code == 3 and "input tensor differs by" in done.stderr
    found = json.loads(done.stdout)
    assert found["first_difference"] == "input"
    told = found["parity"]["cause"].removeprefix("the preparation of images; ")
    assert cause in told and ";" not in told
    # The network itself is not to blame.
    assert found["parity"]["logits"] < 1e-3


def test_one_that_lost_its_metadata_is_held_to_the_same(
    prepared_graph: Path,
    small_checkpoint: Path,
    change_graph: Callable[[Path, Change], Path],
) -> None:
    def forget(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    parity = verify(change_graph(prepared_graph, forget), small_checkpoint)
    assert parity.failures() == []
    assert parity.network_input is not None and parity.network_input < 1e-4
