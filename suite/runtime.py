"""PyTorch, ONNX Runtime and nothing at all behind one function type.

`Detect` takes a batch of images and returns one `Detections` per image, boxes in pixels of the original
image. So accuracy before and after export is one evaluator called twice, and timing a runtime that does
nothing prices the harness itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.postprocess import PostprocessParameters
from models.structures import Detections, Images
from suite.checkpoint import TrainedDetector, load_detector
from suite.device import Device
from suite.errors import InputError, MissingEnvironment
from suite.recipe import Recipe

Detect = Callable[[Images], list[Detections]]

OUTPUT_NAMES = ("boxes", "scores", "labels", "num_dets")
# Far above any detector's graph; what is larger is not read into memory.
_MAX_GRAPH_BYTES = 2 << 30


@dataclass(frozen=True)
class LoadedDetect:
    """A `Detect` with what is needed to feed it and to name its answers.

    Attributes:
        detect: the function.
        image_hw: of the network input.
        class_names, category_ids: by label.
        runtime: "torch" or "onnxruntime", with the execution provider in use.
        subject: what was loaded, for records: recipe, digests.
    """

    detect: Detect
    image_hw: tuple[int, int]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    runtime: str
    subject: dict[str, Any]


def load_detect(path: Path, *, device: Device, threads: int | None = None) -> LoadedDetect:
    """Load a checkpoint (.pth) or a graph (.onnx) as a `Detect`.

    Args:
        path: the file.
        device: where it runs.
        threads: CPU threads of ONNX Runtime within one operator; None lets it choose.

    Raises:
        InputError: the file is missing, damaged, or not ours.
        MissingEnvironment: the execution provider that the device needs is not there.
    """
    if path.suffix == ".onnx":
        return _load_graph(path, device, threads)
    trained = load_detector(path)
    detect = torch_detect(trained.detector, postprocess_parameters(trained.recipe), device)
    return LoadedDetect(
        detect,
        image_hw=trained.detector.image_hw,  # type: ignore[arg-type]  # Module attributes are untyped
        class_names=trained.class_names,
        category_ids=trained.category_ids,
        runtime=f"torch {device.kind}",
        subject=checkpoint_subject(trained),
    )


def checkpoint_subject(trained: TrainedDetector) -> dict[str, Any]:
    """Return what a record says about a checkpoint."""
    return {
        "detector": trained.recipe.detector.name,
        "width": trained.recipe.detector.width,
        "recipe": trained.recipe.name,
        "checkpoint_sha256": trained.sha256,
        "step": trained.step,
    }


def postprocess_parameters(recipe: Recipe) -> PostprocessParameters:
    """Return the thresholds and limits a recipe asks for."""
    section = recipe.postprocess
    return PostprocessParameters(
        score_threshold=section.score_threshold,
        iou_threshold=section.iou_threshold,
        max_detections=section.max_detections,
        pre_topk=section.pre_topk,
    )


def torch_detect(detector: nn.Module, parameters: PostprocessParameters, device: Device) -> Detect:
    """Wrap a detector; it is moved to the device and put into eval mode."""
    detector = detector.to(device.torch_device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.inference_mode()
    def detect(images: Images) -> list[Detections]:
        images = images.to(device.torch_device)
        pixels = images.normalised().contiguous(memory_format=torch.channels_last)
        with device.autocast():
            outputs = detector(pixels)
        return unpad(detector.detect(outputs, parameters), images, detector.image_hw)  # type: ignore[operator,arg-type]

    return detect


def null_detect(images: Images) -> list[Detections]:
    """Detect nothing, at no cost."""
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return [nothing] * len(images.pixels)


def unpad(padded: Sequence[Tensor], images: Images, image_hw: tuple[int, int]) -> list[Detections]:
    """Cut padded outputs (boxes, scores, labels, num_dets) to each image's detections, on the CPU.

    Boxes come back in pixels of the original image.
    """
    boxes_xyxy, scores, labels, num_dets = (output.cpu() for output in padded)
    height, width = image_hw
    original = images.original_hw.cpu().float()
    factors = torch.stack([original[:, 1] / width, original[:, 0] / height], dim=1).repeat(1, 2)
    boxes_xyxy = boxes_xyxy * factors[:, None]
    return [
        Detections(boxes_xyxy[row, :count], scores[row, :count], labels[row, :count])
        for row, count in enumerate(num_dets.tolist())
    ]


def _load_graph(path: Path, device: Device, threads: int | None) -> LoadedDetect:
    session = open_session(path, device=device, threads=threads)
    metadata = read_metadata(session.get_modelmeta().custom_metadata_map, source=str(path))
    image_hw = (metadata["image_hw"][0], metadata["image_hw"][1])
    torch_device = torch.device("cpu")

    def detect(images: Images) -> list[Detections]:
        images = images.to(torch_device)
        outputs = session.run(list(OUTPUT_NAMES), {"images": images.normalised().numpy()})
        return unpad([torch.from_numpy(output) for output in outputs], images, image_hw)

    return LoadedDetect(
        detect,
        image_hw=image_hw,
        class_names=tuple(metadata["class_names"]),
        category_ids=tuple(metadata["category_ids"]),
        runtime=f"onnxruntime {session.get_providers()[0]}",
        subject={
            key: metadata[key] for key in ("detector", "width", "recipe", "checkpoint_sha256")
        },
    )


def open_session(path: Path, *, device: Device, threads: int | None = None) -> Any:
    """Open an ONNX Runtime session on exactly the execution provider the device needs.

    Raises:
        InputError: not a readable graph.
        MissingEnvironment: the provider is absent or fell back to another.
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path}: no such graph")
    if path.stat().st_size > _MAX_GRAPH_BYTES:
        raise InputError(
            f"{path}: {path.stat().st_size} bytes, more than a detector's graph can have"
        )
    provider = {"cpu": "CPU", "cuda": "CUDA", "npu": "CANN"}[device.kind] + "ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise MissingEnvironment(
            f"this onnxruntime has no {provider} (it has {', '.join(onnxruntime.get_available_providers())}); "
            "install the onnxruntime build for this device or pass --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except _graph_errors() as error:
        raise InputError(
            f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})"
        ) from error
    if session.get_providers()[0] != provider:
        raise MissingEnvironment(
            f"asked for {provider}, ONNX Runtime fell back to {session.get_providers()[0]}"
        )
    return session


def read_metadata(properties: dict[str, str], *, source: str) -> dict[str, Any]:
    """Return the decoded metadata of a graph this suite wrote.

    Raises:
        InputError: the graph is not ours.
    """
    if properties.get("schema") != json.dumps("suite.graph/1"):
        raise InputError(f"{source}: not a graph exported by this suite (no suite metadata in it)")
    try:
        return {key: json.loads(value) for key, value in properties.items()}
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: its metadata is damaged ({error})") from error


def _graph_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises on a file that is not a valid graph."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.InvalidArgument,
        state.NotImplemented,
    )
