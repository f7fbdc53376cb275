"""Stands before the real broker and answers one request in its place, as a broker does that leads a partition no more.

Kafka's wire (protocol guide, "Produce API", versions 9 and newer): a request is its length, api key, version,
correlation id, client id, tags and body. A reply is its length, correlation id, tags and body.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

_PRODUCE, _OLDEST_READ = 0, 9
_NOT_LEADER_OR_FOLLOWER = 6


@dataclass
class RefusingBroker:
    """A proxy: it refuses the first batch that comes for a topic, and says so once the one behind it has come."""

    broker: tuple[str, int]
    topic: str
    refused: int = 0
    _held: bytes | None = None
    _listening: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def bootstrap_servers(self) -> str:
        """Where a client reaches the broker through this."""
        return "{}:{}".format(*self._listening.getsockname())

    def start(self) -> None:
        """Take connections, each in two threads, until `stop`."""
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close all connections."""
        for each in (self._listening, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self.broker)
                self._open += [client, server]
                answering = threading.Lock()
                threading.Thread(target=self._requests, args=(client, server, answering), daemon=True).start()
                threading.Thread(target=self._replies, args=(client, server, answering), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, answering: threading.Lock) -> None:
        with suppress(OSError, EOFError):
            while True:
                request = _frame(client)
                if not self._is_ours(request):
                    server.sendall(request)
                elif not self.refused:
                    self.refused, self._held = 1, request
                else:
                    if self._held is not None:
                        with answering:
                            client.sendall(_refusal(self._held, self.topic))
                        self._held = None
                    server.sendall(request)

    def _is_ours(self, request: bytes) -> bool:
        key, version = struct.unpack_from(">hh", request, 4)
        return key == _PRODUCE and version >= _OLDEST_READ and self.topic.encode() in request

    def _replies(self, client: socket.socket, server: socket.socket, answering: threading.Lock) -> None:
        host, port = b"127.0.0.1", self.broker[1]
        own = self._listening.getsockname()[1]
        with suppress(OSError, EOFError):
            while True:
                reply = _frame(server).replace(host + struct.pack(">i", port), host + struct.pack(">i", own))
                with answering:
                    client.sendall(reply)


def _frame(source: socket.socket) -> bytes:
    head = _exactly(source, 4)
    return head + _exactly(source, struct.unpack(">i", head)[0])


def _exactly(source: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        part = source.recv(size - len(read))
        if not part:
            raise EOFError
        read += part
    return read


def _refusal(request: bytes, topic: str) -> bytes:
    name = bytes([len(topic) + 1]) + topic.encode()  # a compact string: its length and one, as a varint below 128
    at = request.index(name) + len(name) + 1  # behind the number of its partitions
    partition = request[at : at + 4]
    body = b"\x02" + name  # one topic
    body += b"\x02" + partition + struct.pack(">hqqq", _NOT_LEADER_OR_FOLLOWER, -1, -1, -1) + b"\x01\x00\x00"
    body += b"\x00" + struct.pack(">i", 0) + b"\x00"  # no tags, not throttled
    reply = request[8:12] + b"\x00" + body
    return struct.pack(">i", len(reply)) + reply


@pytest.fixture
def refusing_broker(kafka: dict[str, str]) -> Iterator[Callable[[str], RefusingBroker]]:
    """Starts one for a topic."""
    host, _, port = kafka["bootstrap.servers"].rpartition(":")
    started: list[RefusingBroker] = []

    def start(topic: str) -> RefusingBroker:
        proxy = RefusingBroker((host, int(port)), topic)
        started.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in started:
        proxy.stop()
