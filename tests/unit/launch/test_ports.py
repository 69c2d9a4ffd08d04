"""Who has a port, and whether anybody listens at one."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.launch.ports import await_listener, describe_holder, find_holder, is_free


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port of each kind of address that this process has."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        found = socket.socket(family)
        found.bind((request.param, 0))
    except OSError:
        pytest.skip(f"this machine has no {request.param}")
    with found:
        found.listen()
        yield int(found.getsockname()[1])


def test_the_process_that_listens_is_found(listener: int) -> None:
    assert not is_free(listener)
    assert find_holder(listener) == os.getpid()
    name = Path("/proc/self/comm").read_text().strip()
    assert describe_holder(listener) == f" by process {os.getpid()} ({name})"


def test_a_file_that_closes_meanwhile_hides_nothing() -> None:
    """Listing a process's open files opens one, which is gone when it is looked at."""
    first = os.open(os.devnull, os.O_RDONLY)  # its number comes before the socket's
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        os.close(first)
        assert find_holder(found.getsockname()[1]) == os.getpid()


def test_a_free_port_has_no_process() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    assert is_free(port)
    assert find_holder(port) is None
    assert describe_holder(port) == ""


def test_a_listener_may_come_late() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        assert not await_listener("127.0.0.1", port, timeout_s=0.1)
        timer = threading.Timer(0.3, late.listen)
        timer.start()
        assert await_listener("127.0.0.1", port, timeout_s=20)
        timer.join()


@pytest.mark.parametrize("addr", ["127.0.0.1", "no-such-host.invalid"])
def test_nobody_is_waited_for_no_longer_than_asked(addr: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        start = time.monotonic()
        assert not await_listener(addr, closed.getsockname()[1], timeout_s=0.6)
    assert 0.2 < time.monotonic() - start < 2
