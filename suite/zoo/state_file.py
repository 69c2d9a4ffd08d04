"""Files of other PyTorch projects: their state dict, found in the wrapping each of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from suite.errors import InputError
from suite.weights import is_dense, load_plain

_WRAPPINGS: Final = ("state_dict", "model", "weights", "model_state_dict")
_PARALLEL: Final = "module."


@dataclass(frozen=True)
class StateFile:
    """What a file holds.

    Attributes:
        path: the file.
        tensors: its state dict, without the prefix that data-parallel training leaves.
        beside: what stands beside the state dict; plain data of unknown form.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    beside: Mapping[Any, Any]


def read_state_file(path: Path) -> StateFile:
    """Read a file; nothing in it is run.

    Raises:
        InputError: it is missing, damaged, holds other objects, or no state dict.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder; give the file of weights in it")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        content = load_plain(path)
    except InputError as error:
        raise InputError(
            f"{error}. A training checkpoint often holds pickled objects beside its weights; where "
            "you trust it, save the weights alone: torch.save(torch.load(FILE, weights_only=False)"
            "['state_dict'], 'weights.pth')"
        ) from error
    beside: Mapping[Any, Any] = {}
    if isinstance(content, dict) and not _is_state_dict(content, path):
        wrapped = next((content[key] for key in _WRAPPINGS if key in content), None)
        beside, content = content, wrapped
    if not isinstance(content, dict) or not _is_state_dict(content, path):
        raise InputError(
            f"{path}: no state dict; expected a dictionary of dense tensors by name, alone or "
            f"under one of the keys {', '.join(_WRAPPINGS)}"
        )
    if all(name.startswith(_PARALLEL) for name in content):
        content = {name.removeprefix(_PARALLEL): value for name, value in content.items()}
    return StateFile(path, content, beside)


def _is_state_dict(content: dict[Any, Any], path: Path) -> bool:
    size = path.stat().st_size
    return bool(content) and all(
        type(name) is str and is_dense(value, max_bytes=size) for name, value in content.items()
    )
