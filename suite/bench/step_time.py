"""How long a step takes on many devices, by arithmetic on figures of one device and its links.

A step is forward and backward; what the update takes counts as theirs. Gradients leave in buckets,
as in torch's DistributedDataParallel: a bucket may go once all of its gradients are there, and
buckets go one after the other. Gradients are taken to appear evenly over the backward pass. What of
the all-reduce does not fit beside the backward pass is exposed. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

MIB = 2**20
# torch's defaults: a small first bucket, so that the links start early, then 25 MiB.
BUCKET_LIMITS = (1 * MIB, 25 * MIB)

_HALVINGS = 60


@dataclass(frozen=True)
class Link:
    """What one device sends through, in each direction."""

    bytes_per_second: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """How devices are connected.

    Attributes:
        inside, between: the links of one device to others of its machine, and of other machines.
        algorithm: `hierarchical` adds up inside each machine, then every device its share between
            machines, then spreads it inside; `ring` passes everything around all devices.
    """

    devices_per_machine: int
    inside: Link
    between: Link
    algorithm: Literal["hierarchical", "ring"] = "hierarchical"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step on one device.

    Attributes:
        buckets: bytes of gradients, in the order they are ready.
        loading_s: of one device's batch, beside everything else; the devices of a machine share
            its loader.
        lost_s: lost in every step of more than one device, whatever their number.
    """

    forward_s: float
    backward_s: float
    buckets: Sequence[int]
    loading_s: float = 0.0
    lost_s: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """A step on some number of devices.

    Attributes:
        all_reduce_s: all buckets together, whether hidden or not.
        exposed_s: of it, what the step waits for.
    """

    devices: int
    all_reduce_s: float
    exposed_s: float
    step_s: float


def predict_step(work: Work, network: Network, *, devices: int, overlap: bool = True) -> StepTime:
    """Return what a step takes.

    Args:
        overlap: whether buckets go while the backward pass goes on, or after it.
    """
    seconds = [all_reduce_seconds(size, network, devices=devices) for size in work.buckets]
    computed = work.forward_s + work.backward_s
    finished, ready_bytes = 0.0, 0
    for size, duration in zip(work.buckets, seconds, strict=True):
        ready_bytes += size
        share = ready_bytes / sum(work.buckets) if overlap else 1.0
        finished = max(finished, work.forward_s + share * work.backward_s) + duration
    exposed = max(0.0, finished - computed)
    step = computed + exposed + (work.lost_s if devices > 1 else 0.0)
    loading = work.loading_s * min(devices, network.devices_per_machine)
    return StepTime(devices, sum(seconds), exposed, max(step, loading))


def all_reduce_seconds(size: float, network: Network, *, devices: int) -> float:
    """Return how long the sum of `size` bytes over devices takes until each of them has it."""
    if devices == 1:
        return 0.0
    local = min(devices, network.devices_per_machine)
    machines = math.ceil(devices / local)
    if machines == 1:
        return _ring_seconds(size, network.inside, devices)
    if network.algorithm == "ring":
        # All links carry the same, so the slowest one decides.
        slowest = min(network.inside.bytes_per_second, network.between.bytes_per_second)
        return _ring_seconds(size, replace(network.between, bytes_per_second=slowest), devices)
    # Half of a ring inside before and half of it after; each device has its share between them.
    inside = _ring_seconds(size, network.inside, local)
    shared = _transfer_seconds(size / local, network.between, machines)
    return inside + shared + 2 * math.ceil(math.log2(machines)) * network.between.latency_s


def _ring_seconds(size: float, link: Link, members: int) -> float:
    return _transfer_seconds(size, link, members) + 2 * (members - 1) * link.latency_s


def _transfer_seconds(size: float, link: Link, members: int) -> float:
    return 2 * (members - 1) / members * size / link.bytes_per_second


def split_into_buckets(
    gradient_bytes: Sequence[int], limits: Sequence[int] = BUCKET_LIMITS
) -> list[int]:
    """Return the bytes of each bucket as torch's DistributedDataParallel fills them.

    Args:
        gradient_bytes: of each parameter, in the order the gradients are ready.
        limits: a bucket is full from here on; the last limit is that of all further buckets.
    """
    buckets = [0]
    for size in gradient_bytes:
        if buckets[-1] >= limits[min(len(buckets), len(limits)) - 1]:
            buckets.append(0)
        buckets[-1] += size
    return buckets


@dataclass(frozen=True)
class Explanation:
    """What would make the model give a measured step; None where nothing of the kind does.

    Attributes:
        overlapped, after_backward: part of the links' stated speed that would do, with the
            all-reduce beside the backward pass or after it.
        lost_s: constant loss that would do, at the stated speed.
    """

    overlapped: float | None
    after_backward: float | None
    lost_s: float | None


def explain_step(
    work: Work, network: Network, *, devices: int, measured_step_s: float
) -> Explanation:
    """Return what would explain a measured step time, one cause at a time."""

    def slow_links(*, overlap: bool) -> float | None:
        def at(share: float) -> float:
            return predict_step(
                work, _slowed(network, share), devices=devices, overlap=overlap
            ).step_s

        low, high = 1e-6, 1e6
        if not at(high) <= measured_step_s <= at(low):
            return None
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if at(middle) > measured_step_s else (low, middle)
        return high

    lost = measured_step_s - predict_step(work, network, devices=devices).step_s
    return Explanation(
        slow_links(overlap=True), slow_links(overlap=False), lost if lost >= 0 else None
    )


def _slowed(network: Network, share: float) -> Network:
    inside, between = (
        replace(link, bytes_per_second=share * link.bytes_per_second)
        for link in (network.inside, network.between)
    )
    return replace(network, inside=inside, between=between)
