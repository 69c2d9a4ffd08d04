"""What is set for a vendor's libraries before they start."""

from __future__ import annotations

import os

import pytest

from suite.device_facts import limit_collectives


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HCCL_EXEC_TIMEOUT", "HCCL_EVENT_TIMEOUT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(("patience_s", "limit"), [(600.0, 476), (76.0, 68), (10.0, 68)])
def test_hccl_gives_up_before_the_process_group(patience_s: float, limit: int) -> None:
    limit_collectives("npu", patience_s=patience_s)
    assert int(os.environ["HCCL_EXEC_TIMEOUT"]) == limit
    assert limit % 68 == 0
    assert int(os.environ["HCCL_EVENT_TIMEOUT"]) > limit


@pytest.mark.usefixtures("empty")
def test_what_is_set_stays_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_collectives("cuda", patience_s=600.0)
    assert "HCCL_EXEC_TIMEOUT" not in os.environ
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "1836")
    limit_collectives("npu", patience_s=600.0)
    assert os.environ["HCCL_EXEC_TIMEOUT"] == "1836"
