"""ONNX Runtime never runs on another provider than the one that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from suite.device import Kind
from suite.errors import MissingEnvironment
from suite.graph_session import PROVIDERS, open_graph
from tests.runtimes.conftest import Subject

pytestmark = pytest.mark.slow

ABSENT: list[Kind] = [
    kind for kind in PROVIDERS if PROVIDERS[kind] not in onnxruntime.get_available_providers()
]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("kind", ABSENT)
def test_a_provider_that_only_says_it_is_there_is_refused(
    subjects: Callable[[str], Subject], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As builds for an accelerator do on machines without its driver.
    listed = list(PROVIDERS.values())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    path: Path = subjects("ssd").path
    with pytest.raises(MissingEnvironment, match=f"{PROVIDERS[kind]}, ONNX Runtime fell back"):
        open_graph(path.read_bytes(), source=str(path), kind=kind)


def test_the_trap_is_real(subjects: Callable[[str], Subject]) -> None:
    """Without our checks ONNX Runtime goes on with its CPU provider and a mere warning."""
    path = subjects("ssd").path
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
