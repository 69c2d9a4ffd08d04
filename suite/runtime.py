"""PyTorch, ONNX Runtime and nothing at all behind one function type.

`Detect` takes a batch of images and returns one `Detections` per image, boxes in pixels of the
original image. So accuracy before and after export is one evaluator called twice, and timing a
runtime that does nothing prices the harness itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.postprocess import PostprocessParameters
from models.structures import Detections, Images
from suite.checkpoint import TrainedDetector, load_detector
from suite.device import Device, build_device, one_cpu_thread
from suite.device_failures import FEWER_TO_DETECT, OTHER_DEVICE, explaining_failures
from suite.errors import InputError, UsageError
from suite.graph_file import (
    INPUT_NAME,
    OUTPUT_NAMES,
    GraphFile,
    check_answer,
    check_size,
    load_graph,
)
from suite.graph_metadata import GraphInput, GraphMetadata
from suite.graph_session import ORT, GraphRuntime, best_kind, open_graph
from suite.recipe import Recipe, recipe_digest
from suite.sizing import Sizing, build_sizing

Detect = Callable[[Images], list[Detections]]


@dataclass(frozen=True)
class LoadedDetect:
    """A `Detect` with what is needed to feed it and to name its answers.

    Attributes:
        detect: the function.
        sizing: how images are fitted to the network's input.
        class_names, category_ids: by label.
        runtime: "torch" with the kind of device, "onnxruntime" with the execution provider, or
            "openvino CPU".
        precision: that the network runs in: the device's, or what a graph says of itself.
        subject: what was loaded, for records: detector, recipe, data set, digests.
    """

    detect: Detect
    sizing: Sizing
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    runtime: str
    precision: str
    subject: dict[str, Any]


def build_model_device(
    model: Path, kind: str, precision: str = "fp32", *, index: int = 0, strict: bool = False
) -> Device:
    """Choose the device a model file runs on; "auto" is the best its own runtime can use.

    Args:
        precision, index, strict: as in `build_device`.

    Raises:
        MissingEnvironment: as `build_device`.
        UsageError: the device cannot compute in this precision.
    """
    if kind == "auto" and model.suffix == ".onnx":
        kind = best_kind(strict=strict)
    return build_device(kind, precision, index=index, strict=strict)  # type: ignore[arg-type]  # checked by click


def load_detect(
    path: Path, *, device: Device, runtime: GraphRuntime = ORT, as_published: bool = False
) -> LoadedDetect:
    """Load a checkpoint (.pth) or a graph (.onnx) as a `Detect`.

    Args:
        path: the file.
        device: where it runs.
        runtime: what runs a graph.
        as_published: postprocess exactly as the published code does; for checkpoints only.

    Raises:
        InputError: the file is missing, damaged, or not ours.
        MissingEnvironment: the execution provider that the device needs is not there.
    """
    if path.suffix == ".onnx":
        if as_published:
            raise UsageError(f"{path}: a graph has its postprocess inside; evaluate the checkpoint")
        return _load_graph_detect(path, device, runtime)
    trained = load_detector(path)
    return LoadedDetect(
        torch_detect(
            trained.detector,
            postprocess_parameters(trained.recipe),
            device,
            as_published=as_published,
        ),
        sizing=build_sizing(trained.recipe.resize),
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        runtime=f"torch {device.kind}",
        precision=device.precision,
        subject=checkpoint_subject(trained),
    )


def checkpoint_subject(trained: TrainedDetector) -> dict[str, Any]:
    """Return what a record says about a checkpoint."""
    return {
        "detector": trained.recipe.detector.name,
        "width": trained.recipe.detector.width,
        "dataset": trained.recipe.data.name,
        "recipe": trained.recipe.name,
        "recipe_digest": recipe_digest(trained.recipe),
        "checkpoint_sha256": trained.sha256,
        "step": trained.step,
    }


def graph_subject(graph: GraphFile) -> dict[str, Any]:
    """Return what a record says about a graph: the same, and the graph's own digest."""
    keys = ("detector", "width", "dataset", "recipe", "recipe_digest", "checkpoint_sha256", "step")
    subject = {key: getattr(graph.metadata, key) for key in keys}
    return {**subject, "graph_sha256": graph.sha256}


def postprocess_parameters(recipe: Recipe) -> PostprocessParameters:
    """Return the thresholds and limits a recipe asks for."""
    return PostprocessParameters(**dataclasses.asdict(recipe.postprocess))


def torch_detect(
    detector: Detector,
    parameters: PostprocessParameters,
    device: Device,
    *,
    as_published: bool = False,
) -> Detect:
    """Wrap a detector; it is moved to the device and put into eval mode.

    Args:
        as_published: postprocess exactly as the published code does, not as the graph will.
    """
    layout = device.memory_format
    with explaining_failures(device, holding="the detector alone", remedy=OTHER_DEVICE):
        device.take(detector)
    detector.eval()
    interpret = detector.detect_as_published if as_published else detector.detect

    @torch.inference_mode()
    def detect(images: Images) -> list[Detections]:
        holding = f"{len(images.pixels)} images at a time"
        with explaining_failures(device, holding=holding, remedy=FEWER_TO_DETECT):
            images = images.to(device.torch_device)
            pixels = images.normalised().contiguous(memory_format=layout)
            with device.autocast():
                outputs = detector(pixels)
            height, width = images.pixels.shape[-2:]
            return unpad(interpret(outputs, parameters, image_hw=(height, width)), images)

    return detect


def null_detect(place: torch.device) -> Detect:
    """Make a `Detect` without a network: it moves, normalises and cuts as others, finds nothing.

    Args:
        place: where the images go, as the network would have them.
    """

    @torch.inference_mode()
    def detect(images: Images) -> list[Detections]:
        images = images.to(place)
        size = len(images.normalised())
        padded = torch.zeros(size, 0, 4, device=place), torch.zeros(size, 0, device=place)
        counts = torch.zeros(size, dtype=torch.int64, device=place)
        return unpad([*padded, counts[:, None][:, :0], counts], images)

    return detect


def unpad(padded: Sequence[Tensor], images: Images) -> list[Detections]:
    """Cut padded outputs (boxes, scores, labels, num_dets) to each image's detections, on the CPU.

    Boxes come back in pixels of the original image and end at its edges: the network does not know
    where a picture ends and its padding begins.
    """
    boxes_xyxy, scores, labels, num_dets = (output.cpu() for output in padded)
    original_wh = images.original_hw.cpu().float().flip(1)
    factors = original_wh / images.resized_hw.cpu().float().flip(1)
    boxes_xyxy = boxes_xyxy * factors.repeat(1, 2)[:, None]
    boxes_xyxy = boxes_xyxy.clamp(min=0).minimum(original_wh.repeat(1, 2)[:, None])
    return [
        Detections(boxes_xyxy[row, :count], scores[row, :count], labels[row, :count])
        for row, count in enumerate(num_dets.tolist())
    ]


def _load_graph_detect(path: Path, device: Device, runtime: GraphRuntime) -> LoadedDetect:
    graph = load_graph(path)
    metadata = graph.metadata
    if metadata.nms == "none":
        raise InputError(f"{path}: holds raw heads (nms none); export it with --nms op to detect")
    if runtime.precision == "bf16" and metadata.prepares_images:
        raise UsageError(
            f"--precision bf16: {path} resizes images inside, which bf16 is too coarse for; "
            "export it without --preprocess"
        )
    run = open_graph(
        graph.model.SerializeToString(),
        source=str(path),
        kind=device.kind,
        runtime=runtime,
        graph_precision=metadata.precision,
    )

    def detect(images: Images) -> list[Detections]:
        with one_cpu_thread():  # the cores are the runtime's
            images = images.to(torch.device("cpu"))
            outputs = [np.concatenate(parts) for parts in zip(*_answers(images), strict=True)]
            _check_labels(outputs, metadata.num_classes, source=str(path))
            return unpad([torch.from_numpy(output) for output in outputs], images)

    def _answers(images: Images) -> Iterator[Sequence[NDArray[Any]]]:
        for fed, count in feed_graph(images, metadata, source=str(path)):
            outputs = run(OUTPUT_NAMES, {INPUT_NAME: fed})
            check_answer(outputs, metadata, num_images=len(fed), source=str(path))
            yield [output[:count] for output in outputs]

    return LoadedDetect(
        detect,
        sizing=size_for(metadata),
        class_names=metadata.class_names,
        category_ids=metadata.category_ids,
        runtime=runtime.describe(device.kind),
        precision="bf16" if runtime.precision == "bf16" else metadata.precision,
        subject=graph_subject(graph),
    )


def size_for(metadata: GraphMetadata) -> Sizing:
    """Return how images are fitted before a graph gets them."""
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    return dataclasses.replace(sizing, resizes=not metadata.prepares_images)


def feed_graph(
    images: Images, metadata: GraphMetadata, *, source: str
) -> Iterator[tuple[NDArray[Any], int]]:
    """Yield a graph's inputs, as many images at a time as it takes.

    Args:
        images: on the CPU, fitted by `size_for`.
        metadata: of the graph; they alone decide how pixels become its input.
        source: how messages name the graph.

    Yields:
        An input, and how many images it holds: a fixed batch is filled up with the last one.

    Raises:
        InputError: the graph cannot take images of this size.
    """
    feed = _feed_bytes if metadata.prepares_images else _feed_normalised
    for fed in feed(images, metadata, source):
        yield fill_batch(fed, metadata.batch), len(fed)


def _feed_normalised(
    images: Images, metadata: GraphMetadata, source: str
) -> Iterator[NDArray[Any]]:
    # What the graph says of its input decides, not what our own loaders do.
    affine = _input_affine(metadata.input).expand(len(images.pixels), -1, -1)
    pixels = dataclasses.replace(images, affine=affine).normalised().numpy()
    check_size(pixels.shape[2:], metadata, source=source)
    step = metadata.batch or len(pixels)
    yield from (pixels[start : start + step] for start in range(0, len(pixels), step))


def _feed_bytes(images: Images, metadata: GraphMetadata, _source: str) -> Iterator[NDArray[Any]]:
    """Yield images as they are, [N,H,W,3]; those of one size that stand together go together."""
    sizes = [(int(height), int(width)) for height, width in images.resized_hw.tolist()]
    start = 0
    for (height, width), rows in itertools.groupby(sizes):
        pixels = images.pixels[start : start + len(list(rows)), :, :height, :width]
        start += len(pixels)
        step = metadata.batch or len(pixels)
        for first in range(0, len(pixels), step):
            yield pixels[first : first + step].permute(0, 2, 3, 1).contiguous().numpy()


def fill_batch(pixels: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return as many images as a graph takes, 0 for any number: the last one is repeated."""
    missing = max(batch - len(pixels), 0)
    return np.concatenate([pixels, pixels[-1:].repeat(missing, axis=0)]) if missing else pixels


def _input_affine(fed: GraphInput) -> Tensor:
    """Return the [3,4] affine that maps RGB in [0, 1] to what a graph takes; see `Images`."""
    std = np.array(fed.std)
    columns = [np.diag(255 * fed.scale / std), -(np.array(fed.mean) / std)[:, None]]
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


def _check_labels(outputs: Sequence[NDArray[Any]], num_classes: int, *, source: str) -> None:
    labels, num_dets = outputs[2], outputs[3]
    if ((num_dets < 0) | (num_dets > labels.shape[1])).any():
        raise InputError(f"{source}: answers with a count of detections beyond its rows")
    used = np.arange(labels.shape[1]) < num_dets[:, None]
    if ((labels < 0) | (labels >= num_classes))[used].any():
        raise InputError(f"{source}: answers with labels outside of its {num_classes} classes")
