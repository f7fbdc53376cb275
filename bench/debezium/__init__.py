"""Debezium's JDBC sink on Kafka Connect, beside the others.

Its jars come through Maven, and a converter of ours is compiled: Kafka Connect knows no Avro without a registry. One
worker serves all rounds; it has written 100,000 events before the first is measured, for its JVM to be warm.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from psycopg.conninfo import conninfo_to_dict

from bench.servers import Servers
from counterfoil_console.stack import default_directories

_HERE = Path(__file__).parent
_SCHEMAS = _HERE.parents[1] / "schemas" / "counterfoil_schemas" / "avro"
_START_SECONDS = 120
_BATCH = "10000"


class Worker:
    """A standalone worker of Kafka Connect, started when it is first asked for."""

    def __init__(self, given: Servers) -> None:
        self._given = given
        self._folder = given.folder / "connect"
        self._process: psutil.Popen | None = None
        self._address = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except psutil.TimeoutExpired:
                self._process.kill()

    def process(self, warm_up: Callable[[Self], None]) -> psutil.Popen:
        """The worker, warm.

        Raises RuntimeError where it can't run, and what `warm_up` raises.
        """
        if self._process is None:
            self._start()
            warm_up(self)
        return self.running

    @property
    def running(self) -> psutil.Popen:
        """The worker that was started."""
        assert self._process is not None, "it was started"
        return self._process

    def sink(self, topic: str, dsn: str, tasks: int) -> str:
        """Begin to write a topic into the table `audit` of a database; returns the connector's name."""
        name, where = uuid.uuid4().hex, conninfo_to_dict(dsn)
        url = f"jdbc:postgresql://{where['host']}:{where['port']}/{where['dbname']}"
        config = {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": str(tasks),
            "topics": topic,
            "connection.url": f"{url}?reWriteBatchedInserts=true&stringtype=unspecified&sslmode=disable",
            "connection.username": str(where["user"]),
            "connection.password": str(where.get("password", "")),
            "collection.name.format": "audit",
            "insert.mode": "upsert",
            "delete.enabled": "false",
            "primary.key.mode": "record_value",
            "primary.key.fields": "event_id",
            "schema.evolution": "none",
            "use.time.zone": "UTC",
            "batch.size": _BATCH,
            "consumer.override.max.poll.records": _BATCH,
            "consumer.override.auto.offset.reset": "earliest",
            "consumer.override.fetch.max.wait.ms": "50",
            "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "value.converter": "EventConverter",
            "value.converter.schemas": str(_SCHEMAS),
        }
        self._ask("PUT", f"/connectors/{name}/config", config)
        return name

    def end(self, name: str) -> None:
        """End a connector."""
        self._ask("DELETE", f"/connectors/{name}")

    def why(self, name: str) -> str | None:
        """Why a task of it has failed, None while none has."""
        status = self._ask("GET", f"/connectors/{name}/status")
        traces = [task["trace"] for task in status["tasks"] if task["state"] == "FAILED"]
        return str(traces[0]).splitlines()[0] if traces else None

    def _start(self) -> None:
        jars = _installed()
        self._folder.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        settings = {
            "bootstrap.servers": self._given.kafka["bootstrap.servers"],
            "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "offset.storage.file.filename": str(self._folder / "offsets"),
            "connector.client.config.override.policy": "All",
            "plugin.discovery": "only_scan",
            "listeners": self._address,
        }
        file = self._folder / "worker.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        command = ["java", "-Xms512m", "-Xmx2g", "-cp", f"{jars}/classes:{jars}/jars/*", main, str(file)]
        with (self._folder / "log").open("wb") as log:
            self._process = psutil.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
                raise RuntimeError(f"Kafka Connect does not start: {lines[-1][:300] if lines else 'it said nothing'}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/connectors")
        except (OSError, RuntimeError):  # it listens before it knows its own paths
            return False
        return True

    def _ask(self, method: str, path: str, content: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(  # our own worker, on loopback
            self._address + path,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # as above
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"Kafka Connect refuses {path}: {error.read()[:300]!r}") from error


def _installed() -> Path:
    """The folder of the jars and of our converter's class."""
    for tool in ("mvn", "javac", "java"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} is not installed: Debezium's sink needs a JDK and Maven")
    folder = default_directories(os.environ).cache / "bench-debezium"
    done = folder / ".installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        copy = ["mvn", "-q", "-B", "-f", str(_HERE / "pom.xml"), "dependency:copy-dependencies"]
        _run([*copy, f"-DoutputDirectory={folder / 'jars'}", "-DincludeScope=runtime"])
    sources = [str(path) for path in _HERE.glob("*.java")]
    _run(["javac", "-nowarn", "-cp", f"{folder / 'jars'}/*", "-d", str(folder / "classes"), *sources])
    done.touch()
    return folder


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if ended.returncode != 0:
        said = (ended.stdout + ended.stderr).strip().splitlines()
        raise RuntimeError(f"{command[0]} failed: {said[-1][:300] if said else 'it said nothing'}")
