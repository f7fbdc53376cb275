"""Who stores the topic's events, and how fast."""

import datetime as dt
import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
import venv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import Consumer, TopicPartition
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench import debezium as debezium_connect
from bench.servers import Servers
from counterfoil import Recorder, RecorderSettings
from counterfoil.codec import decode
from counterfoil.redaction_policy import RedactionPolicy
from counterfoil_console.stack import default_directories
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.topics import admin_client, create_missing, end_offsets
from counterfoil_schemas import topics

_TEXT = "The customer asks for a refund of the second box, which came broken. " * 10
_A_TASK = 20  # events
_LOOK_SECONDS = 0.1
_LOOK_AT_ROWS_SECONDS = 0.004  # it takes part of the processors, so no oftener
_PATIENCE_SECONDS = 300
_WARM_UP_EVENTS = 100_000
_QUIX = ("quixstreams[postgresql]==3.28.1",)
_STORED = ("event", "task", "producer", "effect")  # what a batch writes
_COLUMNS = """
    tenant text NOT NULL, event_id text NOT NULL, kind text NOT NULL, workflow text, environment text, mode text,
    task_id text NOT NULL, agent text, effect_id text, producer_id text, seq bigint, occurred_at timestamptz,
    body text, value bytea, PRIMARY KEY (event_id)
"""


def settings_of(given: Servers, prefix: str) -> RecorderSettings:
    """A recorder's, redaction off."""
    return RecorderSettings(
        kafka=given.kafka, profile="local", topic_prefix=prefix, tenant="acme", identity_key="a key for the bench",
        spool_directory=given.folder / "spool", blob_directory=given.folder / "blobs",
        redaction=RedactionPolicy(enabled=False),
    )  # fmt: skip


def fill(given: Servers, events: int, prefix: str | None = None) -> int:
    """Record tasks of twenty events, a write among them; returns how many records are in the topic."""
    prefix = given.prefix if prefix is None else prefix
    with Recorder(settings_of(given, prefix)) as recorder:
        for number in range(events // _A_TASK):
            with recorder.task("a refund", task_ref=f"T-{number}", workflow="support", agent="a-1") as task:
                for place in range(_A_TASK - 4):
                    task.completion(f"{place} {_TEXT}", model="m", usage={"input_tokens": place, "output_tokens": 7})
                with task.effect("refund", target="payments", args={"order": number, "note": _TEXT}) as effect:
                    effect.ok({"id": number})
    return sum(_ends(given, prefix))


def _ends(given: Servers, prefix: str) -> list[int]:
    topic = topics("local", prefix)["events"]
    return end_offsets(admin_client(given.kafka), topic.name, topic.partitions)


def counterfoil(given: Servers, count: int, *, processes: int) -> dict[str, float]:
    """`counterfoil ingest`, as many times as said, into a new store."""
    with new_store(given) as dsn, psycopg.connect(dsn, autocommit=True) as connection:

        def stored() -> int:
            return _number(connection, "SELECT coalesce(sum(next_offset), -1) FROM counterfoil.ingest_offset")

        with _ingesting(given, dsn, given.prefix, processes) as workers:
            measured = _measured(given, workers, stored, count)
        rows = _number(
            connection,
            "SELECT (SELECT count(*) FROM counterfoil.event) + (SELECT count(*) FROM counterfoil.event_astray)",
        )
        if processes == 1:
            _keep_rows(given, connection)
    return measured | {"kept_share": rows / count}


@contextmanager
def _ingesting(given: Servers, dsn: str, prefix: str, processes: int) -> Iterator[list[psutil.Popen]]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERFOIL_")}
    ours = {
        "COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS": given.kafka["bootstrap.servers"],
        "COUNTERFOIL_STORE__DSN": dsn,
        "COUNTERFOIL_PROFILE": "local",
        "COUNTERFOIL_TOPIC_PREFIX": prefix,
        "COUNTERFOIL_ADMIT_TENANTS": "true",
        "COUNTERFOIL_METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "counterfoil_console", "ingest"]
    with _running([command] * processes, plain | ours, given.folder) as workers:
        yield workers


@contextmanager
def _running(
    commands: Sequence[Sequence[str]], environment: dict[str, str], folder: Path
) -> Iterator[list[psutil.Popen]]:
    log = folder / f"{uuid.uuid4().hex}.log"
    with log.open("wb") as said:
        workers = [psutil.Popen(command, env=environment, stdout=said, stderr=said) for command in commands]
    try:
        yield workers
    except _Ended as error:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"{error}: {lines[-1][:300] if lines else 'it said nothing'}") from None
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(30)
            except psutil.TimeoutExpired:
                worker.kill()


class _Ended(Exception):
    """A contender did not come to the end."""


def _measured(
    given: Servers, workers: Sequence[psutil.Popen], stored: Callable[[], int], count: int
) -> dict[str, float]:
    """Events a second, and processor time an event, from the first look at which `stored` is not negative."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    first = last = -1
    meter = None
    while meter is None or last < count:
        if any(worker.poll() is not None for worker in workers):
            raise _Ended(f"ended after {last} of {count} events")
        if time.monotonic() > deadline:
            raise _Ended(f"{last} of {count} events in {_PATIENCE_SECONDS} s")
        time.sleep(_LOOK_SECONDS)
        last = stored()
        if last >= 0 and meter is None:
            first, meter = last, _Meter(given, workers)
    return {**meter.of(max(1, last - first)), "kept_share": last / count}


class _Meter:
    """The clock, and the processor's time of a client, by default this process, and of Postgres; from now on."""

    def __init__(self, given: Servers, client: Sequence[psutil.Process] | None = None) -> None:
        self._given = given
        self._client = [psutil.Process()] if client is None else client
        self._begun = self._read()

    def of(self, events: int) -> dict[str, float]:
        """Until now, for so many events."""
        seconds, client, postgres = (now - then for now, then in zip(self._read(), self._begun, strict=True))
        return {
            "events_per_second": events / seconds,
            "client_cpu_microseconds": client * 1e6 / events,
            "postgres_cpu_microseconds": postgres * 1e6 / events,
        }

    def _read(self) -> tuple[float, float, float]:
        return time.perf_counter(), _cpu_seconds(self._client), _postgres_cpu_seconds(self._given)


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _postgres_cpu_seconds(given: Servers) -> float:
    """Of all its processes, ended ones too."""
    server = psutil.Process(given.postgres_pid)
    return float(sum(server.cpu_times()[:4])) + _cpu_seconds(server.children())


# -- the limit


def _rows_file(given: Servers, table: str) -> Path:
    return given.folder / f"{table}.copy"


def _keep_rows(given: Servers, connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for table in _STORED:
        if _rows_file(given, table).exists():
            continue
        query = sql.SQL("COPY (SELECT * FROM counterfoil.{}) TO STDOUT (FORMAT binary)").format(sql.Identifier(table))
        with connection.cursor() as cursor, cursor.copy(query) as rows, _rows_file(given, table).open("wb") as file:
            for part in rows:
                file.write(part)


def copy_from_file(given: Servers, count: int) -> dict[str, float]:
    """Binary COPY of the rows that `counterfoil ingest` made, into the same tables, in one transaction."""
    with new_store(given) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT counterfoil.open_partitions('standard', 13, 2)")
        meter = _Meter(given)
        with connection.transaction():
            for table in _STORED:
                query = sql.SQL("COPY counterfoil.{} FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
                with (
                    connection.cursor() as cursor,
                    cursor.copy(query) as rows,
                    _rows_file(given, table).open("rb") as file,
                ):
                    while part := file.read(io.DEFAULT_BUFFER_SIZE * 8):
                        rows.write(part)
        measured = meter.of(count)
        return {**measured, "kept_share": _number(connection, "SELECT count(*) FROM counterfoil.event") / count}


# -- the peers


def quixstreams(given: Servers, count: int) -> dict[str, float]:
    """quixstreams' PostgreSQLSink in an environment of its own, set as bench/quix_sink.py says."""
    python = _quix_python()
    with _audit(given) as (dsn, connection):
        topic = topics("local", given.prefix)["events"].name
        script = Path(__file__).with_name("quix_sink.py")
        arguments = [given.kafka["bootstrap.servers"], topic, dsn, str(given.folder / uuid.uuid4().hex)]
        with _running([[str(python), str(script), *arguments]], dict(os.environ), given.folder) as workers:
            return _measured(
                given,
                workers,
                lambda: _rows_of_audit(connection),
                count,
            )


def debezium(given: Servers, worker: debezium_connect.Worker, count: int, *, tasks: int) -> dict[str, float]:
    """Debezium's JDBC sink by upsert, in batches of 10,000, its JVM warm."""
    process = worker.process(lambda cold: _warm_up(given, cold))
    return _by_debezium(given, worker, process, topics("local", given.prefix)["events"].name, count, tasks)


def _warm_up(given: Servers, worker: debezium_connect.Worker) -> None:
    prefix = f"{given.prefix}warm."
    declared = topics("local", prefix)
    create_missing(admin_client(given.kafka), list(declared.values()))
    count = fill(given, _WARM_UP_EVENTS, prefix)
    _by_debezium(given, worker, worker.running, declared["events"].name, count, 1)


def _by_debezium(
    given: Servers, worker: debezium_connect.Worker, process: psutil.Popen, topic: str, count: int, tasks: int
) -> dict[str, float]:
    with _audit(given) as (dsn, connection):
        name = worker.sink(topic, dsn, tasks)

        def stored() -> int:
            problem = worker.why(name)
            if problem is not None:
                raise RuntimeError(problem)
            return _rows_of_audit(connection)

        try:
            return _measured(given, [process], stored, count)
        finally:
            worker.end(name)


@contextmanager
def _audit(given: Servers) -> Iterator[tuple[str, psycopg.Connection[tuple[object, ...]]]]:
    """A database with the peers' table."""
    with _database(given) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE audit ({_COLUMNS})")
        connection.execute("CREATE INDEX audit_task ON audit (tenant, task_id)")
        connection.execute("CREATE INDEX audit_effect ON audit (tenant, effect_id) WHERE effect_id IS NOT NULL")
        yield dsn, connection


def _rows_of_audit(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """How many there are, -1 before the first."""
    return _number(connection, "SELECT coalesce(nullif(count(*), 0), -1) FROM audit")


def _quix_python() -> Path:
    folder = default_directories(os.environ).cache / "bench-quixstreams"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_QUIX]
        subprocess.run(command, check=True, timeout=600)
        (folder / ".installed").touch()
    return python


def naive(given: Servers, count: int) -> dict[str, float]:
    """One INSERT and one commit a message, then Kafka's commit: what a first version does."""
    topic = topics("local", given.prefix)["events"]
    with _audit(given) as (_, connection):
        insert = sql.SQL("INSERT INTO audit VALUES ({}) ON CONFLICT DO NOTHING").format(
            sql.SQL(", ").join([sql.Placeholder()] * 14)
        )
        consumer = _from_the_start(given, topic.name, range(topic.partitions))
        done, meter = 0, None
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        while meter is None or done < count:
            message = consumer.poll(1)
            if message is None:
                continue
            meter = meter or _Meter(given)
            event = decode(message.value() or b"")
            ids = [event.event_id, event.task_id, event.effect_id, event.producer_id]
            event_id, task_id, effect_id, producer_id = (None if one is None else one.hex() for one in ids)
            connection.execute(
                insert,
                (event.tenant, event_id, event.kind, event.workflow, event.environment, event.mode, task_id,
                 event.agent, effect_id, producer_id, event.seq, epoch + dt.timedelta(microseconds=event.occurred_at),
                 json.dumps(event.body, default=bytes.hex), message.value()),
            )  # fmt: skip
            consumer.commit(message=message, asynchronous=False)
            done += 1
        measured = meter.of(done)
        consumer.close()
        return {**measured, "kept_share": _number(connection, "SELECT count(*) FROM audit") / done}


def _from_the_start(given: Servers, topic: str, partitions: Iterable[int]) -> Consumer:
    consumer = Consumer({**given.kafka, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    return consumer


# -- from emit to row


def emit_to_row(given: Servers, seconds: int) -> dict[str, float]:
    """From the moment of an event to the first look that finds its row committed, at 1,000 events a second."""
    prefix = f"{given.prefix}{uuid.uuid4().hex[:6]}."
    topic = topics("local", prefix)["events"]
    create_missing(admin_client(given.kafka), list(topics("local", prefix).values()))
    looks: list[tuple[float, dict[int, int]]] = []
    ended = threading.Event()
    with (
        new_store(given) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
        _ingesting(given, dsn, prefix, 1) as workers,
        ExitStack() as threads,
    ):

        def look() -> None:
            while not ended.wait(_LOOK_AT_ROWS_SECONDS):
                rows = connection.execute("SELECT partition, next_offset FROM counterfoil.ingest_offset").fetchall()
                looks.append((time.time(), {int(str(row[0])): int(str(row[1])) for row in rows}))

        with Recorder(settings_of(given, prefix)) as recorder, recorder.task("even") as task:
            recorder.flush(30)
            _wait_until(lambda: bool(_number(connection, "SELECT count(*) FROM counterfoil.ingest_offset")), workers)
            looking = threading.Thread(target=look)
            looking.start()
            threads.callback(looking.join)
            threads.callback(ended.set)
            meter, due = _Meter(given, workers), time.perf_counter()
            for number in range(1_000 * seconds):
                due += 0.001
                time.sleep(max(0.0, due - time.perf_counter()))
                task.completion(_TEXT, model="m", usage={"output_tokens": number})
            recorder.flush(30)
            measured = meter.of(1_000 * seconds)
        count = sum(_ends(given, prefix))
        _wait_until(lambda: bool(looks) and sum(looks[-1][1].values()) >= count, workers)
    waits = sorted(_waits(given, topic.name, topic.partitions, looks))
    return {
        "emit_to_row_p50_milliseconds": statistics.median(waits),
        "emit_to_row_milliseconds": waits[len(waits) * 99 // 100],
        **{name: measured[name] for name in ("client_cpu_microseconds", "postgres_cpu_microseconds")},
    }


def _waits(
    given: Servers, topic: str, partitions: int, looks: Sequence[tuple[float, dict[int, int]]]
) -> Iterator[float]:
    """Milliseconds, of every completion."""
    seen: dict[int, Iterator[tuple[float, int]]] = {
        partition: iter([(at, ends.get(partition, 0)) for at, ends in looks]) for partition in range(partitions)
    }
    now = {partition: next(seen[partition]) for partition in seen}
    left = sum(ends := end_offsets(admin_client(given.kafka), topic, partitions))
    consumer = _from_the_start(given, topic, (partition for partition, end in enumerate(ends) if end))
    while left:
        for message in consumer.consume(1000, 1):
            left -= 1
            partition, event = message.partition() or 0, decode(message.value() or b"")
            while now[partition][1] <= (message.offset() or 0) and (after := next(seen[partition], None)) is not None:
                now[partition] = after
            if event.kind == "completion":
                yield (now[partition][0] - event.occurred_at / 1e6) * 1e3
    consumer.close()


def _wait_until(is_so: Callable[[], bool], workers: Sequence[psutil.Popen]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline or any(worker.poll() is not None for worker in workers):
            raise _Ended("it did not get as far as this")
        time.sleep(0.05)


# -- databases


@contextmanager
def _database(given: Servers) -> Iterator[str]:
    name = f"b_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(given.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(given.dsn, dbname=name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def new_store(given: Servers) -> Iterator[str]:
    """A migrated store of its own; its DSN is that of the superuser."""
    with _database(given) as dsn:
        for _ in migrate(dsn):
            pass
        yield dsn


def _number(connection: psycopg.Connection[tuple[object, ...]], query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(str(row[0])) if row else 0
