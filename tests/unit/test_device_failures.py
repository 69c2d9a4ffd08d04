"""The sentences for a device that fails while it computes."""

from __future__ import annotations

import re

import pytest
import torch

from suite.device import build_device
from suite.device_failures import explaining_failures
from suite.errors import MissingEnvironment

REFUSED = (
    "The operator 'aten::topk' would execute its main computation on CPU through dispatcher "
    "backend fallback, but CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1."
)


def explain(error: Exception) -> None:
    device = build_device("cpu", "fp32")
    with explaining_failures(device, holding="8 images at a time", remedy="give it fewer"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("NPU out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_is_told_with_what_was_held(error: Exception) -> None:
    words = r" ran out of memory with 8 images at a time, \d+\.\d GiB at the peak; give it fewer$"
    with pytest.raises(MissingEnvironment, match=words):
        explain(error)


def test_lacking_operator_is_named_with_what_allows_it() -> None:
    with pytest.raises(MissingEnvironment, match="lacks the operator aten::topk, which --strict-d"):
        explain(RuntimeError(REFUSED))


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("shape")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape("shape")):
        explain(error)
