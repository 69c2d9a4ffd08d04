"""One of two ranks that train together and use every collective of each backend, as JSON.

Arguments: the device (cpu or npu), the rank, a file for the rendezvous.
"""

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

BACKENDS = {"cpu": ["gloo"], "npu": ["hccl", "cpu:gloo,npu:hccl"]}


def observe(kind: str, rank: int, file: str) -> dict[str, Any]:
    device = take_device(kind, rank)
    store = dist.FileStore(file, 2)
    return {
        backend: meet(backend, device, rank, dist.PrefixStore(backend, store))
        for backend in BACKENDS[kind]
    }


def meet(backend: str, device: torch.device, rank: int, store: dist.Store) -> dict[str, Any]:
    device_id = None if device.type == "cpu" else device
    dist.init_process_group(backend, store=store, rank=rank, world_size=2, device_id=device_id)
    facts = {
        "losses": train(device, rank),
        "collectives": use_collectives(device, rank),
        "objects": exchange_objects(rank),
        "on_the_host": sum_on_the_host(),
    }
    dist.barrier()
    dist.destroy_process_group()
    return facts


def take_device(kind: str, rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    import torch_npu  # noqa: F401 - registers the device

    torch.npu.set_device(rank)
    return torch.device(kind, rank)


def train(device: torch.device, rank: int) -> list[float]:
    torch.manual_seed(rank)  # DDP has to spread the weights of rank 0
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).to(device)
    ids = None if device.type == "cpu" else [device.index]
    parallel = DistributedDataParallel(network, device_ids=ids)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    losses = []
    for step in range(4):
        generator = torch.Generator().manual_seed(2 * step + rank)
        images = torch.rand(4, 3, 8, 8, generator=generator)
        loss = F.cross_entropy(parallel(images.to(device)), torch.arange(4).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    weights = torch.stack([p.detach().double().sum() for p in network.parameters()]).sum()
    return [*losses, weights.item()]


def use_collectives(device: torch.device, rank: int) -> dict[str, Any]:
    def given() -> torch.Tensor:
        return torch.arange(2.0, device=device) + 10 * rank

    reduced, largest, broadcast, at_first = given(), given(), given(), given()
    dist.all_reduce(reduced)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    dist.broadcast(broadcast, src=1)
    dist.reduce(at_first, dst=0)
    listed = [torch.empty(2, device=device) for _ in range(2)]
    dist.all_gather(listed, given())
    joined = torch.empty(4, device=device)
    dist.all_gather_single(joined, given())
    gathered = [torch.empty(2, device=device) for _ in range(2)] if rank == 0 else None
    dist.gather(given(), gathered, dst=0)
    scattered = torch.empty(2, device=device)
    dist.scatter(scattered, [given(), given() + 1] if rank == 0 else None, src=0)
    later = dist.all_reduce(waited := given(), async_op=True)
    later.wait()
    return {
        "all_reduce": reduced.tolist(),
        "all_reduce_max": largest.tolist(),
        "broadcast": broadcast.tolist(),
        "reduce": at_first.tolist() if rank == 0 else None,
        "all_gather": [tensor.tolist() for tensor in listed],
        "all_gather_single": joined.tolist(),
        "gather": [tensor.tolist() for tensor in gathered] if gathered else None,
        "scatter": scattered.tolist(),
        "asynchronous": [waited.tolist(), later.is_completed()],
    }


def exchange_objects(rank: int) -> list[Any]:
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, {"rank": rank})
    told = [f"from {rank}"]
    dist.broadcast_object_list(told, src=0)
    return [everyone, told]


def sum_on_the_host() -> list[float] | str:
    ones = torch.ones(2)
    try:
        dist.all_reduce(ones)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ones.tolist()


_, kind, rank, file = sys.argv
print(json.dumps(observe(kind, int(rank), file)))
