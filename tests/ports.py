"""Ports for tests."""

from __future__ import annotations

import random
import socket

# Below those that the system gives to whoever asks for any.
_LEAST, _MOST = 20_000, 32_000


def find_port() -> int:
    """Return a port that nobody listens at, and nobody is going to be given."""
    while True:
        port = random.randrange(_LEAST, _MOST)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
