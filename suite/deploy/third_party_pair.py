"""A graph of another tool beside the checkpoint it is said to come from, asked the same.

Nothing in such a file says how it wants its images and numbers its classes: these are its readings.
What is the caller's to do is no difference: rows that do not score above the checkpoint's threshold
are left out, boxes end at the edges of the input.

Shape letters: N images, H W rows and columns of the input, D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.postprocess import PostprocessParameters
from suite.checkpoint import TrainedDetector
from suite.data.transforms import MEAN, STD
from suite.deploy.pairing import Found, PairingLimits
from suite.deploy.sides import to_arrays
from suite.deploy.stages import split_rows
from suite.deploy.third_party_description import describe_like
from suite.deploy.third_party_layouts import Layout, ThirdParty
from suite.errors import InputError
from suite.graph_file import INPUT_NAME
from suite.graph_metadata import GraphMetadata
from suite.graph_session import RunGraph, open_graph
from suite.runtime import fill_batch

# Of an image; our own graphs have 700 at most.
_MAX_ROWS = 10_000
# Below fp32 detections are not equal, but a wrong reading is still far off.
_ROUNDED_BOX, _ROUNDED_SCORE = 8.0, 0.05


def _as_prepared(pixels: Tensor) -> Tensor:
    return pixels


def _as_fractions(pixels: Tensor) -> Tensor:
    mean, std = (torch.from_numpy(value).float()[:, None, None] for value in (MEAN, STD))
    return pixels * std + mean


FEEDS: dict[str, Callable[[Tensor], Tensor]] = {
    "images normalised as the checkpoint's": _as_prepared,
    "images of values from 0 to 1": _as_fractions,
}
LABELS = ("labels as they are", "labels less 1, as 0 is background", "labels as category ids")


class Reading(NamedTuple):
    """What a graph is fed, a key of `FEEDS`, and what its labels mean, one of `LABELS`."""

    feed: str
    labels: str


# Of a graph of ours.
AS_PREPARED = Reading(next(iter(FEEDS)), LABELS[0])


@dataclass(frozen=True)
class Asked:
    """Both sides' answers for some images.

    Attributes:
        pixels: float32 [N,3,H,W], as the checkpoint has them.
        ours: of the checkpoint, an image each.
        theirs: of the graph by key of `FEEDS`, labels as they are.
    """

    pixels: Tensor
    ours: list[Found]
    theirs: dict[str, list[Found]]


@dataclass(frozen=True)
class Pair:
    """A checkpoint and a graph of another tool, ready to be asked.

    Attributes:
        metadata: what the checkpoint's own graph of the same size would say.
        run: the graph.
        source: how messages name it.
    """

    file: ThirdParty
    trained: TrainedDetector
    metadata: GraphMetadata
    run: RunGraph
    source: str

    @property
    def parameters(self) -> PostprocessParameters:
        """The checkpoint's thresholds and limits."""
        return PostprocessParameters(**asdict(self.metadata.postprocess))

    @property
    def limits(self) -> PairingLimits:
        """What counts as equal detections."""
        kept = self.metadata.postprocess
        return PairingLimits(
            score_threshold=kept.score_threshold,
            iou_threshold=kept.iou_threshold,
            max_detections=kept.max_detections,
        )

    @property
    def _rough_limits(self) -> PairingLimits:
        """What counts as equal where only readings are to be told apart."""
        if self.metadata.precision == "fp32":
            return self.limits
        return replace(
            self.limits, max_box_difference=_ROUNDED_BOX, max_score_difference=_ROUNDED_SCORE
        )

    def ask(self, pixels: Tensor) -> list[Found]:
        """Return what the graph finds in its own input [N,3,H,W], best first, labels as they are.

        Raises:
            InputError: it fails, or answers with other shapes than it declares.
        """
        layout = self.file.layout
        fed, step = pixels.numpy(), layout.batch or len(pixels)
        found: list[Found] = []
        for start in range(0, len(fed), step):
            part = fill_batch(fed[start : start + step], layout.batch)
            outputs = self.run(layout.outputs, {INPUT_NAME: part[0] if layout.bare else part})
            found += self._read(outputs, num_images=len(part))
        return found[: len(fed)]

    def _read(self, outputs: Sequence[NDArray[Any]], *, num_images: int) -> Iterator[Found]:
        if not _keeps_promise(outputs, self.file.layout, num_images):
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise InputError(f"{self.source}: answers with outputs of shape {shapes}")
        for boxes_xyxy, scores, labels in zip(*_split(outputs, self.file.layout), strict=True):
            order = np.argsort(-scores, kind="stable")
            whole = np.clip(np.nan_to_num(labels).round(), -1, 2**31).astype(np.int64)
            yield boxes_xyxy[order], scores[order], whole[order]

    @torch.inference_mode()
    def ask_checkpoint(self, pixels: Tensor) -> list[Found]:
        """Return what PyTorch finds."""
        detector, image_hw = self.trained.detector, (pixels.shape[2], pixels.shape[3])
        padded = detector.detect(detector(pixels), self.parameters, image_hw=image_hw)
        return split_rows(to_arrays(padded))

    def ask_both(self, pixels: Tensor) -> Asked:
        """Ask both sides, the graph in every way."""
        theirs = {name: self.ask(feed(pixels)) for name, feed in FEEDS.items()}
        return Asked(pixels, self.ask_checkpoint(pixels), theirs)

    def keep(self, found: Found, labels: str, image_hw: Sequence[int]) -> Found:
        """Return detections of the graph as the checkpoint would have them."""
        boxes_xyxy, scores, places = found
        used = scores > np.float32(self.parameters.score_threshold)
        height, width = image_hw
        edges = np.array([width, height, width, height], np.float32)
        clipped = np.clip(boxes_xyxy[used], np.float32(0), edges)
        return clipped, scores[used], self._to_places(places[used], labels)

    def _to_places(self, labels: NDArray[np.int64], reading: str) -> NDArray[np.int64]:
        if reading == LABELS[0]:
            return labels
        if reading == LABELS[1]:
            return labels - 1
        places = {number: place for place, number in enumerate(self.trained.category_ids)}
        return np.array([places.get(int(label), -1) for label in labels], np.int64)

    def mismatch(self, asked: Asked, theirs: Sequence[Found], labels: str | None) -> float:
        """Return the share of detections, of both sides, without an equal on the other one.

        Args:
            asked: the images and the checkpoint's answers.
            theirs: the graph's, an image each.
            labels: how they are read; None: they are no criterion.
        """
        total = missed = 0
        for one, raw in zip(asked.ours, theirs, strict=True):
            other = self.keep(raw, labels or LABELS[0], asked.pixels.shape[2:])
            equal = self.find_equal(one, other, with_labels=labels is not None)
            total += len(one[1]) + len(other[1])
            missed += int((~equal.any(axis=0)).sum() + (~equal.any(axis=1)).sum())
        return missed / total if total else 0.0

    def find_equal(self, first: Found, second: Found, *, with_labels: bool) -> NDArray[np.bool_]:
        """Return bool [D,D], which of the first are equal to which of the second."""
        limits = self._rough_limits
        equal = np.abs(first[1][:, None] - second[1]) <= limits.max_score_difference
        for one, other in zip(first[0].T, second[0].T, strict=True):
            equal &= np.abs(one[:, None] - other) <= limits.max_box_difference
        return np.asarray(equal & (first[2][:, None] == second[2]) if with_labels else equal)


def open_pair(file: ThirdParty, trained: TrainedDetector, *, source: str) -> Pair:
    """Open a graph that answers with detections beside its checkpoint.

    Raises:
        InputError: ONNX Runtime refuses it.
        CheckFailed: the checkpoint takes no images of its size.
    """
    metadata = describe_like(file, trained, source=source)
    run = open_graph(file.model.SerializeToString(), source=source)
    return Pair(file, trained, metadata, run, source)


def _keeps_promise(outputs: Sequence[NDArray[Any]], layout: Layout, num_images: int) -> bool:
    """Whether outputs have the declared sides, and as many rows of each kind."""
    for output, dims in zip(outputs, layout.dims, strict=True):
        sides = zip(dims, output.shape, strict=False)
        if output.ndim != len(dims) or any(dim not in (0, side) for dim, side in sides):
            return False
    boxes, scores, labels = _split(outputs, layout)
    shapes = (boxes.shape, (*scores.shape, 4), (*labels.shape, 4))
    return len(set(shapes)) == 1 and len(boxes) == num_images and boxes.shape[1] <= _MAX_ROWS


def _split(outputs: Sequence[NDArray[Any]], layout: Layout) -> Sequence[NDArray[Any]]:
    """Return boxes [N,D,4], scores [N,D] and labels [N,D]; rows not in use score 0."""
    if layout.name == "torchvision":
        return [output[None] for output in outputs]
    if layout.name == "ultralytics":
        return [outputs[0][..., :4], outputs[0][..., 4], outputs[0][..., 5]]
    if layout.name == "mmdeploy":
        return [outputs[0][..., :4], outputs[0][..., 4], outputs[1]]
    return outputs[:3]
