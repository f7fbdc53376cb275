"""Debian's redis-server, private to the run: on loopback, with a password, and nothing of it on disk."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from bench.pgbouncer import folder_of_servers, served
from counterfoil_console.stack.ports import HOST, pick
from tests.fix_oldest import need
from tests.waiting import freeze

PASSWORD = "only-on-loopback"
PROGRAM = Path(shutil.which("redis-server") or "/usr/bin/redis-server")


class RedisServer:
    """One server."""

    def __init__(self, port: int, pid: int) -> None:
        self._pid = pid
        self.port = port
        self.url = f"redis://:{PASSWORD}@{HOST}:{port}/0"

    def client(self) -> "redis.Redis":
        """A connection around every adapter."""
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=60)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It neither answers nor closes its connections for the length of a block."""
        freeze(self._pid)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)


NewRedis = Callable[..., RedisServer]


@pytest.fixture(scope="session")
def new_redis() -> Iterator[NewRedis]:
    """Starts servers, with settings of redis.conf; they end with the run."""
    need(PROGRAM, "redis-server")
    with folder_of_servers() as (folder, run_as), ExitStack() as running:

        def start(**settings: str) -> RedisServer:
            port = pick(None, ())
            ours = {
                "bind": HOST, "port": str(port), "requirepass": PASSWORD, "save": "", "appendonly": "no",
                "dir": str(folder),
            }  # fmt: skip
            options = [part for name, value in (ours | settings).items() for part in (f"--{name}", value)]
            log = folder / f"{port}.log"
            return RedisServer(
                port, running.enter_context(served(run_as(PROGRAM, *options), log, lambda: _answers(port)))
            )

        yield start


@pytest.fixture(scope="session")
def redis_server(new_redis: NewRedis) -> RedisServer:
    """One server for all tests that leave it as it was; each has keys of its own."""
    return new_redis()


def _answers(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection((HOST, port), timeout=1)) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(100).startswith(b"-NOAUTH")
    return False
