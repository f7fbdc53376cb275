"""Free TCP ports on the loopback interface.

Ports are taken from below the range from which systems choose ports of outgoing connections, so that none of
those takes one between our look and the server's bind.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable

HOST = "127.0.0.1"
_FIRST, _LAST = 20_000, 31_999
_CHOICE = random.SystemRandom()


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now; connections in TIME_WAIT do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """Whether something listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def pick(preferred: int | None, taken: Iterable[int]) -> int:
    """The preferred port if it is free, else a random free one; never one of `taken`."""
    forbidden = frozenset(taken)
    if preferred is not None and preferred not in forbidden and is_free(preferred):
        return preferred
    while True:
        port = _CHOICE.randint(_FIRST, _LAST)
        if port not in forbidden and is_free(port):
            return port


def wait_until_free(ports: Iterable[int], timeout_seconds: float) -> bool:
    """Whether all the ports were free within the time."""
    deadline = time.monotonic() + timeout_seconds
    for port in ports:
        while not is_free(port):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True
