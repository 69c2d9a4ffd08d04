"""What tensors of the simulated NPU do, as JSON."""

import json
from collections.abc import Callable
from typing import Any

import torch
import torch_npu

MIB = 2**20


def observe() -> dict[str, Any]:
    return {
        "copies": observe_copies(),
        "numbers": observe_numbers(),
        "refused": observe_refusals(),
        "random": observe_random(),
        "memory": observe_memory(),
        "streams": observe_streams(),
        "overflow": refusal(torch.npu.get_npu_overflow_flag),
        "has_overflowed": [torch_npu.npu.utils.npu_check_overflow(x) for x in (1.0, float("inf"))],
    }


def refusal(function: Callable[[], Any]) -> str:
    try:
        function()
    except (RuntimeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "accepted"


def observe_copies() -> dict[str, Any]:
    host = torch.arange(24.0).reshape(2, 3, 4)
    moved = host.to("npu:1")
    views = [moved[:, 1:], moved.transpose(0, 2), moved.unfold(2, 2, 1), moved.reshape(6, 4)[::2]]
    expected = [host[:, 1:], host.transpose(0, 2), host.unfold(2, 2, 1), host.reshape(6, 4)[::2]]
    pinned = host.pin_memory()
    return {
        "device": str(moved.device),
        "unchanged": torch.equal(moved.cpu(), host),
        "across": str(moved.to("npu:0").device),
        "views": [torch.equal(a.cpu(), b) for a, b in zip(views, expected, strict=True)],
        "pinned": [pinned.is_pinned(), host.is_pinned()],
        "method": str(host.npu().device),
    }


def observe_numbers() -> dict[str, Any]:
    x = torch.tensor([1.0, 2.0, 3.0], device="npu")
    masked = x.clone()
    masked[masked > 2] = 0
    picked = x[torch.tensor([True, False, True])]  # indices may stay on the CPU
    resized = torch.add(x, x, out=torch.empty(0, device="npu"))
    total = 1.5 - x.sum().half()
    return {
        "reversed": [str((1 - x).device), (1 - x).tolist()],
        "dtype": [str(total.device), str(total.dtype)],
        "in_place": x.clone().mul_(x).tolist(),
        "masked": masked.tolist(),
        "picked": [str(picked.device), picked.tolist()],
        "out": [str(resized.device), resized.tolist()],
        "topk": [part.tolist() for part in x.topk(2)],
        "made": [str(torch.arange(3, device="npu").device), x.max().item()],
    }


def observe_refusals() -> dict[str, str]:
    x = torch.ones(1, 2, 4, 4, device="npu:0")
    weight = torch.ones(3, 2, 1, 1)
    overlapping = torch.ones(3, device="npu").expand(2, 3)
    return {
        "add": refusal(lambda: x + torch.ones(4)),
        "matmul": refusal(lambda: x @ torch.ones(4, 4)),
        "cat": refusal(lambda: torch.cat([x, torch.ones(1, 2, 4, 4)])),
        "convolution": refusal(lambda: torch.conv2d(x, weight)),
        "other_npu": refusal(lambda: x + x.to("npu:1")),
        "index_on_npu": refusal(lambda: torch.ones(4)[torch.zeros(1, dtype=int, device="npu")]),
        "absent_device": refusal(lambda: torch.ones(1, device="npu:7")),
        "channels_last": refusal(lambda: x.contiguous(memory_format=torch.channels_last)),
        "overlap": refusal(lambda: overlapping.add_(1)),
        "cpu_generator": refusal(lambda: torch.rand(1, device="npu", generator=torch.Generator())),
    }


def observe_random() -> dict[str, Any]:
    def draw(generator: torch.Generator | None = None) -> list[float]:
        return torch.rand(3, device="npu", generator=generator).tolist()

    torch.manual_seed(3)
    first, state = draw(), torch.npu.get_rng_state()
    second = draw()
    torch.npu.set_rng_state(state)
    again = draw()
    torch.manual_seed(3)
    return {
        "seeded": draw() == first,
        "moves_on": first != second,
        "restored": again == second,
        "own_generator": draw(torch.Generator("npu").manual_seed(3)) == first,
    }


def observe_memory() -> dict[str, Any]:
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    block = torch.empty(4 * MIB, dtype=torch.uint8, device="npu")
    held = torch.npu.memory_allocated() - before
    other = torch.npu.memory_allocated(1)
    del block
    facts = {
        "held": held,
        "other": other,
        "freed": torch.npu.memory_allocated() == before,
        "peak": torch.npu.max_memory_allocated() - before,
        "total": torch.npu.mem_get_info()[1],
    }
    torch_npu.npu.simulation.limit(16 * MIB)
    facts["beyond"] = refusal(lambda: torch.empty(8 * MIB, device="npu"))
    facts["is_out_of_memory"] = facts["beyond"].startswith("OutOfMemoryError")
    facts["within"] = refusal(lambda: torch.empty(MIB, device="npu"))
    return facts


def observe_streams() -> dict[str, Any]:
    stream = torch.npu.Stream()
    computing = torch.npu.current_stream()
    with torch.npu.stream(stream):
        inside = torch.npu.current_stream() == stream
        moved = torch.ones(2).to("npu", non_blocking=True)
    computing.wait_stream(stream)
    moved.record_stream(computing)
    start, end = (torch.npu.Event(enable_timing=True) for _ in range(2))
    start.record()
    torch.rand(300, 300, device="npu").mm(torch.rand(300, 300, device="npu"))
    end.record()
    torch.npu.synchronize()
    return {
        "inside": inside,
        "restored": torch.npu.current_stream() == computing,
        "took_ms": start.elapsed_time(end),
    }


print(json.dumps(observe()))
