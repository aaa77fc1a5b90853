"""Free ports for servers under test, outside the range from which the kernel takes the ports of outgoing connections.

A port that the kernel was asked for (bind to 0) lies in that range, and a connection of anybody may take it before the
server that it was meant for listens.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
_LOWEST, _HIGHEST = 10_000, 19_999
"""Below those of tests/acceptance/cluster.py, and below net.ipv4.ip_local_port_range as it is by default."""

_random = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now, and that this process was not given before."""
    for _ in range(1_000):
        port = _random.randint(_LOWEST, _HIGHEST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError("no free port was found")
