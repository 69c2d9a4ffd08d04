"""By which network interface another machine is reached.

gloo asks for the address of this machine's name, which in many installations is 127.0.1.1: ranks of
several machines would then look for each other on their own. Naming the interface avoids that.
"""

from __future__ import annotations

import socket
import struct
import sys

if sys.platform == "linux":
    import fcntl

_ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of linux/sockios.h
_NAME_LENGTH = 15  # IFNAMSIZ of linux/if.h, without the closing zero
_ANY_PORT = 9


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


def _address_of(name: str, probe: socket.socket) -> str | None:
    if sys.platform != "linux":
        return None
    request = struct.pack("256s", name[:_NAME_LENGTH].encode())
    try:
        answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF_INTERFACE, request)
    except OSError:  # it has no IPv4 address
        return None
    return socket.inet_ntoa(answer[20:24])
