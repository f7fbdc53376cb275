"""The drill: a store that comes back older than the log goes on; one that is newer than a restored log stops."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil.framing import SINGLE_OBJECT
from counterfoil_console.stack import LocalStack, default_directories
from counterfoil_console.stack.postgres import binaries
from counterfoil_consumers.digest import Digest, digest
from counterfoil_consumers.errors import IngestStopped
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.rebuild import Rebuild
from counterfoil_consumers.store import connect, snapshot
from counterfoil_consumers.topics import admin_client, create_missing
from counterfoil_schemas import topics
from tests.consumers.made import event, key_of

PARTITION = 3


def of(dsn: str) -> Digest:
    """The digest of a store."""
    with closing(connect(dsn, "operator", application="test")) as reader, snapshot(reader):
        return digest(reader, "counterfoil")


@pytest.fixture
def restored(admin_dsn: str) -> Iterator[Callable[[Path], str]]:
    """Restores a dump into a database of its own; returns the administrator's DSN on it."""
    name = "restored"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:

        def restore(dump: Path) -> str:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            into = make_conninfo(admin_dsn, dbname=name)
            subprocess.run([binaries() / "pg_restore", "--exit-on-error", "--dbname", into, dump], check=True)
            return into

        yield restore
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_store_older_than_the_log_ingests_on(
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    admin_dsn: str,
    new_ingest: Callable[[], Ingest],
    restored: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    def work(tasks: int) -> None:
        for number in range(tasks):
            with recorder.task("t") as task, task.effect("refund", target="pay", args={"n": number}) as one:
                one.ok()
        recorder.flush()

    def ingest(dsn: str) -> None:
        member = Ingest(kafka=kafka, dsn=dsn, profile="local", topic_prefix=topic_prefix, admit_tenants=True)
        member.run(threading.Event(), until=member.end_offsets())

    work(20)
    ingest(database)
    dump = tmp_path / "store.dump"
    source = make_conninfo(admin_dsn, dbname=psycopg.conninfo.conninfo_to_dict(database)["dbname"])
    subprocess.run([binaries() / "pg_dump", "--format=custom", "--file", dump, "--dbname", source], check=True)
    work(20)
    recorder.close()
    ingest(database)
    after = restored(dump)
    assert of(after) != of(database)
    ingest(after)
    assert of(after) == of(database)
    compared = Rebuild(
        kafka=kafka, dsn=after, topic=topics("local", topic_prefix)["events"], framing=SINGLE_OBJECT
    ).compare()
    assert compared.live == compared.rebuilt == of(database)


def test_a_store_newer_than_a_restored_log_stops(tmp_path: Path) -> None:
    """Before the log has grown past the stored offset again, and after."""
    cache = default_directories(os.environ).cache
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:
        data = Path(folder) / "data"
        stack = LocalStack(data, cache, os.environ.get("PATH"))
        try:
            with stack.running() as state:
                kafka = {"bootstrap.servers": state.bootstrap_servers}
                create_missing(admin_client(kafka), list(topics("local").values()))
                for _ in migrate(state.postgres_dsn):
                    pass
                write(kafka, 3)
                ingest_all(kafka, state.postgres_dsn)
            shutil.copytree(data / "kafka", Path(folder) / "kept")
            with stack.running() as state:
                kafka = {"bootstrap.servers": state.bootstrap_servers}
                write(kafka, 2)
                ingest_all(kafka, state.postgres_dsn)
            shutil.rmtree(data / "kafka")
            shutil.move(Path(folder) / "kept", data / "kafka")
            with stack.running() as state:
                kafka = {"bootstrap.servers": state.bootstrap_servers}
                with pytest.raises(IngestStopped, match="ends at offset 3 and 5 is stored"):
                    ingest_all(kafka, state.postgres_dsn)
                write(kafka, 4)  # it ends at 7 now, and not one of the last four was ingested
                with pytest.raises(IngestStopped, match="another record at offset 4 than the one that was ingested"):
                    ingest_all(kafka, state.postgres_dsn)
        finally:
            stack.down()


def write(kafka: dict[str, str], records: int) -> None:
    producer = Producer(kafka)
    for _ in range(records):
        one = event()
        producer.produce(topics("local")["events"].name, encode(one), key_of(one), partition=PARTITION)
    assert producer.flush(10) == 0


def ingest_all(kafka: dict[str, str], dsn: str) -> None:
    member = Ingest(kafka=kafka, dsn=dsn, profile="local", admit_tenants=True)
    member.run(threading.Event(), until=member.end_offsets())
