"""The verb `export`: from a checkpoint to a verified graph and its sidecar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from suite.deploy.target_file import require_target, write_sidecar
from suite.deploy.targets import check_target
from suite.deploy.verify import measure_parity
from suite.errors import CheckFailed, SuiteError, UsageError
from suite.files import replacing
from suite.graph_file import load_graph
from suite.graph_metadata import GraphMetadata, Precision


def export(
    checkpoint: Path,
    request: GraphRequest | None = None,
    *,
    output: Path | None = None,
    images: Sequence[Path] = (),
    force: bool = False,
    check: Callable[[GraphMetadata], None] = lambda _: None,
) -> tuple[Path, Parity]:
    """Write `<checkpoint>.onnx` and its sidecar, after proving that it equals the checkpoint.

    Args:
        checkpoint: the .pth file.
        request: what kind of graph is wanted.
        output: another name for the graph.
        images: photos for the end-to-end comparison, and for the ranges of int8.
        force: replace an existing file, once the new graph is proven.
        check: raises where what comes after the export could not be done with such a graph.

    Returns:
        The graph's path and its parity figures.

    Raises:
        InputError: the checkpoint is unusable.
        UsageError: the target exists, or is not named `.onnx`, or there can be no such graph.
        CheckFailed: the graph differs from the checkpoint; it is not written, and what stood there
            before stays.
        SuiteError: the target cannot be written.
    """
    output = output or checkpoint.with_suffix(".onnx")
    require_target(output, checkpoint, kind="checkpoint", force=force)
    trained = load_detector(checkpoint)
    request = request or GraphRequest()
    metadata = describe_graph(trained, request)
    check_target(metadata)
    check(metadata)
    model = _build(trained, request, metadata, images)
    try:
        with replacing(output) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
            graph = load_graph(temporary)
            parity = measure_parity(graph, trained, images=images, source=str(output))
            _require_parity(parity, checkpoint, output)
            figures = {**parity.as_dict(), "onnxruntime": onnxruntime.__version__}
            write_sidecar(output, graph, {"parity": figures})
    except OSError as error:
        raise SuiteError(f"{output}: cannot be written: {error.strerror}") from error
    return output, parity


def _build(
    trained: TrainedDetector,
    request: GraphRequest,
    metadata: GraphMetadata,
    images: Sequence[Path],
) -> onnx.ModelProto:
    if request.precision == "int8" and not images:
        raise UsageError(
            "--precision int8: ranges are taken from photos; give some with --images, or quantize "
            "an exported graph inside a budget of AP with `suite quantize`"
        )
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
    chosen = choose_images(images, NUM_CALIBRATION_IMAGES)
    quantised = quantize_graph(model, prepare_feeds(chosen, metadata))
    describe_in(quantised, replace(metadata, calibration=describe_calibration(chosen, ())))
    return quantised


def _require_parity(parity: Parity, checkpoint: Path, output: Path) -> None:
    if failures := parity.failures():
        kept = f"; {output} is an older one, and stays" if output.exists() else ""
        raise CheckFailed(
            f"{checkpoint}: its graph does not compute the same: {'; '.join(failures)}{kept}"
        )
