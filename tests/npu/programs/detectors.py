"""Small detectors trained and used on the CPU and on the simulated NPU, as JSON."""

import json
import sys
from typing import Any

import torch
from torch import Tensor

from models import Detector, build_detector
from models.postprocess import PostprocessParameters
from models.structures import Target
from suite.device import Device, build_device

IMAGE_HW = {"ssd_r34": (300, 300), "retinanet_r18_fpn": (128, 160)}
NUM_STEPS = 2
PARAMETERS = PostprocessParameters(
    score_threshold=0.001, iou_threshold=0.5, max_detections=20, pre_topk=100
)


def observe(name: str) -> dict[str, Any]:
    return {precision: compare(name, precision) for precision in ("fp32", "bf16", "fp16")}


def compare(name: str, precision: Any) -> dict[str, Any]:
    # Not by build_device: the suite refuses fp16 on the CPU, which is here what is right.
    cpu = Device("cpu", torch.device("cpu"), precision)
    npu = build_device("npu", precision, index=1)
    return {device.kind: train_and_detect(name, device) for device in (cpu, npu)}


def train_and_detect(name: str, device: Device) -> dict[str, Any]:
    torch.manual_seed(0)
    detector = build_detector(name, num_classes=3, width=0.125).to(device.torch_device)
    images, target = make_batch(IMAGE_HW[name])
    images, target = images.to(device.torch_device), target.to(device.torch_device)
    losses = train(detector, images, target, device=device)
    return {"losses": losses} | detect(detector.eval(), images, device=device)


def make_batch(image_hw: tuple[int, int]) -> tuple[Tensor, Target]:
    images = torch.rand(2, 3, *image_hw, generator=torch.Generator().manual_seed(1))
    boxes = [[[10, 10, 90, 80], [30, 40, 60, 70]], [[20, 5, 80, 50], [0, 0, 0, 0]]]
    return images, Target(torch.tensor(boxes).float(), torch.tensor([[0, 2], [1, -1]]))


def train(
    detector: Detector, images: Tensor, target: Target, *, device: Device
) -> list[dict[str, float]]:
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)
    scaler = torch.amp.GradScaler(
        device.kind, init_scale=1024.0, enabled=device.precision == "fp16"
    )
    steps = []
    for _ in range(NUM_STEPS):
        with device.autocast():
            outputs = detector(images)
        losses = detector.loss(outputs, target, image_hw=IMAGE_HW[sys.argv[1]])
        optimizer.zero_grad()
        scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append({name: loss.item() for name, loss in losses.items()})
    return steps


@torch.inference_mode()
def detect(detector: Detector, images: Tensor, *, device: Device) -> dict[str, Any]:
    with device.autocast():
        outputs = detector(images)
    boxes, scores, labels, counts = detector.detect(
        outputs, PARAMETERS, image_hw=IMAGE_HW[sys.argv[1]]
    )
    return {
        "device": str(boxes.device),
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
        "labels": labels.tolist(),
        "counts": counts.tolist(),
    }


print(json.dumps(observe(sys.argv[1])))
