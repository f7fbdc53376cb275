"""The commands that run all the time, each a process of its own, and a server that only says that it is busy."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path

from counterfoil_console.stack.ports import HOST

_END_SECONDS = 60.0


class Services:
    """Starts `counterfoil` with variables of its own; what is left at the end is ended."""

    def __init__(self, variables: Mapping[str, str], folder: Path) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERFOIL_")}
        self._environment = plain | {f"COUNTERFOIL_{name}": value for name, value in variables.items()}
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: str, **more: str) -> int:
        """One more process; returns its id."""
        log = self._folder / f"{command}-{len(self._running)}.log"
        environment = self._environment | {f"COUNTERFOIL_{name}": value for name, value in more.items()}
        with log.open("wb") as said:
            command_line = ["setpriv", "--pdeathsig", "KILL", *self._line(command)]
            process = subprocess.Popen(command_line, env=environment, stdout=said, stderr=said)
        self._running.append(process)
        return process.pid

    def run(self, *arguments: str) -> str:
        """A command to its good end; returns what it printed."""
        done = subprocess.run(
            self._line(*arguments), env=self._environment, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end(self) -> None:
        """SIGTERM, and each must end well."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
        codes = [process.wait(_END_SECONDS) for process in self._running]
        assert codes == [0] * len(codes), self.logs()

    def kill(self) -> None:
        """End what is left."""
        for process in self._running:
            process.kill()
            process.wait()

    def logs(self) -> str:
        """The last of what each said."""
        texts = [f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(self._folder.glob("*.log"))]
        return "\n".join(texts)

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "counterfoil_console", *arguments]


@contextmanager
def busy_server() -> Iterator[int]:
    """Says 429 with `Retry-After` and 503 in turn, whatever it is asked; gives its port."""
    statuses = cycle((429, 503))

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(next(statuses))
            self.send_header("Retry-After", "2")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer((HOST, 0), Busy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
