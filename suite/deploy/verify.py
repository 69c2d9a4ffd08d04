"""Proof that a graph computes what its checkpoint computes, stage by stage.

1. Raw heads: largest difference of logits and deltas to PyTorch's.
2. NMS stage: the same candidates into both, all outputs bit-equal, degenerate cases included.
3. End to end: detections as sets. Order is no criterion, two scores a millionth apart may swap.
   Detections that sit on a threshold may be on either side of it: counted as borderline, not hidden.
4. Batch: an image alone gives what it gives in a batch; padding rows are exact; nothing is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.postprocess import postprocess
from suite.checkpoint import TrainedDetector
from suite.data.images import read_image
from suite.data.transforms import normalisation_affine, resize_image
from suite.deploy.graph import (
    CANDIDATE_NAMES,
    HEAD_NAMES,
    expose_inner_values,
    extract_nms_stage,
)
from suite.deploy.pairing import Pairing, PairingLimits, pair_detections
from suite.runtime import OUTPUT_NAMES, postprocess_parameters

MAX_HEAD_DIFFERENCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The figures of a verification.

    Attributes:
        logits, deltas: largest absolute difference of the raw heads.
        nms_cases: arrays put through both NMS stages; None for a graph without one.
        nms_differences: of them, those with any differing bit.
        detections: found by PyTorch over all images; `paired` have an equal in the graph's answer,
            `borderline` sit on a threshold, `unpaired` are neither (of either side).
        batch_differences: images whose answer depends on the batch around them.
        nonfinite: values in the graph's outputs that are NaN or infinite.
        num_images: compared end to end.
    """

    logits: float
    deltas: float
    nms_cases: int | None
    nms_differences: int
    detections: int
    paired: int
    borderline: int
    unpaired: int
    batch_differences: int
    nonfinite: int
    num_images: int

    def failures(self) -> list[str]:
        """Return what does not hold, first stage first; empty when the graph equals the checkpoint."""
        found = []
        worst = max(self.logits, self.deltas)
        if not worst <= MAX_HEAD_DIFFERENCE:
            found.append(f"heads differ by {worst:.3g}, allowed {MAX_HEAD_DIFFERENCE:g}")
        if self.nms_differences:
            found.append(f"NMS stage differs in {self.nms_differences} of {self.nms_cases} cases")
        if self.unpaired:
            found.append(f"{self.unpaired} detections have no counterpart (of {self.detections})")
        if self.batch_differences:
            found.append(f"{self.batch_differences} images change with the batch around them")
        if self.nonfinite:
            found.append(f"{self.nonfinite} values are NaN or infinite")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return asdict(self)


def measure_parity(graph: Path, trained: TrainedDetector, *, images: Sequence[Path] = ()) -> Parity:
    """Compare a graph with a checkpoint on given images, on noise and on a blank.

    Args:
        graph: the .onnx file.
        trained: the checkpoint.
        images: real photos; a detector fires on few things else.
    """
    model = onnx.load(str(graph))
    session = _session(expose_inner_values(model))
    pixels = torch.cat([_generated_inputs(trained), *_photo_inputs(images, trained)])
    with_nms = OUTPUT_NAMES[0] in {output.name for output in model.graph.output}
    heads = _compare_heads(session, trained, pixels)
    differences = _compare_nms_stages(extract_nms_stage(model), trained) if with_nms else None
    end_to_end = _compare_detections(session, trained, pixels) if with_nms else None
    pairing = end_to_end or Pairing(0, 0, 0, 0)
    return Parity(
        logits=heads[0],
        deltas=heads[1],
        nms_cases=None if differences is None else len(differences),
        nms_differences=sum(differences or []),
        detections=pairing.total,
        paired=pairing.paired,
        borderline=pairing.borderline,
        unpaired=pairing.unpaired,
        batch_differences=_count_batch_differences(session, pixels, with_nms=with_nms),
        nonfinite=_count_nonfinite(session, pixels),
        num_images=len(pixels),
    )


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _generated_inputs(trained: TrainedDetector) -> Tensor:
    """Return a blank and three noise images: white, and two with the smooth structure of photos."""
    height, width = trained.detector.image_hw  # type: ignore[misc]  # Module attributes are untyped
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(1, 3, height, width, generator=generator)
    coarse = torch.randn(2, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return torch.cat([torch.zeros(1, 3, height, width), white, smooth])


def _photo_inputs(paths: Sequence[Path], trained: TrainedDetector) -> list[Tensor]:
    affine = torch.from_numpy(normalisation_affine())
    inputs = []
    for path in paths:
        pixels = resize_image(read_image(path), trained.detector.image_hw).float() / 255  # type: ignore[arg-type]
        mixed = torch.einsum("ij,jhw->ihw", affine[:, :3], pixels)
        inputs.append((mixed + affine[:, 3, None, None])[None])
    return inputs


def _compare_heads(session: Any, trained: TrainedDetector, pixels: Tensor) -> tuple[float, float]:
    worst = [0.0, 0.0]
    for image in pixels.split(1):
        with torch.inference_mode():
            expected = trained.detector(image)
        found = session.run(list(HEAD_NAMES), {"images": image.numpy()})
        for place, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
            worst[place] = max(worst[place], float(np.abs(ours.numpy() - theirs).max()))
    return worst[0], worst[1]


def _compare_nms_stages(stage: onnx.ModelProto, trained: TrainedDetector) -> list[bool]:
    """Return for each case whether any bit of any output differs."""
    session = _session(stage)
    differs = []
    for case in _nms_cases(trained):
        with torch.inference_mode():
            expected = postprocess(
                *case,
                num_classes=trained.recipe.detector.num_classes,
                image_hw=trained.detector.image_hw,  # type: ignore[arg-type]
                parameters=postprocess_parameters(trained.recipe),
            )
        feeds = {name: value.numpy() for name, value in zip(CANDIDATE_NAMES, case, strict=True)}
        found = session.run(list(OUTPUT_NAMES), feeds)
        pairs = zip(expected, found, strict=True)
        differs.append(any(not np.array_equal(ours.numpy(), theirs) for ours, theirs in pairs))
    return differs


def _nms_cases(trained: TrainedDetector) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return candidates that try the NMS stage: crowds, ties, degenerate boxes, none, one, one class."""
    num_classes = trained.recipe.detector.num_classes
    size = trained.recipe.postprocess.pre_topk
    generator = torch.Generator().manual_seed(1)

    def crowd(
        *, whole_pixels: bool, one_class: bool, num_images: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        centres = torch.rand(num_images, size, 2, generator=generator) * 120
        sides = torch.rand(num_images, size, 2, generator=generator) * 80 - 8  # some without area
        boxes_xyxy = torch.cat([centres, centres + sides], dim=-1)
        scores = torch.rand(num_images, size, generator=generator)
        if whole_pixels:  # exact ties of scores and of overlaps
            boxes_xyxy, scores = boxes_xyxy.round(), (scores * 20).round() / 20
        scores = scores.sort(dim=1, descending=True).values
        labels = torch.randint(1 if one_class else num_classes, scores.shape, generator=generator)
        return boxes_xyxy, scores, labels + (num_classes - 1 if one_class else 0)

    cases = [
        crowd(whole_pixels=whole, one_class=one, num_images=number)
        for whole in (False, True)
        for one in (False, True)
        for number in (1, 3)
    ]
    boxes_xyxy, scores, labels = cases[0]
    single = torch.zeros_like(scores)
    single[0, 0] = 0.9
    steps = torch.arange(size, dtype=torch.float32)[None, :, None] * 0.2
    chain = torch.cat([steps, steps * 0, steps + 30, steps * 0 + 30], dim=-1)
    nothing = torch.zeros_like(scores)
    return [
        *cases,
        (boxes_xyxy, nothing, labels),
        (boxes_xyxy, single, labels),
        (chain, scores, labels * 0),
    ]


def _compare_detections(session: Any, trained: TrainedDetector, pixels: Tensor) -> Pairing:
    """Compare as sets, in batches of three."""
    parameters = postprocess_parameters(trained.recipe)
    limits = PairingLimits(
        score_threshold=parameters.score_threshold,
        iou_threshold=parameters.iou_threshold,
        max_detections=parameters.max_detections,
    )
    total = Pairing(0, 0, 0, 0)
    for batch in pixels.split(3):
        with torch.inference_mode():
            expected = trained.detector.detect(trained.detector(batch), parameters)  # type: ignore[operator]
        found = session.run(list(OUTPUT_NAMES), {"images": batch.numpy()})
        for row in range(len(batch)):
            ours = _cut([value.numpy() for value in expected], row)
            total += pair_detections(ours, _cut(found, row), limits)
    return total


def _cut(
    outputs: Sequence[NDArray[Any]], row: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    boxes_xyxy, scores, labels, num_dets = outputs
    count = int(num_dets[row])
    return boxes_xyxy[row, :count], scores[row, :count], labels[row, :count]


def _count_batch_differences(session: Any, pixels: Tensor, *, with_nms: bool) -> int:
    names = list(OUTPUT_NAMES if with_nms else HEAD_NAMES)
    together = session.run(names, {"images": pixels[:3].numpy()})
    differing = 0
    for row in range(len(pixels[:3])):
        alone = session.run(names, {"images": pixels[row : row + 1].numpy()})
        pairs = zip(alone, together, strict=True)
        differing += any(not np.allclose(one[0], many[row], atol=1e-3) for one, many in pairs)
    return differing


def _count_nonfinite(session: Any, pixels: Tensor) -> int:
    outputs = session.run(None, {"images": pixels[:3].numpy()})
    return int(sum(np.size(value) - np.isfinite(value).sum() for value in outputs))
