"""Toxiproxy on loopback: doors to servers, which lose what goes through them when told so (its README, "HTTP API")."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from bench.pgbouncer import served
from counterfoil_console.stack import default_directories
from counterfoil_console.stack.ports import HOST, pick
from tests.fix_oldest import need
from tests.waiting import is_served

VERSION = "2.5.0"
PROGRAM = default_directories(os.environ).cache / f"toxiproxy-{VERSION}" / "server"
Way = Literal["upstream", "downstream"]


@dataclass(frozen=True)
class Door:
    """A port that leads to a server."""

    name: str
    port: int
    _http: httpx2.Client

    def lead_to(self, port: int) -> None:
        """From now on it leads elsewhere on this host; what went through it is cut."""
        self._say("POST", "", {"upstream": f"{HOST}:{port}"})

    def shut(self) -> None:
        """Cut what goes through it, and refuse connections."""
        self._say("POST", "", {"enabled": False})

    def open(self) -> None:
        """Take connections again."""
        self._say("POST", "", {"enabled": True})

    @contextmanager
    def toxic(self, kind: str, way: Way, **attributes: int) -> Iterator[None]:
        """For the length of a block: `timeout` swallows what is sent and cuts, `latency` keeps it (milliseconds)."""
        self._say("POST", "/toxics", {"name": kind, "type": kind, "stream": way, "attributes": attributes})
        try:
            yield
        finally:
            self._say("DELETE", f"/toxics/{kind}")

    def _say(self, verb: str, path: str, said: Any = None) -> None:
        self._http.request(verb, f"/proxies/{self.name}{path}", json=said).raise_for_status()


class Toxiproxy:
    """One server with as many doors as are asked for."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=60, trust_env=False)

    def door(self, name: str, port: int, *, at: int = 0) -> Door:
        """A new door to a port of this host, itself at a port that is free if none is named."""
        asked = {"name": name, "listen": f"{HOST}:{at}", "upstream": f"{HOST}:{port}", "enabled": True}
        reply = self._http.post("/proxies", json=asked).raise_for_status()
        return Door(name, int(reply.json()["listen"].rpartition(":")[2]), self._http)

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()


@pytest.fixture(scope="session")
def toxiproxy() -> Iterator[Toxiproxy]:
    """The server of a run."""
    need(PROGRAM, "toxiproxy")
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:
        port = pick(None, ())
        url = f"http://{HOST}:{port}"
        command = ["setpriv", "--pdeathsig", "INT", str(PROGRAM), f"-host={HOST}", f"-port={port}"]
        with served(command, Path(folder) / "log", lambda: is_served(f"{url}/version")):
            server = Toxiproxy(url)
            yield server
            server.close()
