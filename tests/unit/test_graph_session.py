"""What ONNX Runtime is told when a graph is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from suite.device import Device
from suite.graph_metadata import Precision
from suite.graph_session import open_graph
from suite.runtime import load_detect

_ALL = ["CANNExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What sessions are asked for; none is opened. No Ascend is here to try it on."""
    asked: list[Any] = []

    class Session:
        def __init__(self, content: bytes, options: Any, *, providers: Any, **more: Any) -> None:
            asked.append((providers, more))
            self._first = providers[0][0]

        def get_providers(self) -> list[str]:
            return [self._first, "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: _ALL)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return asked


@pytest.mark.parametrize(
    ("precision", "mode"),
    [
        ("fp32", "allow_fp32_to_fp16"),
        ("int8", "allow_fp32_to_fp16"),
        ("fp16", "must_keep_origin_dtype"),
    ],
)
def test_an_ascend_gets_its_options(opened: list[Any], precision: Precision, mode: str) -> None:
    open_graph(b"", source="a graph", kind="npu", graph_precision=precision)
    options = {"enable_cann_graph": "1", "precision_mode": mode}
    assert opened == [([("CANNExecutionProvider", options)], {"enable_fallback": 0})]


def test_other_devices_get_none(opened: list[Any]) -> None:
    open_graph(b"", source="a graph", kind="cuda", graph_precision="fp16")
    open_graph(b"", source="a graph")
    assert [providers for providers, _ in opened] == [
        [("CUDAExecutionProvider", {})],
        [("CPUExecutionProvider", {})],
    ]


def test_a_graph_is_opened_by_the_precision_it_says(
    opened: list[Any], small_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_detect(small_graph, device=Device("npu", torch.device("cpu"), "fp32"))
    ((((name, options),), _),) = opened
    assert (name, options["precision_mode"]) == ("CANNExecutionProvider", "allow_fp32_to_fp16")
