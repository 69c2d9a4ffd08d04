"""Rivals whose scores tie may survive on one side each; nothing else is excused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.detector import Detector
from models.ssd_r34 import SSDResNet34
from suite.checkpoint import load_detector
from suite.deploy.end_to_end import EndToEnd, compare_images
from suite.deploy.sides import open_sides
from suite.graph_file import load_graph
from suite.runtime import postprocess_parameters


@pytest.fixture
def undecided(small_checkpoint: Path) -> SSDResNet34:
    """A detector whose scores differ by rounding errors only."""
    detector = load_detector(small_checkpoint).detector
    assert isinstance(detector, SSDResNet34)
    torch.manual_seed(0)
    for head in detector.class_heads:
        assert isinstance(head, torch.nn.Conv2d) and head.bias is not None
        torch.nn.init.normal_(head.weight, std=1e-5)
        head.bias.data.view(-1, 4)[:, 0] = 1
    return detector


def compare(detector: Detector, graph: Path, checkpoint: Path, images: list[Path]) -> EndToEnd:
    parameters = postprocess_parameters(load_detector(checkpoint).recipe)
    sides = open_sides(load_graph(graph), detector, parameters, source=graph.name)
    return compare_images(sides, images)


def write_graph(graph: Path, detector: Detector, path: Path, *, iou_threshold: float) -> Path:
    """Write a graph with the class heads of `detector` and another suppression threshold."""
    model = onnx.load(graph)
    weights = {f"detector.{name}": value.numpy() for name, value in detector.state_dict().items()}
    (nms,) = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    weights[nms.input[3]] = np.array([iou_threshold], dtype=np.float32)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("detector.class_heads.") or tensor.name == nms.input[3]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    path.write_bytes(model.SerializeToString())
    return path


def test_ties_are_borderline(
    undecided: SSDResNet34,
    small_graph: Path,
    small_checkpoint: Path,
    small_photos: list[Path],
    tmp_path: Path,
) -> None:
    graph = write_graph(small_graph, undecided, tmp_path / "ties.onnx", iou_threshold=0.5)
    figures = compare(undecided, graph, small_checkpoint, small_photos)
    assert figures.pairing.unpaired == 0
    assert figures.pairing.borderline > 0
    assert figures.batch_differences == 0


def test_ties_do_not_excuse_another_suppression(
    undecided: SSDResNet34,
    small_graph: Path,
    small_checkpoint: Path,
    small_photos: list[Path],
    tmp_path: Path,
) -> None:
    graph = write_graph(small_graph, undecided, tmp_path / "other.onnx", iou_threshold=0.6)
    figures = compare(undecided, graph, small_checkpoint, small_photos)
    assert figures.logits < 1e-3 and figures.deltas < 1e-3
    assert figures.pairing.unpaired > 0
