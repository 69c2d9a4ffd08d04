"""A rank table as it was read, before anybody knows whether it is right: values may be missing.

Each value knows its place in the document, so that a rule between several of them can name them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from suite.launch.rank_table.model import RankDevice, RankTable, Server, SuperPod, Version
from suite.launch.rank_table.strict_json import Fault

Value = TypeVar("Value")


@dataclass(frozen=True)
class DeviceEntry:
    """A device; None stands for what is absent or unreadable, which has been reported.

    Attributes:
        path: the object with its device_id.
        rank_path: where its rank stands; template 2 keeps that outside.
        faulty: keys of the object that have been reported, so that none is called missing as well.
    """

    path: str
    rank_path: str
    rank: int | None
    device_id: int | None
    device_ip: str | None
    super_device_id: int | None = None
    faulty: frozenset[str] = frozenset()

    def lacks(self, key: str) -> bool:
        """Tell whether a key that the device may go without is absent, and not just wrong."""
        return getattr(self, key) is None and key not in self.faulty


@dataclass(frozen=True)
class ServerEntry:
    """A machine; in template 2 put together from its instances, `path` is that of the first."""

    path: str
    server_id: str | None
    devices: tuple[DeviceEntry, ...]
    host_ip: str | None = None
    container_ip: str | None = None

    @property
    def host_addr(self) -> str | None:
        """Where the other servers reach this one, as `Server.host_addr`."""
        return self.container_ip or self.host_ip or self.server_id

    @property
    def ranks(self) -> list[int]:
        """Return the ranks that could be read, in ascending order."""
        return sorted(device.rank for device in self.devices if device.rank is not None)


@dataclass(frozen=True)
class PodEntry:
    """A super pod; `members` are the path and the server_id of each of its servers."""

    path: str
    super_pod_id: str | None
    members: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Draft:
    """Everything that was read.

    Attributes:
        servers: in the order of the file.
        super_pods: None where the document has no list of them.
        has_ranks: whether the ranks stand in the document; else they follow from its order.
    """

    version: Version
    servers: tuple[ServerEntry, ...]
    super_pods: tuple[PodEntry, ...] | None = None
    has_ranks: bool = True

    @property
    def devices(self) -> Iterator[DeviceEntry]:
        """All devices in the order of the file."""
        return (device for server in self.servers for device in server.devices)


def forbid_repeats(
    values: Iterable[tuple[str, Hashable]], told: str, *, key: str = ""
) -> Iterator[Fault]:
    """Yield a fault for each value that came before.

    Args:
        values: the path of each and the value, None where it is unreadable.
        told: what the value is, with {} for the path where it came before.
        key: what the path lacks to be that of the value.
    """
    first: dict[Hashable, str] = {}
    for path, value in values:
        if value is not None and value in first:
            yield Fault(f"{path}{key}", f"'{value}' is {told.format(first[value])}")
        elif value is not None:
            first[value] = path


def finish_table(draft: Draft, *, warnings: tuple[str, ...]) -> RankTable:
    """Return the table that a draft without faults is, servers and devices in order of rank."""
    servers = sorted(draft.servers, key=lambda server: server.ranks)
    pods = (
        SuperPod(_known(pod.super_pod_id), tuple(_known(member) for _, member in pod.members))
        for pod in draft.super_pods or ()
    )
    return RankTable(draft.version, tuple(map(_finish_server, servers)), tuple(pods), warnings)


def _finish_server(entry: ServerEntry) -> Server:
    devices = (
        RankDevice(_known(one.rank), _known(one.device_id), one.device_ip, one.super_device_id)
        for one in entry.devices
    )
    in_order = tuple(sorted(devices, key=lambda device: device.rank))
    return Server(_known(entry.server_id), in_order, entry.host_ip, entry.container_ip)


def _known(value: Value | None) -> Value:
    assert value is not None, "a draft with faults is never finished"
    return value
