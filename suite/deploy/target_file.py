"""Where a graph is written: what may not stand there, and what stands beside it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from suite.errors import SuiteError, UsageError
from suite.files import write_text
from suite.graph_file import GraphFile, sidecar_path
from suite.graph_metadata import encode_metadata


def require_target(target: Path, source: Path, *, kind: str, force: bool) -> None:
    """Refuse a name that a graph must not have.

    Args:
        target: the graph's.
        source: what it is made of.
        kind: what that is, for people.
        force: whether existing files, a graph and its sidecar, may be replaced.

    Raises:
        UsageError: it does not end with `.onnx`, is a folder or the source, or it or a sidecar of
            that name is there already.
        SuiteError: nothing can be written there.
    """
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: the name of a graph ends with .onnx")
    try:
        _require_free(target, source, kind=kind, force=force)
        _probe(target)
    except OSError as error:
        raise SuiteError(f"{target}: cannot be written: {error.strerror}") from error


def _require_free(target: Path, source: Path, *, kind: str, force: bool) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target}: is the {kind} itself; pass another --output")
    for path in (target, sidecar_path(target)):
        if path.is_dir():
            raise UsageError(f"{path}: is a folder")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{path}: exists already; pass --force to replace it")


def _probe(target: Path) -> None:
    """Write to the folder of a graph, or to that in which it will be made; nothing stays."""
    folder = target.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_sidecar(target: Path, graph: GraphFile, measured: dict[str, Any]) -> None:
    """Write what a graph cannot hold of itself, before it has its name.

    A graph that is there then has its sidecar. Should we die in between, its sha256 is not that of
    an older graph, and `load_graph` refuses that.
    """
    content = {**encode_metadata(graph.metadata), "sha256": graph.sha256, **measured}
    write_text(sidecar_path(target), json.dumps(content, indent=2) + "\n")
