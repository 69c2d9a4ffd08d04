"""The verb `verify`: proof that a graph computes what its checkpoint computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from suite.checkpoint import TrainedDetector, load_detector
from suite.deploy.description import describe_graph
from suite.deploy.end_to_end import compare_images
from suite.deploy.parity import Parity
from suite.deploy.stages import compare_stages
from suite.errors import CheckFailed, UsageError
from suite.graph_file import GraphFile, load_graph
from suite.graph_metadata import GraphMetadata
from suite.records import Record, build_record
from suite.runtime import graph_subject, postprocess_parameters
from suite.strict_yaml import list_keys

# Where these differ, the two have no arrays of one shape to compare.
_SHAPE_FIELDS = {
    "image_hw",
    "num_classes",
    "postprocess.max_detections",
    "postprocess.pre_topk",
}


def verify(model: Path, checkpoint: Path, *, images: Sequence[Path] = ()) -> Parity:
    """Compare a graph with the checkpoint it is said to come from.

    Args:
        model: the .onnx file.
        checkpoint: the .pth file.
        images: photos for the end-to-end comparison, besides generated inputs.

    Returns:
        The figures; `failures()` says what does not hold.

    Raises:
        InputError: a file is unusable.
        CheckFailed: the two are of different shape, so there is nothing to measure.
    """
    graph = load_graph(model)
    trained = load_detector(checkpoint)
    differing = list_differences(graph.metadata, _describe_like(graph, trained))
    if not _SHAPE_FIELDS.isdisjoint(differing):
        raise CheckFailed(
            f"{model}: not the graph of {checkpoint}, they differ in {', '.join(differing)}"
        )
    parity = measure_parity(graph, trained, images=images, source=str(model))
    return replace(parity, metadata=tuple(differing))


def build_parity_record(kind: str, model: Path, parity: Parity) -> Record:
    """Return the record of a verification; the kind is "verify" or "export"."""
    figures = parity.as_dict()
    differing = figures.pop("metadata")
    return build_record(
        kind,
        metrics=figures,
        subject=graph_subject(load_graph(model)),
        conditions={"kind": "cpu", "differing_metadata": differing, "failures": parity.failures()},
    )


def list_differences(graph: GraphMetadata, checkpoint: GraphMetadata) -> list[str]:
    """Return the dotted keys in which two descriptions differ, the software's versions apart."""
    keys = [key for key in list_keys(GraphMetadata) if not key.startswith("software.")]
    return [key for key in keys if attrgetter(key)(graph) != attrgetter(key)(checkpoint)]


def _describe_like(graph: GraphFile, trained: TrainedDetector) -> GraphMetadata:
    """Describe the checkpoint's own graph of the same kind and, where it can be, the same size."""
    image_hw = graph.metadata.image_hw
    size = (image_hw[0], image_hw[1]) if image_hw else None
    try:
        return describe_graph(trained, nms=graph.metadata.nms, size=size)
    except UsageError:
        return describe_graph(trained, nms=graph.metadata.nms)


def measure_parity(
    graph: GraphFile, trained: TrainedDetector, *, images: Sequence[Path] = (), source: str
) -> Parity:
    """Compare a graph with a checkpoint of the same shape, stage by stage and on whole images.

    Args:
        graph: the graph.
        trained: the checkpoint.
        images: real photos; a detector fires on few things else.
        source: how messages name the graph.

    Raises:
        InputError: the graph does not run, or an image cannot be read.
    """
    detector, parameters = trained.detector, postprocess_parameters(trained.recipe)
    whole = compare_images(graph, detector, parameters, images=images, source=source)
    parity = Parity(
        logits=whole.logits,
        deltas=whole.deltas,
        detections=whole.pairing.total,
        paired=whole.pairing.paired,
        borderline=whole.pairing.borderline,
        unpaired=whole.pairing.unpaired,
        batch_differences=whole.batch_differences,
        misfits=whole.misfits,
        nonfinite=whole.nonfinite,
        num_images=whole.num_images,
    )
    if graph.metadata.nms == "none":
        return parity
    candidates, nms_differs = compare_stages(graph, detector, parameters, source=source)
    return replace(
        parity,
        candidates=candidates.total,
        candidates_unpaired=candidates.unpaired,
        nms_cases=len(nms_differs),
        nms_differences=sum(nms_differs),
    )
