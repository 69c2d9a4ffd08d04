"""What ranks need to find each other: this machine's name, and the port where they meet."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Iterator

from suite.doctor.checks import Check
from suite.doctor.needs import Needs
from suite.launch.ports import describe_holder, is_free
from suite.launch.worker import DEFAULT_PORT

_RESOLVE_TIMEOUT_S = 5.0


def check_network(needs: Needs) -> Iterator[Check]:
    """Look at name and port; both matter to runs of several ranks only."""
    yield _check_host_name(needs)
    yield _check_rendezvous_port()


def _check_host_name(needs: Needs) -> Check:
    name = socket.gethostname()
    address = _resolve(name)
    if address is None:
        remedy = f'run: echo "127.0.0.1 {name}" | sudo tee -a /etc/hosts'
        return Check("host name", "warning", f"{name} does not resolve", remedy)
    value = f"{name} is {address}"
    if needs.spans_machines and ipaddress.ip_address(address).is_loopback:
        remedy = "let /etc/hosts give it its address in the network, or pass that as --master"
        return Check("host name", "warning", f"{value}, which no other machine reaches", remedy)
    return Check("host name", "ok", value)


def _resolve(name: str) -> str | None:
    """Return an address; None where there is none, or no answer in time."""
    found: list[str] = []

    def ask() -> None:
        try:
            found.append(str(socket.getaddrinfo(name, None)[0][4][0]))
        except (OSError, UnicodeError):
            return

    # The system's resolver takes no timeout, and waits long for a server that is not there.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_RESOLVE_TIMEOUT_S)
    return found[0].partition("%")[0] if found else None


def _check_rendezvous_port() -> Check:
    named = os.environ.get("MASTER_PORT") or str(DEFAULT_PORT)
    if not named.isdigit() or not 0 < int(named) < 65536:
        return Check(
            "rendezvous port", "warning", f"MASTER_PORT is {named!r}", "run: unset MASTER_PORT"
        )
    port = int(named)
    if is_free(port):
        return Check("rendezvous port", "ok", f"{port} is free")
    free = next(other for other in range(DEFAULT_PORT, 65536) if is_free(other))
    value = f"{port} is taken{describe_holder(port)}"
    return Check("rendezvous port", "warning", value, f"run: export MASTER_PORT={free}")
