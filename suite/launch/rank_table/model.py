"""What a rank table says, whichever of its formats it was written in.

Servers stand in the order of their ranks and devices in the order of theirs, so that the index of a
server is the node rank a launcher gives it and the index of a device the local rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from suite.launch.addresses import is_placeholder
from suite.launch.worker import LOOPBACK

Version = Literal["template2", "1.0", "1.2"]


@dataclass(frozen=True)
class RankDevice:
    """One rank and the device it runs on.

    Attributes:
        device_id: physical number of the device on its server, that of /dev/davinciN.
        device_ip: address of the device's own network card.
        super_device_id: number of the device within its super pod (Atlas A3).
    """

    rank: int
    device_id: int
    device_ip: str | None = None
    super_device_id: int | None = None


@dataclass(frozen=True)
class Server:
    """One machine.

    Attributes:
        server_id: an address in older tables, any unique name of at most 64 characters in newer.
        devices: in the order of their ranks.
        host_ip: address of the machine.
        container_ip: address of the pod on it.
    """

    server_id: str
    devices: tuple[RankDevice, ...]
    host_ip: str | None = None
    container_ip: str | None = None

    @property
    def host_addr(self) -> str:
        """Where the other servers reach the processes of this one."""
        return self.container_ip or self.host_ip or self.server_id

    @property
    def names(self) -> tuple[str, ...]:
        """Everything by which the machine may know itself in the table."""
        return tuple(filter(None, (self.container_ip, self.host_ip, self.server_id)))

    @property
    def device_ids(self) -> tuple[int, ...]:
        """Physical numbers of the devices, in the order of the local ranks."""
        return tuple(device.device_id for device in self.devices)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the ranks that run here."""
        return tuple(device.rank for device in self.devices)


@dataclass(frozen=True)
class SuperPod:
    """Servers whose devices share one fast network (Atlas A3)."""

    super_pod_id: str
    server_ids: tuple[str, ...]


@dataclass(frozen=True)
class RankTable:
    """All ranks of a job; `load_rank_table` and `write_rank_table` check it.

    Attributes:
        version: the format it was read from.
        servers: in the order of their ranks.
        warnings: what was noticed in reading and is no fault, one sentence each.
    """

    version: Version
    servers: tuple[Server, ...]
    super_pods: tuple[SuperPod, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_servers(self) -> int:
        """Return how many machines there are."""
        return len(self.servers)

    @property
    def devices(self) -> tuple[RankDevice, ...]:
        """The devices of all machines."""
        return tuple(device for server in self.servers for device in server.devices)

    @property
    def num_ranks(self) -> int:
        """Return how many ranks all machines have together."""
        return len(self.devices)

    @property
    def devices_per_server(self) -> int:
        """Return how many ranks run on each machine."""
        return len(self.servers[0].devices)

    @property
    def master(self) -> Server:
        """The server of rank 0."""
        return self.servers[0]

    @property
    def master_addr(self) -> str:
        """Where rank 0 is reached; the loopback address where only a placeholder stands."""
        return LOOPBACK if is_placeholder(self.master.host_addr) else self.master.host_addr


def format_numbers(numbers: Iterable[int]) -> str:
    """Return numbers as ranges where they follow one another, such as "0-3, 7"."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [f"{first}-{last}" if first < last else str(first) for first, last in ranges]
    return ", ".join(texts if len(texts) <= 10 else [*texts[:10], "..."])
