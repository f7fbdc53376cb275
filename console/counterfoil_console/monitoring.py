"""/metrics for Prometheus, /livez and /readyz for whoever restarts us."""

import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from counterfoil.errors import SettingsError


class Heart:
    """Beaten by a service's loop; it lives while the last beat is younger than `patience_seconds`."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._beaten = time.monotonic()
        self.ready = False

    def beat(self) -> None:
        """The loop came round."""
        self._beaten = time.monotonic()
        self.ready = True

    @property
    def alive(self) -> bool:
        """Whether the loop came round lately."""
        return time.monotonic() - self._beaten < self._patience_seconds


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # the name is the standard library's
        """Scrapes are not worth a line."""


class Monitoring:
    """An HTTP server in a thread; `port` is the one it got.

    Raises SettingsError when the port is taken.
    """

    def __init__(self, host: str, port: int, heart: Heart) -> None:
        self._metrics = make_wsgi_app()
        self._heart = heart
        try:
            self._server = make_server(host, port, self._answer, _Server, _Quiet)
        except OSError as error:
            raise SettingsError(
                f"/metrics can't listen on {host}:{port}: {error.strerror}; "
                "set COUNTERFOIL_METRICS_PORT to another port, to 0 for any free one, or mend COUNTERFOIL_METRICS_HOST"
            ) from error
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="counterfoil-monitoring", daemon=True)

    def __enter__(self) -> "Monitoring":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]  # a WSGI answer
        good = {"/livez": self._heart.alive, "/readyz": self._heart.ready and self._heart.alive}.get(path)
        status = "404 Not Found" if good is None else "200 OK" if good else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [status.encode() + b"\n"]
