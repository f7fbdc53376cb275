"""The HTTP API on a free port of loopback, answering for the shop, and an ingest that runs beside it."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from counterfoil import RecorderSettings
from counterfoil.settings import ConsoleSettings, load_settings
from counterfoil_console import tokens
from counterfoil_console.cli.services import new_reconciler
from counterfoil_console.http.serving import Serving
from counterfoil_console.settings import Settings
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.store import Connection, connect
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.worklist import Selection
from tests.fix_recorder import IDENTITY_KEY

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """What the API answered."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Api:
    """A running API."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, token: str | None, body: bytes | None = None) -> Reply:
        """One request on a connection of its own."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        is_json = found.get("content-type", "").startswith("application/")
        return Reply(response.status, found, json.loads(text) if is_json else text.decode())

    def may_retry(self, effect: str, token: str) -> Reply:
        return self.ask("GET", f"/v1/effects/{effect}/may-retry", token)

    def confirm(self, effect: str, token: str, **asked: Any) -> Reply:
        return self.ask("POST", f"/v1/effects/{effect}/confirm", token, json.dumps(asked).encode())


@pytest.fixture
def serve_api(
    recorder_settings: RecorderSettings, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Api]]:
    """Starts APIs that answer under given contracts; each ends with the test."""
    running: list[tuple[Serving, threading.Thread]] = []
    monkeypatch.chdir(tmp_path)  # where no settings are

    def start(contracts: Contracts, **changed: Any) -> Api:
        given: dict[str, Any] = {
            "kafka": recorder_settings.kafka,
            "profile": "local",
            "topic_prefix": recorder_settings.topic_prefix,
            "store": {"dsn": database},
            "identity_key": IDENTITY_KEY,
            "targets": {"shop": {"dsn": database}},
            "http_port": 0,
            "http_requests_per_second": 1000,
        }
        settings = load_settings(Settings, **given | changed)
        serving = Serving(
            settings,
            contracts,
            lambda: connect(settings.dsn, "operator", application="http"),
            lambda: new_reconciler(settings, contracts, Selection()),
        )
        thread = threading.Thread(target=serving.run, name="test-http")
        thread.start()
        running.append((serving, thread))
        return Api(serving.port)

    yield start
    for serving, thread in running:
        serving.stop()
        thread.join(_PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def new_token(operator: Connection) -> Callable[..., str]:
    """Makes tokens of tenants that are registered."""

    def make(tenant: str = "acme", lasts: timedelta = timedelta(hours=1)) -> str:
        made = tokens.create(operator, tenant, lasts, "the test")
        assert made is not None
        return made[0]

    return make


@contextmanager
def ingesting(new_ingest: Callable[[], Ingest]) -> Iterator[None]:
    """Ingest runs for the length of a block, as its service does."""
    stopping, ingest = threading.Event(), new_ingest()
    thread = threading.Thread(target=ingest.run, args=[stopping], name="test-ingest")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_PATIENCE_SECONDS)
        assert not thread.is_alive()


def asking(settings: RecorderSettings, url: str, token: str) -> RecorderSettings:
    """Settings of a recorder that asks at a URL."""
    console = ConsoleSettings.model_validate({"url": url, "token": token, "timeout_seconds": 30.0})
    return settings.model_copy(update={"console": console})
