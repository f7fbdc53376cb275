"""What real clients raise, against real servers: refused and never sent is `failed`, everything else `unknown`."""

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.session
import httpx
import psycopg
import pytest
import requests
from botocore.config import Config

from counterfoil.definite import is_definite


class _Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path names; `hang` never answers, `drop` closes in the middle."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        word = self.path.strip("/").split("/")[0].split("?")[0]
        if word == "hang":
            threading.Event().wait(2)
            return
        if word == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(int(word))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def with_httpx(url: str) -> None:
    httpx.post(url, json={}, timeout=0.3, trust_env=False).raise_for_status()


def with_requests(url: str) -> None:
    session = requests.Session()
    session.trust_env = False
    with session:
        session.post(url, json={}, timeout=0.3).raise_for_status()


_BOTOCORE = botocore.session.Session()  # reads its models once
_BOTOCORE.set_credentials("a", "b")


def with_botocore(url: str) -> None:
    config = Config(read_timeout=0.3, connect_timeout=0.3, retries={"max_attempts": 0})
    client = _BOTOCORE.create_client("dynamodb", region_name="us-east-1", endpoint_url=f"{url}/", config=config)
    try:
        client.put_item(TableName="orders", Item={})
    finally:
        client.close()


CLIENTS = {"httpx": with_httpx, "requests": with_requests, "botocore": with_botocore}
DEFINITE = ["400", "403", "404", "422", "429", "501"]
UNKNOWN = ["408", "409", "500", "502", "503", "504", "hang", "drop"]


def raised(act: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # each client's own
        act()
    return caught.value


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("answer", "definite"), [(one, True) for one in DEFINITE] + [(one, False) for one in UNKNOWN])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_server_answered(server: str, client: str, answer: str, definite: bool) -> None:
    error = raised(lambda: CLIENTS[client](f"{server}/{answer}"))
    assert is_definite(error) is definite, repr(error)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nobody_listens(client: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = raised(lambda: CLIENTS[client](f"http://127.0.0.1:{port}/400"))
    assert is_definite(error), repr(error)


@pytest.mark.parametrize(
    ("query", "definite"),
    [
        ("SELECT 1 / 0", True),
        ("SELECT * FROM no_such_table", True),
        ("SET statement_timeout = '50ms'; SELECT pg_sleep(2)", True),
        ("SELECT pg_terminate_backend(pg_backend_pid())", False),
    ],
)
def test_what_postgres_answered(admin_dsn: str, query: str, definite: bool) -> None:
    with psycopg.connect(admin_dsn) as connection:
        error = raised(lambda: connection.execute(query))
        assert is_definite(error) is definite, repr(error)


def test_sockets_and_strangers() -> None:
    assert is_definite(raised(lambda: socket.create_connection(("127.0.0.1", 1), 1)))
    assert is_definite(raised(lambda: socket.getaddrinfo("no.such.host.invalid", 1)))
    for error in (TimeoutError(), ConnectionResetError(), BrokenPipeError(), ValueError("x"), KeyboardInterrupt()):
        assert not is_definite(error)

    class Odd(requests.RequestException):
        @property
        def response(self) -> Any:
            raise RuntimeError

        @response.setter
        def response(self, value: Any) -> None:
            pass

    assert not is_definite(Odd())
