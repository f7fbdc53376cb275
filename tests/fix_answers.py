"""A small HTTP server that answers as a test says, and keeps what it was asked: as AWS does when it has had enough."""

import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from counterfoil_console.stack.ports import HOST
from tests.waiting import ENDS_WITHIN_SECONDS


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """Of a service that is asked by JSON alone, as DynamoDB is."""
        return self.headers.get("X-Amz-Target", "").rpartition(".")[2]


@dataclass(frozen=True)
class Answer:
    """What is said to it. `length`: what the answer says of its own length, where that is not the truth."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


class Answering:
    """The server. `say` decides what is answered to a request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.say: Callable[[Asked], Answer] = lambda _: Answer(404)

    def pass_on_to(self, url: str) -> Callable[[Asked], Answer]:
        """Answers as another server does, which is asked the same."""

        def ask(asked: Asked) -> Answer:
            there = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
            try:
                there.request(asked.method, asked.path, asked.body, dict(asked.headers))
                answer = there.getresponse()
                dropped = {"content-length", "connection", "transfer-encoding", "date", "server"}
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
                return Answer(answer.status, answer.read(), headers)
            finally:
                there.close()

        return ask


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answering: Answering

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, self.path, dict(self.headers.items()), body)
        self.answering.asked.append(asked)
        answer = self.answering.say(asked)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A server of the test's own."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        Handler.answering = Answering(f"http://{HOST}:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(ENDS_WITHIN_SECONDS,))
        thread.start()
        yield Handler.answering
        server.shutdown()
        thread.join()
