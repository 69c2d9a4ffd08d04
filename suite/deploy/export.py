"""The verb `export`: from a checkpoint to a verified graph and its sidecar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime

from suite.checkpoint import TrainedDetector, load_detector
from suite.deploy.description import GraphRequest, describe_graph
from suite.deploy.graph import build_graph, describe_in
from suite.deploy.parity import Parity
from suite.deploy.quantization import (
    NUM_CALIBRATION_IMAGES,
    choose_images,
    describe_calibration,
    prepare_feeds,
    quantize_graph,
)
from suite.deploy.targets import check_target
from suite.deploy.verify import measure_parity
from suite.errors import CheckFailed, SuiteError, UsageError
from suite.files import replacing, write_text
from suite.graph_file import GraphFile, load_graph, sidecar_path
from suite.graph_metadata import GraphMetadata, Precision, encode_metadata


def export(
    checkpoint: Path,
    request: GraphRequest | None = None,
    *,
    output: Path | None = None,
    images: Sequence[Path] = (),
    force: bool = False,
) -> tuple[Path, Parity]:
    """Write `<checkpoint>.onnx` and its sidecar, after proving that it equals the checkpoint.

    Args:
        checkpoint: the .pth file.
        request: what kind of graph is wanted.
        output: another name for the graph.
        images: photos for the end-to-end comparison, and for the ranges of int8.
        force: replace an existing file.

    Returns:
        The graph's path and its parity figures.

    Raises:
        InputError: the checkpoint is unusable.
        UsageError: the target exists, or is not named `.onnx`, or there can be no such graph.
        CheckFailed: the graph differs from the checkpoint; nothing stands at the target name then,
            not even what stood there before.
        SuiteError: the target cannot be written.
    """
    output = output or checkpoint.with_suffix(".onnx")
    _require_target(output, checkpoint, force=force)
    trained = load_detector(checkpoint)
    model = _build(trained, request or GraphRequest(), images)
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


def _build(
    trained: TrainedDetector, request: GraphRequest, images: Sequence[Path]
) -> onnx.ModelProto:
    metadata = describe_graph(trained, request)
    check_target(metadata)
    model = build_graph(trained, replace(request, precision=_built_precision(request)))
    if request.precision == "int8":
        model = _quantize(model, metadata, images)
    check_target(metadata, model)
    return model


def _built_precision(request: GraphRequest) -> Precision:
    return "fp32" if request.precision == "int8" else request.precision


def _quantize(
    model: onnx.ModelProto, metadata: GraphMetadata, images: Sequence[Path]
) -> onnx.ModelProto:
    if not images:
        raise UsageError(
            "--precision int8: ranges are taken from photos; give some with --images, or quantize "
            "an exported graph inside a budget of AP with `suite quantize`"
        )
    chosen = choose_images(images, NUM_CALIBRATION_IMAGES)
    quantised = quantize_graph(model, prepare_feeds(chosen, metadata))
    describe_in(quantised, replace(metadata, calibration=describe_calibration(chosen, ())))
    return quantised


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
