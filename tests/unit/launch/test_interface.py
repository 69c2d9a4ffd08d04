"""The interface by which a machine is reached."""

from __future__ import annotations

import socket
import sys

import pytest

from suite.launch.interface import interface_towards

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="interfaces are asked of Linux")


def test_this_machine_is_reached_by_its_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("localhost") == "lo"


def test_another_machine_is_not_reached_by_the_loopback() -> None:
    # An address of the documentation's own range: nothing is sent there.
    found = interface_towards("192.0.2.1")
    if found is None:
        pytest.skip("this machine has no route to others")
    assert found != "lo"
    assert found in [name for _, name in socket.if_nameindex()]


def test_a_name_that_nobody_has_is_reached_by_none() -> None:
    assert interface_towards("no-such-host.invalid") is None
