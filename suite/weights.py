"""Weights from files of others: read without running anything in them, backbones also from a URL.

A download is kept in the cache. It is checked against the digest that its publisher put into the
file name (torchvision's `resnet34-b627a593.pth`), else against that of the first download, which is
kept beside it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import re
import shutil
import struct
import sys
import urllib.request
import warnings
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from suite.errors import InputError, UsageError
from suite.files import file_sha256, replacing, write_text

_NETWORK_TIMEOUT_S = 60
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


def load_backbone_weights(backbone: nn.Module, source: str) -> None:
    """Load ImageNet weights into a backbone; they are cast, so that half precision may be stored.

    Args:
        backbone: takes torchvision's key names; what it does not have is left out.
        source: a path, or an https URL, which is downloaded once. http is for this machine alone.

    Raises:
        InputError: the file cannot be had, is damaged, or does not fit the backbone.
        UsageError: the URL is of another kind.
    """
    path = _fetch(source) if "://" in source else Path(source)
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


def _fetch(url: str) -> Path:
    """Return the cached file of a URL, downloaded where it is not there yet."""
    path = _cached_path(url)
    kept = path.with_name(path.name + ".sha256")
    stated = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if path.exists() and (stated or kept.exists()):
        expected = stated[1] if stated else kept.read_text(encoding="utf-8").strip()
        _require_digest(path, expected, source=f"{path} (delete it to fetch it again)")
        return path
    print(f"fetching {url}", file=sys.stderr)
    try:
        with replacing(path) as temporary:
            _download(url, temporary)
            if stated:
                _require_digest(temporary, stated[1], source=url)
            else:
                digest = file_sha256(temporary)
                write_text(kept, digest + "\n")
                print(f"no digest in its name; kept for the next time: {digest}", file=sys.stderr)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"cannot fetch backbone weights {url} ({error}); "
            "give a local file: --set detector.backbone_weights=FILE"
        ) from error
    return path


def _cached_path(url: str) -> Path:
    """Return where a URL is kept; the same name from two places is two files."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError as error:
        raise UsageError(f"backbone weights URL '{url}': {error}") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise UsageError(f"backbone weights URL '{url}': only https is fetched")
    name = Path(parts.path).name
    if not name:
        raise UsageError(f"backbone weights URL '{url}': names no file")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = hashlib.sha256(url.encode()).hexdigest()[:16]
    return cache / "npu-detection-suite" / "weights" / place / name


def _download(url: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "npu-detection-suite"})  # noqa: S310  (https, see _cached_path)
    with (
        urllib.request.urlopen(request, timeout=_NETWORK_TIMEOUT_S) as answer,  # noqa: S310
        path.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file)
        announced = answer.headers.get("Content-Length")
        if announced is not None and int(announced) != file.tell():
            raise OSError(f"the connection ended after {file.tell()} of {announced} bytes")


def _require_digest(path: Path, expected: str, *, source: str) -> None:
    digest = file_sha256(path)
    if not digest.startswith(expected):
        raise InputError(f"{source}: its sha256 is {digest}, expected {expected}")
