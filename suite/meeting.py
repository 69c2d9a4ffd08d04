"""Where the ranks of a run meet on their devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from suite import __version__
from suite.device import Device
from suite.device_facts import limit_collectives, versions
from suite.launch.ranks import Ranks, join
from suite.launch.worker import Patience, Worker


@contextmanager
def meet(
    worker: Worker | None, device: Device, *, facts: Mapping[str, str], patience: Patience
) -> Iterator[Ranks]:
    """Join the other ranks of a run; see `join`.

    Args:
        facts: what has to be equal on all ranks, besides the versions of what computes.
    """
    limit_collectives(device.kind, patience_s=patience.step_s)
    everywhere = {**facts, "device": device.kind, "suite": __version__, **versions(device.kind)}
    with join(
        worker,
        backend=device.collective_backend,
        device=device.torch_device,
        facts=everywhere,
        patience=patience,
    ) as ranks:
        yield ranks
