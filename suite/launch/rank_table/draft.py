"""A rank table as it was read, before anybody knows whether it is right: values may be missing.

Each value knows its place in the document, so that a rule between several of them can name them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from suite.launch.rank_table.model import RankDevice, RankTable, Server, SuperPod, Version

Entry = TypeVar("Entry")
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
        version: the format.
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


def find_duplicates(
    entries: Iterable[Entry],
    key: Callable[[Entry], Hashable | None],
    *,
    place: Callable[[Entry], str],
) -> Iterator[tuple[str, Hashable, str]]:
    """Yield the place of each entry with a key that came before, the key, and where that was."""
    first: dict[Hashable, str] = {}
    for entry in entries:
        found = key(entry)
        if found is not None and found in first:
            yield place(entry), found, first[found]
        elif found is not None:
            first[found] = place(entry)


def finish_table(draft: Draft, *, warnings: tuple[str, ...]) -> RankTable:
    """Return the table that a draft without faults is, servers and devices in order of rank."""
    servers = sorted(draft.servers, key=lambda server: server.ranks)
    pods = (
        SuperPod(_known(pod.super_pod_id), tuple(_known(member) for _, member in pod.members))
        for pod in draft.super_pods or ()
    )
    return RankTable(
        draft.version,
        tuple(_finish_server(server) for server in servers),
        tuple(pods),
        warnings=warnings,
    )


def _finish_server(entry: ServerEntry) -> Server:
    devices = tuple(_finish_device(device) for device in entry.devices)
    return Server(
        _known(entry.server_id),
        tuple(sorted(devices, key=lambda device: device.rank)),
        entry.host_ip,
        entry.container_ip,
    )


def _finish_device(entry: DeviceEntry) -> RankDevice:
    rank, device_id = _known(entry.rank), _known(entry.device_id)
    return RankDevice(rank, device_id, entry.device_ip, entry.super_device_id)


def _known(value: Value | None) -> Value:
    assert value is not None, "a draft with faults is never finished"
    return value
