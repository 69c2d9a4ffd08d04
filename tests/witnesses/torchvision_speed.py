"""Measure focal loss, target assignment and the training step against torchvision's on the CPU.

Run by hand, where torchvision 0.28 is installed beside torch 2.13 and this project's needs:

    PYTHONPATH=. python tests/witnesses/torchvision_speed.py [--backbone resnet50.pth]

Each candidate lives in a process of its own, so that none inherits another's heap, and they take
turns, one call each a round; warm-up rounds are not counted. Where nothing else is said, all have
the allocator setting of `tune_cpu_allocator`. Prints a table of medians and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import torch
import torchvision
from tabulate import tabulate
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, _default_anchorgen
from torchvision.ops import box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from models import build_detector
from models.anchors import build_retinanet_anchors, build_retinanet_shapes
from models.boxes import cxcywh_to_xyxy
from models.focal import focal_loss_sum
from models.matching import LowQuality, match_with_ignored
from models.structures import Images, Target
from suite.data.collating import Batch
from suite.data.transforms import normalisation_affine
from suite.device import Precision, build_device, tune_cpu_allocator
from suite.recipe_sections import Optimizer
from suite.training.loop import build_learner, train_step
from suite.training.optim import Updater
from suite.weights import load_backbone_weights

NUM_CLASSES = 80
BOXES_PER_IMAGE = 7  # COCO's mean is 7.3
LARGE_HW = (800, 1344)  # 201,600 anchors
STEP_HW = (320, 320)
STEP_BATCH = 2
BASELINE = "torchvision"
DEFAULT_ALLOCATOR = "default allocator"
PARTS = {
    "focal loss, forward and backward, 201,600 x 80": (BASELINE, "ours"),
    "target assignment, one image, 201,600 anchors": (BASELINE, "ours", "ours, own_best"),
    "training step, R50, 320 px, batch 2": (
        BASELINE,
        f"{BASELINE}, {DEFAULT_ALLOCATOR}",
        "ours fp32",
        "ours bf16",
    ),
}
_CPU = torch.device("cpu")
Run = Callable[[], Tensor]


def main() -> None:
    """Measure all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", help="ImageNet weights of a ResNet-50; default: random")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of all threads, for a busy machine; set OMP_WAIT_POLICY=passive",
    )
    arguments = parser.parse_args()
    loads = [os.getloadavg()[0]]
    results = {}
    for part, names in PARTS.items():
        results[part] = _measure(part, names, arguments)
        loads.append(os.getloadavg()[0])
    rows = [
        (part, name, median, results[part][BASELINE] / median)
        for part, medians in results.items()
        for name, median in medians.items()
    ]
    print(tabulate(rows, ["what", "whose", "median ms", f"x {BASELINE}"], floatfmt=".2f"))
    conditions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "clock": "processor" if arguments.processor_time else "wall",
        "loads": loads,
    }
    print(json.dumps({"conditions": conditions, "median_ms": results}))


def _measure(part: str, names: Sequence[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Return each candidate's median in milliseconds."""
    context = multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {name: [] for name in names}
    pipes, processes = {}, []
    for name in names:
        pipes[name], far_end = context.Pipe()
        process = context.Process(target=_serve, args=(far_end, part, name, arguments))
        process.start()
        processes.append(process)
        print(f"{part}, {name}: {pipes[name].recv()}", flush=True)
    for _ in range(arguments.rounds):
        for name in names:
            pipes[name].send("run")
            times[name].append(pipes[name].recv())
    for name, process in zip(names, processes, strict=True):
        pipes[name].send("stop")
        process.join()
    return {name: statistics.median(values) for name, values in times.items()}


def _serve(pipe: Connection, part: str, name: str, arguments: argparse.Namespace) -> None:
    """Build a candidate, warm it up, then time one call for each request."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if DEFAULT_ALLOCATOR not in name:
        tune_cpu_allocator()
    run = _build(part, name, arguments.backbone)
    values = [f"{run().detach().item():.4f}" for _ in range(2)]
    pipe.send("values of the warm-up " + ", ".join(values))
    clock = time.process_time if arguments.processor_time else time.perf_counter
    while pipe.recv() == "run":
        start = clock()
        run()
        pipe.send(1000 * (clock() - start))


def _build(part: str, name: str, backbone: str | None) -> Run:
    if part.startswith("focal"):
        return _build_focal_loss(name)
    if part.startswith("target"):
        return _build_assignment(name)
    batch = _draw_batch()
    if name.startswith(BASELINE):
        return _build_their_step(batch, backbone)
    return _build_our_step(batch, backbone, "bf16" if "bf16" in name else "fp32")


def _draw_boxes(num_images: int, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return boxes [N,7,4] of sides from 16 pixels to half the image, and labels [N,7]."""
    shape = (num_images, BOXES_PER_IMAGE, 2)
    size = torch.tensor([image_hw[1], image_hw[0]])
    sides = 16 + torch.rand(shape) * (size / 2 - 16)
    low = torch.rand(shape) * (size - sides)
    labels = torch.randint(NUM_CLASSES, shape[:2])
    return torch.cat([low, low + sides], dim=-1), labels


def _build_focal_loss(name: str) -> Run:
    """Both start from matches, so that one-hot targets count where they are needed."""
    anchors = torch.cat(build_retinanet_anchors(LARGE_HW, build_retinanet_shapes()))
    boxes_xyxy, labels = _draw_boxes(1, LARGE_HW)
    matches = match_with_ignored(
        Target(boxes_xyxy, labels),
        anchors,
        positive_iou=0.5,
        negative_iou=0.4,
        low_quality="own_best",
    )
    # As at the start of training: scores around 0.01.
    logits = (torch.randn(1, len(anchors), NUM_CLASSES) - 4.6).requires_grad_()
    head = RetinaNetClassificationHead(256, 9, NUM_CLASSES)

    def theirs() -> Tensor:
        targets = [{"labels": of_image} for of_image in labels]
        logits.grad = None
        loss = head.compute_loss(targets, {"cls_logits": logits}, list(matches))
        loss.backward()
        return loss

    def ours() -> Tensor:
        logits.grad = None
        positive = matches >= 0
        classes = torch.where(positive, labels.gather(1, matches.clamp(min=0)), matches)
        loss = (focal_loss_sum(logits, classes) / positive.sum(dim=1).clamp(min=1)).mean()
        loss.backward()
        return loss

    return theirs if name == BASELINE else ours


def _build_assignment(name: str) -> Run:
    """Return functions whose value is the number of anchors that learn a box."""
    anchors = torch.cat(build_retinanet_anchors(LARGE_HW, build_retinanet_shapes()))
    anchors_xyxy = cxcywh_to_xyxy(anchors)
    target = Target(*_draw_boxes(1, LARGE_HW))
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    low_quality: LowQuality = "own_best" if "own_best" in name else "forced"

    def theirs() -> Tensor:
        return (matcher(box_iou(target.boxes_xyxy[0], anchors_xyxy)) >= 0).sum()

    def ours() -> Tensor:
        matches = match_with_ignored(
            target, anchors, positive_iou=0.5, negative_iou=0.4, low_quality=low_quality
        )
        return (matches >= 0).sum()

    return theirs if name == BASELINE else ours


def _draw_batch() -> Batch:
    pixels = torch.randint(256, (STEP_BATCH, 3, *STEP_HW), dtype=torch.uint8)
    sizes = torch.tensor([STEP_HW]).expand(STEP_BATCH, 2)
    affine = torch.from_numpy(normalisation_affine()).expand(STEP_BATCH, 3, 4)
    return Batch(
        Images(pixels, affine, sizes, sizes),
        Target(*_draw_boxes(STEP_BATCH, STEP_HW)),
        image_ids=tuple(range(STEP_BATCH)),
    )


def _build_our_step(batch: Batch, backbone: str | None, precision: Precision) -> Run:
    """Return the product's own step: stem and stage 1 frozen, batch norm with stored statistics.

    The scales of batch norm are trained, as by mmdetection; torchvision's are not.
    """
    device = build_device("cpu", precision)
    detector = build_detector("retinanet_r50_fpn", num_classes=NUM_CLASSES, frozen_stages=1)
    if backbone is not None:
        load_backbone_weights(detector.backbone, backbone)
    detector.to(memory_format=device.memory_format).train()
    updater = Updater(
        detector,
        Optimizer(momentum=0.9, weight_decay=1e-4),
        learning_rate=lambda _step: 1e-4,
        scaler=device.scaler(),
    )
    learner = build_learner(detector, device)
    return lambda: torch.stack(list(train_step(batch, learner, updater).values())).sum()


def _build_their_step(batch: Batch, backbone: str | None) -> Run:
    """Return the model of `retinanet_resnet50_fpn` with the step of torchvision's reference."""
    body = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    if backbone is not None:
        load_backbone_weights(body.body, backbone)
    model = RetinaNet(
        body, NUM_CLASSES, anchor_generator=_default_anchorgen(), _skip_resize=True
    ).train()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=1e-4,
        momentum=0.9,
        weight_decay=1e-4,
    )
    images = list(batch.images.pixels.float() / 255)
    pairs = zip(batch.target.boxes_xyxy, batch.target.labels, strict=True)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]

    def step() -> Tensor:
        losses = sum(model(images, targets).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        return losses

    return step


if __name__ == "__main__":
    main()
