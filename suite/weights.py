"""Weights from files of others: read without running anything in them, backbones also from a URL.

A download is kept in the cache. It is checked against the digest that its publisher put into the
file name (torchvision's `resnet34-b627a593.pth`), else against that of the first download.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from suite.download import Progress, Say, fetch, keep_digest, say_on_stderr, show_nothing
from suite.errors import InputError, UsageError
from suite.files import cache_folder

# What torch.load raises on files that are not its own, depending on where the parsing stops.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)


def load_plain(path: Path) -> Any:
    """Read what `torch.save` wrote, tensors and plain data alone, onto the CPU.

    Nothing in the file is run, and nothing is decompressed: torch never compresses, bombs do.

    Raises:
        InputError: the file is something else, holds other objects, or is damaged.
    """
    try:
        if zipfile.is_zipfile(path):
            _require_stored(path)
        with warnings.catch_warnings():
            # About pickles by others; those that hold more than plain data are refused below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (*_LOAD_ERRORS, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: not a file of tensors and plain data, or cut short; it was not loaded"
        ) from error


def is_dense(value: object, *, max_bytes: int) -> bool:
    """Tell whether a value is an ordinary tensor: dense, on the CPU, no larger than `max_bytes`.

    A file can describe a tensor far larger than itself, by repeating one element.
    """
    return (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.is_quantized
        and value.nbytes <= max_bytes
    )


def load_backbone_weights(
    backbone: nn.Module,
    source: str,
    *,
    progress: Progress = show_nothing,
    say: Say = say_on_stderr,
) -> None:
    """Load ImageNet weights into a backbone; they are cast, so that half precision may be stored.

    Args:
        backbone: takes torchvision's key names; what it does not have is left out.
        source: a path, or an https URL, which is downloaded once. http is for this machine alone.
        progress: of a download, see `suite.download.fetch`.
        say: likewise.

    Raises:
        InputError: the file cannot be had, is damaged, or does not fit the backbone.
        UsageError: the URL is of another kind.
    """
    path = Path(source)
    if "://" in source:
        try:
            path = fetch_weights(source, progress=progress, say=say)
        except InputError as error:
            raise InputError(
                f"{error}; or name another file: --set detector.backbone_weights=FILE"
            ) from error
    weights = _load_tensors(path)
    wanted = {
        key: tensor
        for key, tensor in backbone.state_dict().items()
        # A counter, which is not in all files and which nothing here reads.
        if key in weights or not key.endswith("num_batches_tracked")
    }
    _require_fit(weights, wanted, path)
    fitting = {key: weights[key].to(tensor.dtype) for key, tensor in wanted.items()}
    backbone.load_state_dict(fitting, strict=False)


def fetch_weights(
    url: str,
    folder: Path | None = None,
    *,
    progress: Progress = show_nothing,
    say: Say = say_on_stderr,
) -> Path:
    """Return the file of a URL, downloaded where it is not there yet.

    Args:
        url: https; http is for this machine alone.
        folder: where it is kept; None for the cache, where training looks for it.
        progress: see `suite.download.fetch`.
        say: likewise.

    Raises:
        InputError: the file cannot be had, or is another one than its name or the first says.
        UsageError: the URL is of another kind.
    """
    name = _file_name(url)
    path = (folder or _folder_of(url)) / name
    stated = re.search(r"-([0-9a-f]{8,64})\.", name)
    digest = stated[1] if stated else None
    found = fetch(url, path, digest=digest, progress=progress, say=say)
    if digest is None:
        try:
            _load_tensors(path)
        except InputError as error:
            raise InputError(f"{error}; delete it to fetch it again") from error
        keep_digest(path, found, say=say)
    return path


def _require_stored(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise InputError(f"{path}: has compressed members, which torch never writes")


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: backbone weights not found; set detector.backbone_weights")
    content = load_plain(path)
    size = path.stat().st_size
    if not isinstance(content, dict) or not all(
        is_dense(value, max_bytes=size) for value in content.values()
    ):
        raise InputError(f"{path}: expected a dictionary of tensors (a state dict)")
    return content


def _require_fit(weights: dict[str, Tensor], wanted: dict[str, Tensor], path: Path) -> None:
    missing = [key for key in wanted if key not in weights]
    if missing:
        raise InputError(
            f"{path}: no weights for '{missing[0]}' ({len(missing)} of {len(wanted)} are missing); "
            "expected torchvision's key names"
        )
    for key, tensor in wanted.items():
        if weights[key].shape != tensor.shape:
            raise InputError(
                f"{path}: '{key}' has shape {tuple(weights[key].shape)}, the detector wants "
                f"{tuple(tensor.shape)} (published weights fit width 1.0 only)"
            )


def _file_name(url: str) -> str:
    try:
        name = Path(urlsplit(url).path).name
    except ValueError as error:
        raise UsageError(f"URL '{url}': {error}") from error
    if name in ("", ".."):
        raise UsageError(f"URL '{url}': names no file")
    return name


def _folder_of(url: str) -> Path:
    """Return where a URL is kept; the same name from two places is two files."""
    return cache_folder("weights") / hashlib.sha256(url.encode()).hexdigest()[:16]
