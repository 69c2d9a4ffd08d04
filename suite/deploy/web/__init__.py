"""A folder that detects in the browser: page, graph and onnxruntime-web's files, nothing else.

It needs any server of static files, and no network beyond it. The same graph and the same runtime
files give the same bytes. The names in the folder are ours; none comes from the graph.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from suite.deploy.web.runtime_files import RUNTIME_NAMES, fetch_runtime, read_runtime
from suite.drawing import PALETTE
from suite.errors import InputError, UsageError
from suite.files import completing, read_bounded, write_text
from suite.graph_file import MAX_GRAPH_BYTES, GraphFile, load_graph
from suite.graph_metadata import GraphMetadata, encode_metadata
from suite.sizing import build_sizing

GRAPH_NAME = "model.onnx"
DESCRIPTION_NAME = "model.json"
PAGE_NAMES = ("index.html", "style.css", "page.js", "detect.js")
FOLDER_NAMES = (*PAGE_NAMES, GRAPH_NAME, DESCRIPTION_NAME, *RUNTIME_NAMES)

_PAGE = Path(__file__).parent / "page"


def write_page(graph: Path, folder: Path, *, runtime_files: Path | None = None) -> Path:
    """Write a page that detects with a graph; return its `index.html`.

    Args:
        graph: one of this suite with its postprocess inside.
        folder: to be made, complete or not at all.
        runtime_files: an unpacked npm package onnxruntime-web, or its `dist`; None: npm fetches it.

    Raises:
        InputError: the graph or the runtime's files are unusable, or the folder cannot be written.
        MissingEnvironment: npm is absent or cannot fetch the package.
        UsageError: the folder exists already, or the page cannot work with such a graph.
    """
    require_folder(folder)
    loaded = load_graph(graph)
    require_detects(loaded.metadata, source=str(graph))
    content = read_bounded(graph, limit=MAX_GRAPH_BYTES, remedy="give a graph")
    if hashlib.sha256(content).hexdigest() != loaded.sha256:
        raise InputError(f"{graph}: was written to while it was read; try again")
    runtime = read_runtime(runtime_files) if runtime_files is not None else fetch_runtime()
    with completing(folder) as temporary:
        for name in PAGE_NAMES:
            (temporary / name).write_bytes((_PAGE / name).read_bytes())
        for name, part in runtime.items():
            (temporary / name).write_bytes(part)
        (temporary / GRAPH_NAME).write_bytes(content)
        write_text(temporary / DESCRIPTION_NAME, _describe(loaded, len(content)))
    return folder / "index.html"


def require_folder(folder: Path) -> None:
    """Refuse a folder that is there already.

    Raises:
        UsageError: it is.
    """
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder}: exists already; name a new folder for the page")


def require_detects(metadata: GraphMetadata, *, source: str) -> None:
    """Refuse a graph that answers with no boxes, or not for one picture at a time.

    Raises:
        UsageError: it is such a graph.
    """
    if metadata.nms == "none":
        raise UsageError(f"{source}: a page needs boxes, this graph has raw heads; pass --nms op")
    if metadata.batch > 1:
        raise UsageError(
            f"{source}: a page looks at one picture at a time, this graph at {metadata.batch}; "
            "pass --batch 1 or --batch dynamic"
        )


def _describe(graph: GraphFile, num_bytes: int) -> str:
    metadata = graph.metadata
    content: dict[str, Any] = {
        **encode_metadata(metadata),
        "sha256": graph.sha256,
        "num_bytes": num_bytes,
        "sizing": asdict(build_sizing(metadata.resize, canvas_hw=metadata.image_hw)),
        "palette": PALETTE,
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
