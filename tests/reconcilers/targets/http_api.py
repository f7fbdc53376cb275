"""A small HTTP server that answers as a test tells it, also as no server should; and an adapter that asks it."""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Target, TargetRow
from tests.reconcilers.targets.conformance import NAME, contracts_of, item
from tests.waiting import ENDS_WITHIN_SECONDS

Reply = Callable[["Handler"], None]
TOKEN = "s3cret-token"
CONTRACT = """\
[targets.subject]
kind = "http"
timeout_seconds = 20
[targets.subject.resources.items]
key = ["id"]
get = "/items/{id}"
list = "/items"
"""


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    verb: str
    path: str  # as sent, still encoded
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Api:
    """What the server was asked, and what it answers: by path, and whatever the query."""

    url: str
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def on(self, path: str, *replies: Reply) -> None:
        """Answer so, each in its turn; the last goes on."""
        waiting = list(replies)

        def reply(handler: "Handler") -> None:
            (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

        self.replies[path] = reply

    def paths(self) -> list[str]:
        """The paths that were asked for, with their queries."""
        return [request.path for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers by the Api's replies; 404 where there is none."""

    protocol_version = "HTTP/1.1"
    api: Api

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(parts.query, keep_blank_values=True)
        self.api.requests.append(Request(self.command, self.path, query, headers, self.rfile.read(length)))
        try:
            self.api.replies.get(parts.path, says({"message": "not found"}, 404))(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_GET  # noqa: N815  # the standard library's name

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | dict(headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def says(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """JSON."""
    return lambda handler: handler.send(status, json.dumps(document).encode(), headers)


def sends(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """These bytes."""
    return lambda handler: handler.send(status, body, headers)


@contextmanager
def serving(authority: Path | None = None) -> Iterator[Api]:
    """A server on loopback for the length of a block; with the fixture `authority`'s folder it speaks TLS."""
    handler = type("OneHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority / "keystore.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        api = Api(f"http{'s' if authority else ''}://127.0.0.1:{server.server_address[1]}")
        handler.api = api  # type: ignore[attr-defined]  # of the class made above
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(ENDS_WITHIN_SECONDS,))
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


def opened(folder: Path, api: Api, contract: str = CONTRACT, **settings: str) -> Target:
    """An adapter for the server, with a token unless the settings say otherwise."""
    said = {"url": api.url, **(settings or {"token": TOKEN})}
    return open_target(contracts_of(folder, contract), NAME, {NAME: said})


def fields_of(found: TargetRow | None) -> dict[str, Any]:
    """What the row holds that was found, if it can be compared."""
    assert found is not None
    assert found.row is not None
    assert found.row.problem is None
    assert isinstance(found.row.doc, dict)
    return found.row.doc


def row_of(target: Target, key: str = "1", tenant: str | None = None) -> Row | None:
    """The row of a key."""
    with target:
        return target.read([item(key, tenant)])[0].row
