"""What a graph that says nothing of itself would say, were it its checkpoint's own."""

from __future__ import annotations

import onnx

from suite.checkpoint import TrainedDetector
from suite.deploy.description import GraphRequest, describe_graph
from suite.deploy.third_party_layouts import ThirdParty
from suite.errors import CheckFailed, UsageError
from suite.graph_file import NETWORK_INPUT_NAME, GraphFile
from suite.graph_metadata import GraphMetadata, Precision


def describe_own(file: ThirdParty, trained: TrainedDetector, *, source: str) -> GraphFile:
    """Attach the description that the checkpoint's own graph would have to one that has none.

    Raises:
        CheckFailed: there can be no such graph of the checkpoint.
    """
    layout = file.layout
    wanted = [trained.detector.num_logits, 4]
    kept = trained.recipe.postprocess.max_detections
    if layout.name == "suite":
        wanted = [4, kept, kept]
    # Of both layouts the last axes; batch and anchors are free.
    found = [dims[-1] for dims in layout.dims[:3]]
    if any(dim not in (0, size) for dim, size in zip(found, wanted, strict=True)):
        raise CheckFailed(
            f"{source}: no graph of this checkpoint: its outputs end in sides {found}, not {wanted}"
        )
    return GraphFile(file.model, describe_like(file, trained, source=source), file.sha256)


def describe_like(file: ThirdParty, trained: TrainedDetector, *, source: str) -> GraphMetadata:
    """Describe the checkpoint's own graph of the same input.

    Raises:
        CheckFailed: there can be no such graph of the checkpoint.
    """
    layout = file.layout
    image_hw = layout.image_hw or (_find_canvas(file) if layout.prepares else ())
    request = GraphRequest(
        nms="none" if layout.name == "heads" else "op",
        size=(image_hw[0], image_hw[1]) if image_hw else None,
        batch=layout.batch,
        prepare=layout.prepares,
        precision=_guess_precision(file),
    )
    try:
        return describe_graph(trained, request)
    except UsageError as error:
        raise CheckFailed(f"{source}: no graph of this checkpoint: {error}") from error


def _guess_precision(file: ThirdParty) -> Precision:
    graph = file.model.graph
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "int8"
    kinds = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    return "fp16" if onnx.TensorProto.FLOAT16 in kinds else "fp32"


def _find_canvas(file: ThirdParty) -> tuple[int, ...]:
    """Return the size to which a graph of ours prepares images; () where it does not say."""
    for value in file.model.graph.value_info:
        if value.name == NETWORK_INPUT_NAME:
            sides = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[-2:]
            return sides if len(sides) == 2 and all(sides) else ()
    return ()
