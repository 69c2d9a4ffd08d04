"""Which addresses are this machine's own, which reach nobody else, and by what interface."""

from __future__ import annotations

import socket
import sys

import pytest

from suite.launch.addresses import interface_towards, is_local_only, is_own, local_addresses

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="interfaces are asked of Linux")


def test_the_loopback_address_is_among_the_local_ones() -> None:
    assert {"127.0.0.1", "::1", socket.gethostname()} <= local_addresses()


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("10.0.0.1", True),
        ("NODE7", True),
        ("fd00:0::2", True),
        ("localhost", True),
        ("10.0.0.2", False),
        ("no-such-host.invalid", False),
        ("a..b", False),
    ],
)
def test_a_host_is_own_by_name_by_address_or_by_that_of_its_name(host: str, own: bool) -> None:
    assert is_own(host, {"node7", "10.0.0.1", "FD00::2", "127.0.0.1"}) == own


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.1.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::", True),
        ("10.0.0.1", False),
        ("node7", False),
        ("", False),
    ],
)
def test_a_loopback_or_a_placeholder_reaches_nobody_else(host: str, expected: bool) -> None:
    assert is_local_only(host) == expected


@on_linux
def test_this_machine_is_reached_by_its_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("localhost") == "lo"


@on_linux
def test_another_machine_is_not_reached_by_the_loopback() -> None:
    # An address of the documentation's own range: nothing is sent there.
    found = interface_towards("192.0.2.1")
    if found is None:
        pytest.skip("this machine has no route to others")
    assert found != "lo"
    assert found in [name for _, name in socket.if_nameindex()]


@on_linux
def test_a_name_that_nobody_has_is_reached_by_none() -> None:
    assert interface_towards("no-such-host.invalid") is None
