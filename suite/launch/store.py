"""The store that the ranks of a run meet at: served by the main rank, or by its launcher."""

from __future__ import annotations

import os
import queue
import threading
import time
from datetime import timedelta
from typing import Any, Final

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from suite.errors import MissingEnvironment
from suite.launch.ports import await_listener, describe_holder
from suite.launch.worker import LOOPBACK, Worker

OTHER_PORT: Final = "give the run another port (MASTER_PORT, or --master HOST:PORT)"
_LEAST_S: Final = 1.0


def open_store(worker: Worker, *, timeout_s: float) -> Any:
    """Open the store that the ranks of a run meet at; the main rank serves it, or its launcher.

    Raises:
        MissingEnvironment: it cannot be reached in time, or the port is taken.
    """
    # torch's own name for a launcher that keeps the store for its ranks, over restarts.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if worker.rank == 0 and not served:
        return _serve(worker, timeout_s)
    return reach_store(
        worker.master_addr, worker.master_port, who=f"rank {worker.rank}", timeout_s=timeout_s
    )


def reach_store(addr: str, port: int, *, who: str, timeout_s: float) -> Any:
    """Connect to a store that is served elsewhere.

    Args:
        who: wants it, for people.

    Raises:
        MissingEnvironment: it cannot be reached in time.
    """
    deadline = time.monotonic() + timeout_s
    if not await_listener(addr, port, timeout_s=timeout_s):
        raise MissingEnvironment(
            f"{who} cannot reach the main rank at {addr}:{port} within {timeout_s:g} s; "
            "is it running there, is the name right and the port open?"
        )
    store = _connect(addr, port, max(deadline - time.monotonic(), _LEAST_S))
    if store is None:
        raise MissingEnvironment(
            f"what listens at {addr}:{port} does not answer {who} as the main rank would; "
            f"is it another program? {OTHER_PORT}"
        )
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def _serve(worker: Worker, timeout_s: float) -> Any:
    port = worker.master_port
    try:
        # For all, from wherever they come, whether or not this machine knows its own name.
        return _open(LOOPBACK, port, timeout_s, is_master=True)
    except DistError as error:
        if "EADDRINUSE" in str(error):
            why = f"port {port} is taken{describe_holder(port)}"
        else:
            why = f"rank 0 cannot listen at port {port} ({str(error).splitlines()[0]})"
        raise MissingEnvironment(f"{why}; {OTHER_PORT}") from error


def _connect(addr: str, port: int, timeout_s: float) -> Any:
    """Return the store; None where something else listens."""
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def connect() -> None:
        try:
            # Half, as it tries again after that: at the end it shall have come to an end.
            opened.put(_open(addr, port, timeout_s / 2, is_master=False))
        except DistError:
            opened.put(None)

    # In a thread, as it never ends where a program listens that says nothing.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return opened.get(timeout=timeout_s)
    except queue.Empty:
        return None


def _open(addr: str, port: int, timeout_s: float, *, is_master: bool) -> Any:
    return TCPStore(
        addr,
        port,
        is_master=is_master,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )
