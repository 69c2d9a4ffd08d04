"""Addresses of machines: which are this one's own, which reach nobody else, and by what interface.

gloo asks for the address of this machine's name, which in many installations is 127.0.1.1: ranks of
several machines would then look for each other on their own. Naming the interface avoids that.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

from suite.launch.worker import LOOPBACK

if sys.platform == "linux":
    import fcntl

_IPV4_ADDRESSES: Final = Path("/proc/net/fib_trie")
_IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")
_ADDRESS_OF_INTERFACE: Final = 0x8915  # SIOCGIFADDR of linux/sockios.h
_NAME_LENGTH: Final = 15  # IFNAMSIZ of linux/if.h, without the closing zero
_ANY_PORT: Final = 9


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a text is, None where it is none or belongs to one interface."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def is_placeholder(host: str) -> bool:
    """Tell whether this is 0.0.0.0 or its IPv6 equal, which no machine has."""
    parsed = parse_address(host)
    return parsed is not None and parsed.is_unspecified


def is_local_only(host: str) -> bool:
    """Tell whether a host is at most this machine to itself, so that no other can reach it."""
    parsed = parse_address(host)
    if parsed is None:
        return host.lower() == "localhost"
    return parsed.is_unspecified or parsed.is_loopback


def normalise(host: str) -> str:
    """Return the one way to write a name or an address, in which they can be compared."""
    parsed = parse_address(host)
    return host.lower() if parsed is None else str(parsed)


def is_own(host: str, addresses: Collection[str]) -> bool:
    """Tell whether a host is this machine: by name, by address, or by the address of its name.

    Args:
        addresses: this machine's, and its name, as `local_addresses` gives them.
    """
    own = {normalise(address) for address in addresses}
    return normalise(host) in own or not own.isdisjoint(_resolve(host))


def local_addresses() -> set[str]:
    """Return the addresses of this machine on all its networks, and its host name."""
    name = socket.gethostname()
    known = {LOOPBACK, "::1", name}
    return known | _read_ipv4_addresses() | _read_ipv6_addresses() | _resolve(name)


def interface_towards(host: str) -> str | None:
    """Return the name of the interface by which packets leave for a host; None where none is found.

    Nothing is sent.
    """
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, _ANY_PORT))
        except OSError:
            return None
        own = probe.getsockname()[0]
        names = [name for _, name in socket.if_nameindex()]
        return next((name for name in names if _address_of(name, probe) == own), None)


def _resolve(name: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except (OSError, UnicodeError):  # a name that nobody knows is common in containers
        return set()


def _read_ipv4_addresses() -> set[str]:
    """Read the kernel's routes, where an own address has the line "/32 host LOCAL" under it."""
    try:
        text = _IPV4_ADDRESSES.read_text()
    except OSError:  # not Linux, or a sandbox that shows no routes
        return set()
    return set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", text))


def _read_ipv6_addresses() -> set[str]:
    try:
        lines = _IPV6_ADDRESSES.read_text().splitlines()
    except OSError:
        return set()
    return {str(ipaddress.IPv6Address(int(line.split()[0], 16))) for line in lines}


def _address_of(name: str, probe: socket.socket) -> str | None:
    if sys.platform != "linux":
        return None
    request = struct.pack("256s", name[:_NAME_LENGTH].encode())
    try:
        answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, request)
    except OSError:  # it has no IPv4 address
        return None
    return socket.inet_ntoa(answer[20:24])
