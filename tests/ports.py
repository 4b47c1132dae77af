"""Ports for servers that must have the same one again, or be told it before they listen."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_random = random.SystemRandom()


def free_port() -> int:
    """A port that is free now and below those that the system gives to outgoing connections: it stays free."""
    while True:
        port = _random.randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
