"""The same small network trained on the CPU and on the simulated NPU, as JSON."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torch_npu  # noqa: F401 - registers the device
from torch import Tensor, nn

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def observe() -> dict[str, Any]:
    trained = {name: [train("cpu", name)[1], train("npu", name)[1]] for name in DTYPES}
    network, _ = train("npu:1", "fp32")
    return {
        "losses": trained,
        "autocast": autocast_dtypes(network),
        "devices": sorted({str(value.device) for value in network.state_dict().values()}),
        "skipped": overflowing_step(),
        "restored": store_and_load(network),
    }


def train(device: str, precision: str) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    network = build_network().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, init_scale=1024.0, enabled=precision == "fp16")
    losses = []
    for step in range(5):
        with torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32"):
            images, labels = make_batch(step)
            outputs = network(images.to(device))
        loss = F.cross_entropy(outputs.float(), labels.to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return network, losses


def build_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(8 * 6 * 6, 5),
    )


def make_batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(4, 3, 16, 16, generator=generator), torch.arange(4)


def autocast_dtypes(network: nn.Module) -> list[str]:
    images = torch.rand(1, 3, 16, 16, device="npu:1")
    with torch.autocast("npu", torch.bfloat16):
        outputs = network(images)
        return [str(outputs.dtype), str(outputs.softmax(1).dtype)]


def overflowing_step() -> dict[str, Any]:
    """One step whose gradient is inf: the scaler has to leave the weights alone."""
    weight = torch.ones(1, device="npu", requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("npu", init_scale=1024.0)
    scaler.scale((weight * 3e38).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return {"weight": weight.item(), "scale": scaler.get_scale()}


def store_and_load(network: nn.Module) -> dict[str, str]:
    expected = network.state_dict()["0.weight"].cpu()
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(network.state_dict(), path)
        for place in (None, "cpu", "npu:0"):
            weight = torch.load(path, map_location=place, weights_only=True)["0.weight"]
            assert torch.equal(weight.cpu(), expected)
            loaded[str(place)] = str(weight.device)
    return loaded


print(json.dumps(observe()))
