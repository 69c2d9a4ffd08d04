"""What ranks need to find each other: this machine's name, and the port where they meet."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator

from suite.doctor.checks import Check
from suite.doctor.needs import Needs
from suite.launch.ports import describe_holder, is_free
from suite.launch.worker import DEFAULT_PORT

_RESOLVE_TIMEOUT_S = 5.0


def check_network(needs: Needs, *, has_recipe: bool) -> Iterator[Check]:
    """Look at name and port; the port matters to runs over several machines only."""
    yield _check_host_name(needs)
    # On one machine a free port is taken. Without a recipe nobody knows.
    if needs.spans_machines or not has_recipe:
        yield _check_rendezvous_port()


def _check_host_name(needs: Needs) -> Check:
    name = socket.gethostname()
    address = _resolve(name)
    if address is None:
        remedy = f'run: echo "127.0.0.1 {name}" | sudo tee -a /etc/hosts'
        return Check("host name", "warning", f"{name} does not resolve", remedy)
    value = f"{name} is {address}"
    if needs.spans_machines and ipaddress.ip_address(address).is_loopback:
        remedy = "let /etc/hosts give it its address in the network, or pass it to suite launch"
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
    if is_free(DEFAULT_PORT):
        return Check("rendezvous port", "ok", f"{DEFAULT_PORT} is free")
    free = next(port for port in range(DEFAULT_PORT, 65536) if is_free(port))
    value = f"{DEFAULT_PORT} is taken{describe_holder(DEFAULT_PORT)}"
    remedy = f"pass suite launch --master HOST:{free} on every machine, HOST being the first one"
    return Check("rendezvous port", "warning", value, remedy)
