"""A rank table from a list of hosts and the addresses of their devices.

Ranks follow the order in which the hosts are given: a pattern or a sorted list would decide it by
accident, and 10.0.0.10 comes before 10.0.0.9 in either.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from suite.errors import InputError, UsageError
from suite.launch.addresses import parse_address
from suite.launch.rank_table.model import RankDevice, RankTable, Server
from suite.launch.rank_table.rules import ASK_ADDRESS
from suite.launch.rank_table.strict_json import read_bytes

MAX_BYTES: Final = 2**20  # /etc/hccn.conf has some 40 lines

_ADDRESS_LINE = re.compile(r"\s*address_(0|[1-9][0-9]{0,3})\s*=\s*(\S+)\s*")

Devices = Mapping[int, str]


def make_rank_table(
    hosts: Sequence[str], *, devices_per_host: int | None, devices: Mapping[str, Devices]
) -> RankTable:
    """Make a table of version 1.0, which is checked when it is written.

    Args:
        hosts: addresses, or names that resolve to them, in the order of their ranks.
        devices_per_host: how many devices each of them gives, those with the lowest numbers; None:
            all that have an address, as many on each host.
        devices: host -> number of a device -> its address; a single host may go without.

    Raises:
        UsageError: a host or the addresses of its devices are missing.
    """
    each = _count_devices(hosts, devices) if devices_per_host is None else devices_per_host
    servers = []
    for index, host in enumerate(hosts):
        chosen = _choose_devices(host, devices.get(host), each, alone=len(hosts) == 1)
        ranked = enumerate(chosen.items(), start=index * each)
        server_devices = (RankDevice(rank, number, address) for rank, (number, address) in ranked)
        servers.append(Server(resolve_host(host), tuple(server_devices)))
    return RankTable("1.0", tuple(servers))


def read_device_addresses(
    hosts: Sequence[str], *, device_ips: str | None, hccn_files: Sequence[str]
) -> dict[str, Devices]:
    """Return the addresses of each host's devices as flags give them.

    Args:
        device_ips: "IP,IP;IP,IP": those of the devices from number 0, hosts in their order.
        hccn_files: "HOST=FILE", with a copy of the host's /etc/hccn.conf.

    Raises:
        UsageError: both are given, or not one for each host.
        InputError: a file cannot be used.
    """
    if device_ips is not None and hccn_files:
        raise UsageError("--device-ips and --hccn both give addresses; pass one of them")
    if device_ips is None:
        return _load_hccn_files(hosts, hccn_files)
    parts = device_ips.split(";")
    if len(parts) != len(hosts):
        raise UsageError(
            f"--device-ips: addresses of {len(parts)} hosts, --hosts has {len(hosts)}; "
            "write IP,IP;IP,IP with ; between hosts"
        )
    return {host: dict(enumerate(part.split(","))) for host, part in zip(hosts, parts, strict=True)}


def _load_hccn_files(hosts: Sequence[str], hccn_files: Sequence[str]) -> dict[str, Devices]:
    found: dict[str, Devices] = {}
    for given in hccn_files:
        host, _, file = given.partition("=")
        if host not in hosts or not file:
            raise UsageError(f"--hccn {given}: expected HOST=FILE with a host of --hosts")
        if host in found:
            raise UsageError(f"--hccn {given}: {host} has a file already")
        found[host] = load_hccn_conf(Path(file))
    return found


def resolve_host(host: str) -> str:
    """Return the address of a host, the first one of IPv4 where it has several.

    Raises:
        UsageError: it has none.
    """
    if parse_address(host) is not None:
        return host
    if not host:  # which would resolve to the loopback address
        raise UsageError("an empty host; write them as --hosts H1,H2")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(f"{host}: no address is known for this host; give its address") from None
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return str(found[0][4][0])


def load_hccn_conf(path: Path) -> Devices:
    """Return the device addresses in a host's /etc/hccn.conf, from its lines address_N=ADDRESS.

    Raises:
        InputError: it cannot be read, has none, or one that is wrong or given twice.
    """
    found: dict[int, str] = {}
    content = read_bytes(path, max_bytes=MAX_BYTES, what="hccn.conf")
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        match = _ADDRESS_LINE.fullmatch(line)
        if match is None:
            continue
        device_id, address = int(match[1]), match[2]
        if parse_address(address) is None:
            raise InputError(f"{path}:{number}: expected an IP address, got {address!a}")
        if device_id in found:
            raise InputError(f"{path}:{number}: address_{device_id} is given twice")
        found[device_id] = address
    if not found:
        ask = ASK_ADDRESS.format(0)
        raise InputError(f"{path}: no line address_N=ADDRESS, the devices have none set; {ask}")
    return dict(sorted(found.items()))


def _count_devices(hosts: Sequence[str], devices: Mapping[str, Devices]) -> int:
    sizes = {host: len(devices[host]) for host in hosts if host in devices}
    if not sizes:
        raise UsageError(
            "how many devices does each host give? Pass --devices-per-host, or the addresses of "
            "all of them with --hccn or --device-ips"
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{host} {size}" for host, size in sizes.items())
        raise UsageError(
            f"the hosts have addresses of different numbers of devices ({listed}), each has to "
            "give as many; pass --devices-per-host to take that many of each"
        )
    return next(iter(sizes.values()))


def _choose_devices(
    host: str, given: Devices | None, wanted: int, *, alone: bool
) -> Mapping[int, str | None]:
    if given is None and alone:
        return dict.fromkeys(range(wanted))
    if given is None:
        raise UsageError(
            f"{host}: no device addresses, which several hosts need; pass --hccn {host}=FILE with "
            f"its /etc/hccn.conf, or --device-ips ({ASK_ADDRESS.format(0)})"
        )
    if len(given) < wanted:
        known = ", ".join(f"{number}: {address}" for number, address in given.items())
        raise UsageError(f"{host}: {wanted} devices wanted, addresses of {len(given)}: {known}")
    return {number: given[number] for number in sorted(given)[:wanted]}
