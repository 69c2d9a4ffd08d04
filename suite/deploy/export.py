"""The verb `export`: from a checkpoint to a verified graph and its sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from suite.checkpoint import load_detector
from suite.deploy.graph import build_graph
from suite.deploy.parity import Parity
from suite.deploy.verify import measure_parity
from suite.errors import CheckFailed, SuiteError, UsageError
from suite.files import replacing, write_text
from suite.graph_file import GraphFile, load_graph, sidecar_path
from suite.graph_metadata import Nms, encode_metadata


def export(
    checkpoint: Path,
    *,
    output: Path | None = None,
    nms: Nms = "op",
    size: tuple[int, int] | None = None,
    images: Sequence[Path] = (),
    force: bool = False,
) -> tuple[Path, Parity]:
    """Write `<checkpoint>.onnx` and its sidecar, after proving that it equals the checkpoint.

    Args:
        checkpoint: the .pth file.
        output: another name for the graph.
        nms: "op" puts the postprocess into the graph, "none" leaves raw heads.
        size: height and width to fix; None leaves them free where the detector does.
        images: photos for the end-to-end comparison.
        force: replace an existing file.

    Returns:
        The graph's path and its parity figures.

    Raises:
        InputError: the checkpoint is unusable.
        UsageError: the target exists, or is not named `.onnx`, or the detector cannot take `size`.
        CheckFailed: the graph differs from the checkpoint; nothing stands at the target name then,
            not even what stood there before.
        SuiteError: the target cannot be written.
    """
    output = output or checkpoint.with_suffix(".onnx")
    _require_target(output, checkpoint, force=force)
    trained = load_detector(checkpoint)
    model = build_graph(trained, nms=nms, size=size)
    try:
        with replacing(output) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            graph = load_graph(temporary)
            parity = measure_parity(graph, trained, images=images, source=str(output))
            _require_parity(parity, checkpoint, output)
            # Before the graph has its name: a graph that is there has its sidecar. Should we die
            # in between, its sha256 is not that of an older graph, and `load_graph` refuses that.
            _write_sidecar(sidecar_path(output), graph, parity)
    except OSError as error:
        raise SuiteError(f"{output}: cannot be written: {error.strerror}") from error
    return output, parity


def _require_target(output: Path, checkpoint: Path, *, force: bool) -> None:
    if output.suffix != ".onnx":
        raise UsageError(f"{output}: the name of a graph ends with .onnx")
    if output.is_dir():
        raise UsageError(f"{output}: is a folder")
    if not output.exists():
        return
    if checkpoint.exists() and output.samefile(checkpoint):
        raise UsageError(f"{output}: is the checkpoint itself; pass another --output")
    if not force:
        raise UsageError(f"{output}: exists already; pass --force to replace it")


def _require_parity(parity: Parity, checkpoint: Path, output: Path) -> None:
    if failures := parity.failures():
        output.unlink(missing_ok=True)
        sidecar_path(output).unlink(missing_ok=True)
        raise CheckFailed(
            f"{checkpoint}: its graph does not compute the same: {'; '.join(failures)}"
        )


def _write_sidecar(path: Path, graph: GraphFile, parity: Parity) -> None:
    content = {
        **encode_metadata(graph.metadata),
        "sha256": graph.sha256,
        "parity": {**parity.as_dict(), "onnxruntime": onnxruntime.__version__},
    }
    write_text(path, json.dumps(content, indent=2) + "\n")
