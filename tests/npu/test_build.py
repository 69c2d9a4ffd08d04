"""Where the simulated NPU cannot be built, its tests say why they are skipped."""

from __future__ import annotations

import pytest

from tests.npu.build import missing_tool


def test_absent_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing_tool() == "no C++ compiler (g++), which the simulated NPU is built with"
