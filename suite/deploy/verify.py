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
from suite.deploy.third_party import build_detect, compare_third_party
from suite.deploy.third_party_description import describe_own
from suite.deploy.third_party_layouts import DESCRIPTIONS, ThirdParty, load_third_party
from suite.deploy.third_party_pair import AS_PREPARED, open_pair
from suite.device import build_device
from suite.errors import CheckFailed, UsageError
from suite.evaluation import evaluate
from suite.evaluation.model import find_recipe_of, require_same_classes
from suite.graph_file import GraphFile, load_graph
from suite.graph_metadata import GraphMetadata
from suite.progress import Progress
from suite.recipe import Recipe
from suite.records import Record, build_record
from suite.runtime import LoadedDetect, graph_subject, load_detect
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

    @property
    def with_data(self) -> bool:
        """Whether AP is measured."""
        return self.data is not None or self.recipe is not None


def verify(model: Path, checkpoint: Path, on: Comparison | None = None) -> Parity:
    """Compare a graph with the checkpoint it is said to come from.

    Args:
        model: the .onnx file; without metadata of ours it has to be of a known layout, see
            `suite.deploy.third_party_layouts`.
        checkpoint: the .pth file.
        on: what they are compared on.

    Returns:
        The figures; `failures()` says what does not hold.

    Raises:
        InputError: a file is unusable.
        UsageError: the data are not of these classes, or nothing was found that could be compared.
        CheckFailed: the two are of different shape, so there is nothing to measure.
    """
    on = on or Comparison()
    graph = load_third_party(model) or load_graph(model)
    trained = load_detector(checkpoint)
    if isinstance(graph, GraphFile):
        return _verify_own(graph, trained, on, places=(model, checkpoint))
    return _verify_third_party(graph, trained, on, places=(model, checkpoint))


def _verify_own(
    graph: GraphFile, trained: TrainedDetector, on: Comparison, *, places: tuple[Path, Path]
) -> Parity:
    model, checkpoint = places
    differing = list_differences(graph.metadata, _describe_like(graph, trained))
    if not _SHAPE_FIELDS.isdisjoint(differing):
        raise CheckFailed(
            f"{model}: not the graph of {checkpoint}, they differ in {', '.join(differing)}"
        )
    if on.with_data and graph.metadata.nms == "none":
        raise UsageError(f"{model}: has no NMS inside, so no AP; leave --data out")
    parity = measure_parity(
        graph, trained, images=on.images, source=str(model), metadata=tuple(differing)
    )
    if not on.with_data:
        return parity
    loaded = load_detect(model, device=build_device("cpu", "fp32"))
    return _judge_by_data(parity, loaded, on, places=places)


def _verify_third_party(
    foreign: ThirdParty, trained: TrainedDetector, on: Comparison, *, places: tuple[Path, Path]
) -> Parity:
    """Verify a graph that says nothing of itself, by all stages where it is one of ours."""
    source, layout = str(places[0]), foreign.layout
    if on.with_data and (layout.name == "heads" or layout.prepares):
        raise UsageError(
            f"{source}: has no metadata, and no NMS or its own preparation inside, so no AP; leave "
            "--data out"
        )
    if layout.name not in ("heads", "suite"):
        pair = open_pair(foreign, trained, source=source)
        parity, reading = compare_third_party(pair, on.images)
        return _judge_by_data(parity, build_detect(pair, reading), on, places=places)
    graph = describe_own(foreign, trained, source=source)
    parity = measure_parity(graph, trained, images=on.images, source=source)
    parity = replace(parity, reading=f"read as {DESCRIPTIONS[layout.name]}")
    if not on.with_data:
        return parity
    loaded = build_detect(open_pair(foreign, trained, source=source), AS_PREPARED)
    return _judge_by_data(parity, loaded, on, places=places)


def _judge_by_data(
    parity: Parity, graph: LoadedDetect, on: Comparison, *, places: tuple[Path, Path]
) -> Parity:
    """Measure AP of both on the same images, where data are given."""
    if not on.with_data:
        return parity
    model, checkpoint = places
    trained = load_detect(checkpoint, device=build_device("cpu", "fp32"))
    recipe = on.recipe or find_recipe_of(checkpoint)
    section = recipe.data if on.data is None else replace(recipe.data, root=on.data)
    dataset = load_split(section, "val")
    progress = Progress(2 * len(dataset.samples), label="evaluate")
    found = []
    with closing(progress):
        for number, (path, loaded) in enumerate(((checkpoint, trained), (model, graph))):
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


def build_parity_record(kind: str, parity: Parity) -> Record:
    """Return the record of a verification; the kind is "verify" or "export"."""
    figures = parity.as_dict()
    conditions = {
        "kind": "cpu",
        "differing_metadata": figures.pop("metadata"),
        "precision": figures.pop("precision"),
        "cause": figures.pop("cause"),
        "reading": figures.pop("reading"),
        "failures": parity.failures(),
    }
    return build_record(kind, metrics=figures, subject=parity.subject, conditions=conditions)


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
        logits_noise=None if exact else whole.logits_noise,
        deltas_noise=None if exact else whole.deltas_noise,
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
        subject=graph_subject(graph),
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
