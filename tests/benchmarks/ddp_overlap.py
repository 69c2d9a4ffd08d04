"""What gradient buckets and their overlap with the backward pass cost, with 2 processes on one CPU.

Two processes over gloo train one detector on random images. In each round every way of exchanging
gradients makes one step, in turns and in an order that changes, so that what else the machine does
hits all alike; each is compared with a step of the same round that exchanges nothing. The slower
process counts. gloo computes on the same cores as the network, so little can be hidden here: the
figures are of this, not of devices with links of their own.

    PYTHONPATH=. python tests/benchmarks/ddp_overlap.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import Detector, build_detector
from models.structures import Target
from suite.provenance import describe_machine, describe_software

NUM_RANKS = 2
BUCKETS_MB = (1, 5, 25, 100)
ALONE = "nothing exchanged"
WARMUP = 3  # torch arranges its buckets anew after the first step


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", default="retinanet_r18_fpn")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2, help="images a process and step")
    parser.add_argument("--rounds", type=int, default=15)
    asked = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.multiprocessing.spawn(_measure, (place, asked), nprocs=NUM_RANKS)
        seconds = json.loads((place / "seconds.json").read_text())
    _report(seconds, asked)


def _measure(rank: int, place: Path, asked: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{place / 'meeting'}",
        rank=rank,
        world_size=NUM_RANKS,
        timeout=timedelta(minutes=5),
    )
    ways = _build_ways(asked, rank)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(0)  # the same in both processes, else they would wait for ever
    for _ in range(WARMUP + asked["rounds"]):
        for name in order.sample(list(ways), len(ways)):
            seconds[name].append(_time(ways[name]))
    if rank == 0:
        counted = {name: values[WARMUP:] for name, values in seconds.items()}
        (place / "seconds.json").write_text(json.dumps(counted))
    dist.destroy_process_group()


def _time(step: Callable[[], None]) -> float:
    """Return the seconds of a step, of the slower process."""
    dist.barrier()
    started = time.perf_counter()
    step()
    spent = torch.tensor([time.perf_counter() - started])
    dist.all_reduce(spent, dist.ReduceOp.MAX)
    return float(spent)


def _build_ways(asked: dict[str, Any], rank: int) -> dict[str, Callable[[], None]]:
    """Return every way by name; each has a detector of its own, with the same weights."""
    batch = _build_batch(asked, rank)

    def plain() -> Callable[[], None]:
        detector = _build_detector(asked)
        return lambda: _learn(detector, detector, batch)

    def wrapped(bucket_mb: int, *, views: bool, exchange: bool = True) -> Callable[[], None]:
        detector = _build_detector(asked)
        parallel = DistributedDataParallel(
            detector,
            bucket_cap_mb=bucket_mb,
            gradient_as_bucket_view=views,
            forward_sync_buffers=False,  # another exchange, in the forward pass
        )

        def step() -> None:
            with nullcontext() if exchange else parallel.no_sync():
                _learn(parallel, detector, batch)

        return step

    def afterwards() -> Callable[[], None]:
        detector = _build_detector(asked)

        def step() -> None:
            _learn(detector, detector, batch)
            gradients = [p.grad for p in detector.parameters() if p.grad is not None]
            together = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(together)
            together /= NUM_RANKS

        return step

    size = sum(p.numel() for p in _build_detector(asked).parameters() if p.requires_grad)
    alone = torch.zeros(size)
    ways = {
        ALONE: plain(),
        "DDP, no_sync": wrapped(25, views=False, exchange=False),
        "one all-reduce after backward": afterwards(),
        "that all-reduce alone": lambda: dist.all_reduce(alone) and None,
    }
    for bucket_mb in BUCKETS_MB:
        ways[f"DDP, buckets of {bucket_mb} MB"] = wrapped(bucket_mb, views=False)
        ways[f"DDP, buckets of {bucket_mb} MB, as views"] = wrapped(bucket_mb, views=True)
    return ways


def _build_detector(asked: dict[str, Any]) -> Detector:
    torch.manual_seed(0)
    detector = build_detector(asked["detector"], num_classes=80, width=asked["width"])
    return detector.train()


def _build_batch(asked: dict[str, Any], rank: int) -> tuple[Tensor, Target]:
    generator = torch.Generator().manual_seed(rank)
    size, num = asked["size"], asked["batch"]
    images = torch.randn(num, 3, size, size, generator=generator)
    corners = torch.rand(num, 32, 2, generator=generator) * size / 2
    sides = (0.1 + 0.4 * torch.rand(num, 32, 2, generator=generator)) * size
    boxes_xyxy = torch.cat([corners, corners + sides], dim=2)
    return images, Target(boxes_xyxy, torch.randint(80, (num, 32), generator=generator))


def _learn(network: nn.Module, detector: Detector, batch: tuple[Tensor, Target]) -> None:
    images, target = batch
    detector.zero_grad(set_to_none=True)
    losses = detector.loss(network(images), target, image_hw=(images.shape[2], images.shape[3]))
    torch.stack(list(losses.values())).sum().backward()


def _report(seconds: dict[str, list[float]], asked: dict[str, Any]) -> None:
    base = np.array(seconds[ALONE])
    rows = []
    for name, values in seconds.items():
        ratios = np.array(values) / base
        rows.append(
            {
                "way": name,
                "median_ms": 1000 * float(np.median(values)),
                "ratio": float(np.median(ratios)),
                "lowest": float(ratios.min()),
                "highest": float(ratios.max()),
            }
        )
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    facts = {"n": asked["rounds"], **asked, "ranks": NUM_RANKS, "torch_threads_a_rank": 1}
    machine = describe_machine() | {"torch": describe_software()["torch"]}
    print(json.dumps({"asked": facts, "machine": machine, "ways": rows}))


if __name__ == "__main__":
    main()
