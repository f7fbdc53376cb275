"""The HTTP server: uvicorn, with what the routes need, opened before the first request and let go after the last."""

import socket
import threading
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn
from confluent_kafka.admin import AdminClient

from counterfoil.errors import SettingsError
from counterfoil_console.http.answers import Answers
from counterfoil_console.http.app import Api
from counterfoil_console.http.lending import Lender
from counterfoil_console.http.limits import Buckets
from counterfoil_console.settings import Settings
from counterfoil_consumers.store import Connection
from counterfoil_consumers.topics import admin_client, check, end_offsets
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.reconciler import Reconciler
from counterfoil_schemas import topics

_BACKLOG = 128
_GRACE_SECONDS = 5


class EventsLog:
    """The events topic, and as whom it is ingested.

    Raises BrokersAway, and TopicsError where the topic is not as declared.
    """

    def __init__(self, settings: Settings) -> None:
        self._admin: AdminClient = admin_client(settings.kafka)
        self._topic = topics(settings.profile, settings.topic_prefix)["events"]
        self.progress_key: Mapping[str, str] = {
            "consumer": settings.topic_prefix + settings.consumer,
            "topic_id": check(self._admin, self._topic).topic_id,
        }

    def ends(self) -> list[int]:
        """The end offsets by partition, now.

        Raises BrokersAway.
        """
        return end_offsets(self._admin, self._topic.name, self._topic.partitions)


class Serving:
    """Listens once made; `run` answers until `stop`, or SIGTERM or Ctrl-C where it runs in the main thread.

    Raises SettingsError when the port is taken, and what a first reconciler and a first connection raise.
    """

    def __init__(
        self,
        settings: Settings,
        contracts: Contracts,
        open_store: Callable[[], Connection],
        new_reconciler: Callable[[], Reconciler],
    ) -> None:
        self._stopping = threading.Event()
        self._stores = Lender(open_store, lambda store: not store.closed, lambda store: store.close())
        self._reconcilers = Lender(new_reconciler, lambda _: True, lambda reconciler: reconciler.close())
        answers = Answers(contracts, self._stores, self._reconcilers, EventsLog(settings), self._stopping)
        requests = Buckets(settings.http_requests_per_second)
        self._api = Api(answers, self._stores, requests, settings.http_confirms)
        for lender in (self._stores, self._reconcilers):
            with lender.lent():  # what can't be made is said now, and the first who asks need not wait for it
                pass
        self._socket = _listen(settings.http_host, settings.http_port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._api.app(),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = _Server(config, self._stopping)

    def run(self) -> None:
        """Answer until told to stop."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self._stores.close()
            self._reconcilers.close()

    def stop(self) -> None:
        """Have `run` end soon; confirmations that wait answer what they know."""
        self._stopping.set()
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """So that nobody waits for a confirmation that would go on for half a minute."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"the HTTP API can't listen on {host}:{port}: {error.strerror}; set COUNTERFOIL_HTTP_PORT to another port, "
            "to 0 for any free one, or mend COUNTERFOIL_HTTP_HOST"
        ) from error
