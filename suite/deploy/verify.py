"""The verb `verify`: proof that a graph computes what its checkpoint computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import attrgetter
from pathlib import Path

from models.postprocess import PostprocessParameters
from suite.checkpoint import TrainedDetector, load_detector
from suite.data import build_workers, load_split
from suite.deploy.description import GraphRequest, describe_graph, request_like
from suite.deploy.end_to_end import compare_images
from suite.deploy.parity import Parity
from suite.deploy.sides import Photo, open_sides
from suite.deploy.stages import compare_stages, open_stages
from suite.deploy.suspects import find_cause
from suite.device import build_device
from suite.errors import CheckFailed, UsageError
from suite.evaluation import evaluate
from suite.evaluation.model import find_recipe_of, require_same_classes
from suite.graph_file import GraphFile, load_graph
from suite.graph_metadata import GraphMetadata
from suite.progress import Progress
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.runtime import graph_subject, load_detect
from suite.strict_yaml import list_keys

_EVALUATION_BATCH = 8
# Where these differ, the two have no arrays of one shape to compare.
_SHAPE_FIELDS = {
    "image_hw",
    "num_classes",
    "postprocess.max_detections",
    "postprocess.pre_topk",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """On what a graph and its checkpoint are compared, besides generated inputs.

    Attributes:
        images: photos for the end-to-end comparison.
        data: root of the data set whose val split gives AP of both; None measures none.
        recipe: whose val split; None for the checkpoint's own.
    """

    images: Sequence[Path] = ()
    data: str | None = None
    recipe: Recipe | None = None


def verify(model: Path, checkpoint: Path, on: Comparison | None = None) -> Parity:
    """Compare a graph with the checkpoint it is said to come from.

    Args:
        model: the .onnx file.
        checkpoint: the .pth file.
        on: what they are compared on.

    Returns:
        The figures; `failures()` says what does not hold.

    Raises:
        InputError: a file is unusable.
        UsageError: the data are not of these classes.
        CheckFailed: the two are of different shape, so there is nothing to measure.
    """
    on = on or Comparison()
    graph = load_graph(model)
    trained = load_detector(checkpoint)
    differing = list_differences(graph.metadata, _describe_like(graph, trained))
    if not _SHAPE_FIELDS.isdisjoint(differing):
        raise CheckFailed(
            f"{model}: not the graph of {checkpoint}, they differ in {', '.join(differing)}"
        )
    parity = measure_parity(
        graph, trained, images=on.images, source=str(model), metadata=tuple(differing)
    )
    if on.data is None and on.recipe is None:
        return parity
    return _judge_by_data(parity, model, checkpoint, on)


def _judge_by_data(parity: Parity, model: Path, checkpoint: Path, on: Comparison) -> Parity:
    """Measure AP of both on the same images."""
    if parity.nms_cases == 0:
        raise UsageError(f"{model}: has no NMS inside, so no AP; leave --data out")
    recipe = on.recipe or find_recipe_of(checkpoint)
    section = recipe.data if on.data is None else replace(recipe.data, root=on.data)
    dataset = load_split(section, "val")
    progress = Progress(2 * len(dataset.samples), label="evaluate")
    found = []
    with closing(progress):
        for number, path in enumerate((checkpoint, model)):
            loaded = load_detect(path, device=build_device("cpu", "fp32"))
            require_same_classes(loaded, dataset, path)
            done = number * len(dataset.samples)
            evaluation, _ = evaluate(
                loaded.detect,
                dataset,
                sizing=loaded.sizing,
                batch_size=_EVALUATION_BATCH,
                workers=build_workers(section),
                progress=partial(_advance, progress, done),
            )
            found.append(evaluation.ap)
    return replace(
        parity, ap_checkpoint=found[0], ap_graph=found[1], ap_images=len(dataset.samples)
    )


def _advance(progress: Progress, before: int, images: int) -> None:
    progress.update(before + images)


def build_parity_record(kind: str, model: Path, parity: Parity) -> Record:
    """Return the record of a verification; the kind is "verify" or "export"."""
    figures = parity.as_dict()
    conditions = {
        "kind": "cpu",
        "differing_metadata": figures.pop("metadata"),
        "precision": figures.pop("precision"),
        "cause": figures.pop("cause"),
        "failures": parity.failures(),
    }
    subject = graph_subject(load_graph(model))
    return build_record(kind, metrics=figures, subject=subject, conditions=conditions)


def list_differences(graph: GraphMetadata, checkpoint: GraphMetadata) -> list[str]:
    """Return the dotted keys in which two descriptions differ, the software's versions apart."""
    keys = [key for key in list_keys(GraphMetadata) if not key.startswith("software.")]
    return [key for key in keys if attrgetter(key)(graph) != attrgetter(key)(checkpoint)]


def _describe_like(graph: GraphFile, trained: TrainedDetector) -> GraphMetadata:
    """Describe the checkpoint's own graph of the same kind and, where it can be, the same size."""
    request = request_like(graph.metadata)
    try:
        described = describe_graph(trained, request)
    except UsageError:
        described = describe_graph(trained, GraphRequest(nms=graph.metadata.nms))
    # Which images int8 was calibrated on is not the checkpoint's to know.
    return replace(described, calibration=graph.metadata.calibration)


def measure_parity(
    graph: GraphFile,
    trained: TrainedDetector,
    *,
    images: Sequence[Photo] = (),
    source: str,
    metadata: tuple[str, ...] = (),
) -> Parity:
    """Compare a graph with a checkpoint of the same shape, stage by stage and on whole images.

    Args:
        graph: the graph.
        trained: the checkpoint.
        images: real photos; a detector fires on few things else.
        source: how messages name the graph.
        metadata: fields in which its description differs from the checkpoint's.

    Raises:
        InputError: the graph does not run, or an image cannot be read.
    """
    parameters = PostprocessParameters(**asdict(graph.metadata.postprocess))
    sides = open_sides(graph, trained.detector, parameters, source=source)
    whole = compare_images(sides, images)
    exact = graph.metadata.precision == "fp32"
    parity = Parity(
        precision=graph.metadata.precision,
        network_input=whole.network_input,
        network_input_share=whole.network_input_share,
        logits=whole.logits,
        deltas=whole.deltas,
        detections=whole.pairing.total,
        paired=whole.pairing.paired,
        borderline=whole.pairing.borderline,
        unpaired=whole.pairing.unpaired,
        overlapping=None if exact or not sides.with_nms else whole.overlap.share,
        batch_differences=whole.batch_differences,
        misfits=whole.misfits,
        nonfinite=whole.nonfinite,
        num_images=whole.num_images,
        metadata=metadata,
    )
    if sides.with_nms:
        stages = open_stages(graph, trained.detector, parameters, source=source)
        candidates, nms_differs = compare_stages(stages)
        parity = replace(
            parity,
            candidates=candidates.total,
            candidates_unpaired=candidates.unpaired,
            nms_cases=len(nms_differs),
            nms_differences=sum(nms_differs),
        )
    return replace(parity, cause=find_cause(sides, parity))
