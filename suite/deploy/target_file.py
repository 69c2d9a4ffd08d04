"""Where a graph is written: what may not stand there, and what stands beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suite.errors import UsageError
from suite.files import write_text
from suite.graph_file import GraphFile, sidecar_path
from suite.graph_metadata import encode_metadata


def require_target(target: Path, source: Path, *, kind: str, force: bool) -> None:
    """Refuse a name that a graph must not have.

    Args:
        target: the graph's.
        source: what it is made of.
        kind: what that is, for people.
        force: whether an existing file may be replaced.

    Raises:
        UsageError: it does not end with `.onnx`, is a folder or the source, or is there already.
    """
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: the name of a graph ends with .onnx")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder")
    if not target.exists():
        return
    if source.exists() and target.samefile(source):
        raise UsageError(f"{target}: is the {kind} itself; pass another --output")
    if not force:
        raise UsageError(f"{target}: exists already; pass --force to replace it")


def write_sidecar(target: Path, graph: GraphFile, measured: dict[str, Any]) -> None:
    """Write what a graph cannot hold of itself, before it has its name.

    A graph that is there then has its sidecar. Should we die in between, its sha256 is not that of
    an older graph, and `load_graph` refuses that.
    """
    content = {**encode_metadata(graph.metadata), "sha256": graph.sha256, **measured}
    write_text(sidecar_path(target), json.dumps(content, indent=2) + "\n")


def delete_graph(target: Path) -> None:
    """Delete a graph and its sidecar, so that none is taken for what could not be written."""
    target.unlink(missing_ok=True)
    sidecar_path(target).unlink(missing_ok=True)
