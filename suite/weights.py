"""Backbone weights from a file or a URL, under torchvision's key names.

Weights may be stored in fp16; they are cast on load. The file is never unpickled freely
(`weights_only`), and a download is checked against the digest its publisher put into the file name
(torchvision's `resnet34-b627a593.pth`), else against that of the first download, which is kept beside it.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import urllib.error
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from suite.errors import InputError, UsageError
from suite.files import file_sha256, write_text

# What torch.load raises on files that are not weights, depending on where the parsing stops.
LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
)


def load_backbone_weights(backbone: nn.Module, source: str) -> None:
    """Load ImageNet weights into a backbone.

    Args:
        backbone: takes torchvision's key names; stages and classifier it does not have are left out.
        source: a path, or an http(s) URL, which is downloaded once into the cache.

    Raises:
        InputError: the file is missing, damaged, or does not fit the backbone.
    """
    path = _download(source) if "://" in source else Path(source)
    weights = _read_tensors(path)
    wanted = backbone.state_dict()
    missing = [
        key for key in wanted if key not in weights and not key.endswith("num_batches_tracked")
    ]
    if missing:
        raise InputError(f"{path}: no weights for '{missing[0]}' and {len(missing) - 1} more keys")
    for key, tensor in wanted.items():
        if key in weights and weights[key].shape != tensor.shape:
            raise InputError(
                f"{path}: '{key}' has shape {tuple(weights[key].shape)}, the detector wants "
                f"{tuple(tensor.shape)} (published weights fit width 1.0 only)"
            )
    fitting = {key: weights[key].to(wanted[key].dtype) for key in wanted if key in weights}
    backbone.load_state_dict(fitting, strict=False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: backbone weights not found; set detector.backbone_weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a plain weights file ({first_line})") from error
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: expected a dictionary of tensors (a state dict)")
    return content


def _download(url: str) -> Path:
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"backbone weights URL '{url}': only http and https are fetched")
    path = _cache_folder() / Path(urlsplit(url).path).name
    stated = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Writes to a temporary name, checks the digest, then renames.
            torch.hub.download_url_to_file(
                url,
                str(path),
                hash_prefix=stated[1] if stated else None,
                progress=sys.stderr.isatty(),
            )
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"cannot fetch backbone weights {url} ({error}); "
                "give a local file: --set detector.backbone_weights=FILE"
            ) from error
    _check_digest(path, stated[1] if stated else None)
    return path


def _check_digest(path: Path, stated: str | None) -> None:
    """Compare with the publisher's digest, else with the stored one of the first download."""
    digest = file_sha256(path)
    kept = path.with_name(path.name + ".sha256")
    if stated is None and not kept.exists():
        write_text(kept, digest + "\n")
        print(
            f"{path.name}: no published digest; stored that of this download: {digest}",
            file=sys.stderr,
        )
    expected = stated or kept.read_text(encoding="utf-8").strip()
    if not digest.startswith(expected):
        raise InputError(
            f"{path}: sha256 is {digest[:16]}..., expected {expected[:16]}; delete the file"
        )


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "npu-detection-suite" / "weights"
