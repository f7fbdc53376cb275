"""Killed at the worst moment, or asleep while another took over: nothing is lost and nothing stands twice."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil_consumers import outbox
from counterfoil_consumers.errors import BadRecord, Fenced
from counterfoil_consumers.letters import Refused
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.projection import Claim, Move, write_batch
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from tests.consumers.made import event, key_of, reader, record, source_of
from tests.fix_log import Logged, Produce, RecordsOf, StartPython

_INGEST = """
import sys, threading, uuid
from counterfoil_consumers.ingest import Ingest
bootstrap, dsn, prefix = sys.argv[1:]
# A Kafka group of its own: the coordinator would wait for the member that was killed.
kafka = {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex}
ingest = Ingest(kafka=kafka, dsn=dsn, profile="local", topic_prefix=prefix, admit_tenants=True)
ingest.run(threading.Event(), until=ingest.end_offsets())
"""
_RELAY = """
import sys
from counterfoil_consumers.outbox import relay_now
bootstrap, dsn, prefix = sys.argv[1:]
relay_now(dsn, "ingester", {"bootstrap.servers": bootstrap})
"""
_NAIVE = """
import os, signal, sys
import psycopg
from confluent_kafka import Consumer, TopicPartition
bootstrap, dsn, prefix, total, kill = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": prefix + "naive", "enable.auto.commit": False})
places = [TopicPartition(prefix + "counterfoil.events", partition) for partition in range(24)]
stored = consumer.committed(places)
consumer.assign([TopicPartition(place.topic, place.partition, max(place.offset, 0)) for place in stored])
with psycopg.connect(dsn) as connection:
    left = int(total)
    while left:
        messages = consumer.consume(500, 0.1)
        left -= len(messages)
        for message in messages:
            connection.execute("INSERT INTO naive VALUES (%s, %s)", (message.partition(), message.offset()))
        connection.commit()
        if messages and kill == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if messages:
            consumer.commit(asynchronous=False)
consumer.close()
"""


@pytest.fixture
def run_until_killed(start_python: StartPython, kafka: dict[str, str], topic_prefix: str, database: str) -> Any:
    """Runs a script with a failpoint; returns its exit code, negative for a signal."""

    def run(code: str, *more: str, failpoints: str = "") -> int:
        arguments = (kafka["bootstrap.servers"], database, topic_prefix, *more)
        process = start_python(code, *arguments, COUNTERFOIL_FAILPOINTS=failpoints)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said
        return process.returncode

    return run


def numbers(operator: Connection) -> dict[str, int]:
    row = operator.execute(
        "SELECT (SELECT count(*) FROM event) AS stored, (SELECT count(*) FROM duplicate) AS repeated, "
        "(SELECT count(*) FROM dead_letter) AS dead, (SELECT coalesce(sum(events), 0)::int FROM task) AS folded"
    ).fetchone()
    assert row is not None
    return row


def test_ingest_killed_anywhere_loses_and_repeats_nothing(
    recorder: Recorder, run_until_killed: Any, operator: Connection, logged: Logged
) -> None:
    for point in ("ingest.before_offset", "ingest.before_commit", "ingest.after_store"):
        before = numbers(operator)["stored"]
        for _ in range(5):
            with recorder.task("t") as task:
                for number in range(10):
                    task.review(by=str(number))
        recorder.flush()
        assert run_until_killed(_INGEST, failpoints=f"{point}=kill") == -signal.SIGKILL
        landed = numbers(operator)["stored"] - before
        assert (landed > 0) == (point == "ingest.after_store")
    recorder.close()
    assert run_until_killed(_INGEST) == 0
    total = len(logged())
    assert numbers(operator) == {"stored": total, "repeated": 0, "dead": 0, "folded": total}


def test_a_naive_sink_killed_between_its_commits_repeats(
    recorder: Recorder, run_until_killed: Any, database: str, logged: Logged
) -> None:
    """The control: the same crash, and a sink that commits its rows, then its offsets."""
    with recorder.task("t") as task:
        for number in range(50):
            task.review(by=str(number))
    recorder.close()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE naive (partition int, at bigint)")
        total = len(logged())
        assert run_until_killed(_NAIVE, str(total), "kill") == -signal.SIGKILL
        assert run_until_killed(_NAIVE, str(total), "go on") == 0
        rows = connection.execute("SELECT count(*), count(DISTINCT (partition, at)) FROM naive").fetchone()
    assert rows is not None
    assert rows[1] == total
    assert rows[0] > rows[1]


def test_a_relay_killed_before_its_mark_sends_again_unchanged(
    run_until_killed: Any,
    produce: Produce,
    ingest_all: Callable[[], None],
    operator: Connection,
    records_of: RecordsOf,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
) -> None:
    emitted = [event(seq=number) for number in range(5)]
    with closing(connect(database, "ingester", application="test")) as connection, connection.transaction():
        for one in emitted:
            topic = topic_prefix + "counterfoil.events"
            outbox.put(connection, [outbox.Outgoing(topic, key_of(one), encode(one), one.event_id)])
    produce(b"garbage", b"key")
    ingest_all()
    assert run_until_killed(_RELAY, failpoints="relay.before_mark=kill") == -signal.SIGKILL
    assert relay_now(database, "ingester", kafka) == 6
    assert relay_now(database, "ingester", kafka) == 0
    ingest_all()
    assert numbers(operator) == {"stored": 5, "repeated": 5, "dead": 1, "folded": 5}
    letters = records_of("dead_letters")
    assert len(letters) == 2
    assert (letters[0].key, letters[0].value, letters[0].headers) == (
        letters[1].key,
        letters[1].value,
        letters[1].headers,
    )


@pytest.fixture
def owners(database: str) -> Iterator[list[Connection]]:
    with (
        closing(connect(database, "ingester", application="one")) as one,
        closing(connect(database, "ingester", application="two")) as two,
    ):
        yield [one, two]


WHERE = {
    "cluster_id": "c",
    "topic_id": "t",
    "topic": "counterfoil.events",
    "consumer": "test",
    "partition": 0,
    "start": 0,
}


def claimed(connection: Connection, owner: str) -> Claim:
    row = fetch_one(connection, queries("ingest")["claim_offset"], {**WHERE, "owner": owner})
    return Claim(row["next_offset"], row["epoch"], row["next_offset"])


def test_who_claims_later_fences_who_claimed_before(owners: list[Connection], operator: Connection) -> None:
    one, two = owners
    source = source_of(one)
    rows = [reader(one, source).row(record(event(), 0, 0))]
    bad = [Refused(record(event(), 0, 1), BadRecord("bad"))]
    first, second = claimed(one, "one"), claimed(two, "two")
    assert (first.epoch, second.epoch) == (1, 2)
    for stale in (first, Claim(1, 2, 1), Claim(0, 3, 0)):
        with pytest.raises(Fenced, match="partition 0"):
            write_batch(one, source, rows, bad, {0: Move(stale, 2, None)})
        assert numbers(operator) == {"stored": 0, "repeated": 0, "dead": 0, "folded": 0}
        assert operator.execute("SELECT FROM outbox").rowcount == 0
    written = write_batch(two, source, rows, bad, {0: Move(second, 2, None)})
    assert (written.stored, written.repeated, len(written.set_aside)) == (1, 0, 1)
    row = operator.execute("SELECT next_offset, epoch, owner FROM ingest_offset").fetchone()
    assert row == {"next_offset": 2, "epoch": 2, "owner": "two"}
    with pytest.raises(Fenced):
        write_batch(two, source, [], [], {0: Move(second, 3, None)})


def test_a_zombie_writes_nothing_when_it_wakes(
    recorder: Recorder,
    start_python: StartPython,
    run_until_killed: Any,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    operator: Connection,
    logged: Logged,
) -> None:
    with recorder.task("t") as task:
        task.review(by="dana")
    recorder.close()
    arguments = (kafka["bootstrap.servers"], database, topic_prefix)
    zombie = start_python(_INGEST, *arguments, COUNTERFOIL_FAILPOINTS="ingest.before_commit=stop")
    assert os.WIFSTOPPED(os.waitpid(zombie.pid, os.WUNTRACED)[1])
    began = time.monotonic()
    try:
        assert run_until_killed(_INGEST) == 0
        assert time.monotonic() - began < 30
        total = len(logged())
        stored = {"stored": total, "repeated": 0, "dead": 0, "folded": total}
        assert numbers(operator) == stored
    finally:
        os.kill(zombie.pid, signal.SIGCONT)
    _, said = zombie.communicate(timeout=60)
    assert zombie.returncode == 0, said
    assert numbers(operator) == stored


def test_a_failpoint_s_mistake_is_told(start_python: StartPython) -> None:
    for wrong in ("ingest.after_store", "a=explode", "a=kill@x"):
        process = start_python("import counterfoil.failpoints", COUNTERFOIL_FAILPOINTS=wrong)
        assert "COUNTERFOIL_FAILPOINTS" in process.communicate()[1]
        assert process.returncode == 1
