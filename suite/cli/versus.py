"""The flag --vs: another model, or other settings for the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.errors import UsageError

if TYPE_CHECKING:
    from suite.bench.candidate import InferenceRequest

# What one side may have and the other not; images and runs are the same for both.
_SETTINGS: Mapping[str, tuple[Callable[[str], Any], tuple[str, ...]]] = {
    "device": (str, ("auto", "cpu", "cuda", "npu")),
    "precision": (str, ("fp32", "bf16", "fp16")),
    "runtime": (str, ("ort", "openvino")),
    "threads": (int, ()),
    "batch": (int, ()),
}


def read_versus(text: str, request: InferenceRequest) -> InferenceRequest:
    """Return the other side of a comparison.

    Args:
        text: `MODEL`, `KEY=VALUE,...` for the same model, or `MODEL,KEY=VALUE,...`; what is not
            said is as in `request`, but for another model precision, runtime and threads are not
            taken over.

    Raises:
        UsageError: the text is none of these.
    """
    first, *others = text.split(",")
    if "=" in first:
        return replace(request, **dict(map(_read_setting, [first, *others])))
    model = Path(first)
    if not model.is_file():
        raise UsageError(f"--vs {first}: no such file; give a model or KEY=VALUE")
    bare = replace(request, model=model, precision=None, runtime=None, threads=None)
    return replace(bare, **dict(map(_read_setting, others)))


def _read_setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if key not in _SETTINGS:
        raise UsageError(f"--vs {text}: unknown setting {key!r}; known: {', '.join(_SETTINGS)}")
    kind, choices = _SETTINGS[key]
    if choices and value not in choices:
        raise UsageError(f"--vs {text}: expected one of {', '.join(choices)}")
    if kind is int and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise UsageError(f"--vs {text}: expected a whole number from 1")
    return key, kind(value)
