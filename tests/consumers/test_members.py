"""Partitions shared, and logs that are not the one that was ingested before."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import TopicPartition

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil_consumers.errors import BrokersAway, IngestStopped, StoreAway, TopicsError
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.store import Connection
from counterfoil_consumers.topics import admin_client, check, create_missing, describe, differences, end_offsets
from counterfoil_schemas import topics
from tests.consumers.made import event, key_of
from tests.fix_log import Logged, Produce
from tests.waiting import wait_until

NewIngest = Callable[[], Ingest]


def owners(operator: Connection) -> int:
    row = operator.execute("SELECT count(DISTINCT owner) AS n FROM ingest_offset").fetchone()
    assert row is not None
    return int(row["n"])


def stored(operator: Connection) -> int:
    row = operator.execute("SELECT count(*) AS n FROM event").fetchone()
    assert row is not None
    return int(row["n"])


@pytest.mark.oldest_kafka_too
def test_two_members_share_the_partitions_and_one_takes_over(
    recorder: Recorder, new_ingest: NewIngest, operator: Connection, logged: Logged
) -> None:
    failures: list[BaseException] = []

    def work(stopping: threading.Event) -> None:
        try:
            new_ingest().run(stopping)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    def started() -> tuple[threading.Event, threading.Thread]:
        stopping = threading.Event()
        thread = threading.Thread(target=work, args=(stopping,))
        thread.start()
        return stopping, thread

    def record() -> None:
        for _ in range(30):
            with recorder.task("t") as task:
                task.review(by="dana")
        recorder.flush()

    members = []
    try:
        members.append(started())
        record()
        wait_until(lambda: stored(operator) > 0 or bool(failures))
        members.append(started())
        wait_until(lambda: owners(operator) == 2 or bool(failures))
        record()
        first, thread = members[0]
        first.set()
        thread.join(30)
        record()
        wait_until(lambda: owners(operator) == 1 or bool(failures))
        recorder.close()
        total = len(logged())
        wait_until(lambda: stored(operator) == total or bool(failures))
    finally:
        for stopping, thread in members:
            stopping.set()
            thread.join(30)
    assert failures == []
    assert operator.execute("SELECT FROM duplicate").rowcount == 0
    assert operator.execute("SELECT FROM dead_letter").rowcount == 0
    row = operator.execute("SELECT sum(events)::int AS n FROM task").fetchone()
    assert row == {"n": total}


def test_a_member_that_is_left_nothing_to_do_ends(
    recorder: Recorder, new_ingest: NewIngest, operator: Connection
) -> None:
    stopping = threading.Event()
    thread = threading.Thread(target=lambda: new_ingest().run(stopping))
    thread.start()
    try:
        for _ in range(20):
            with recorder.task("t") as task:
                task.review(by="dana")
        recorder.close()
        second = new_ingest()
        began = time.monotonic()
        second.run(threading.Event(), until=second.end_offsets())
        assert time.monotonic() - began < 30
        assert stored(operator) >= 60
    finally:
        stopping.set()
        thread.join(30)


def test_a_topic_made_anew_stops_ingest(
    recorder: Recorder, ingest_all: Callable[[], None], kafka: dict[str, str], topic_prefix: str, operator: Connection
) -> None:
    with recorder.task("t"):
        pass
    recorder.close()
    ingest_all()
    before = stored(operator)
    events = topics("local", topic_prefix)["events"]
    admin = admin_client(kafka)
    admin.delete_topics([events.name])[events.name].result()
    wait_until(lambda: not describe(admin, [events.name]))
    create_missing(admin, [events])
    wait_until(lambda: bool(describe(admin, [events.name])))
    with pytest.raises(IngestStopped, match="deleted and made anew"):
        ingest_all()
    assert stored(operator) == before


def test_offsets_beyond_the_end_stop_ingest(
    produce: Produce, ingest_all: Callable[[], None], database: str, operator: Connection
) -> None:
    one = event()
    partition, _ = produce(encode(one), key_of(one))
    ingest_all()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET ROLE counterfoil_ingester")
        connection.execute("UPDATE counterfoil.ingest_offset SET next_offset = 7 WHERE partition = %s", [partition])
    with pytest.raises(IngestStopped, match=f"partition {partition} .* ends at offset 1 and 7 is stored"):
        ingest_all()
    row = operator.execute("SELECT next_offset, epoch FROM ingest_offset WHERE partition = %s", [partition]).fetchone()
    assert row == {"next_offset": 7, "epoch": 1}


def test_records_removed_before_they_were_ingested_stop_ingest(
    produce: Produce, ingest_all: Callable[[], None], kafka: dict[str, str], topic_prefix: str, operator: Connection
) -> None:
    events = [event(seq=number) for number in range(5)]
    partition, _ = produce(encode(events[0]), key_of(events[0]))
    ingest_all()
    for one in events[1:]:
        produce(encode(one), key_of(one))
    place = TopicPartition(topics("local", topic_prefix)["events"].name, partition, 3)
    admin = admin_client(kafka)
    for future in admin.delete_records([place]).values():
        future.result()
    with pytest.raises(IngestStopped, match="begins at offset 3 and 1 is stored: retention removed 2 records"):
        ingest_all()
    assert stored(operator) == 1


def test_a_first_ingest_begins_where_the_log_begins(
    produce: Produce, ingest_all: Callable[[], None], kafka: dict[str, str], topic_prefix: str, operator: Connection
) -> None:
    for number in range(5):
        one = event(seq=number)
        partition, _ = produce(encode(one), key_of(one))
    place = TopicPartition(topics("local", topic_prefix)["events"].name, partition, 3)
    admin = admin_client(kafka)
    for future in admin.delete_records([place]).values():
        future.result()
    ingest_all()
    assert stored(operator) == 2


def test_a_topic_with_other_partitions_or_clock_is_refused(kafka: dict[str, str], topic_prefix: str) -> None:
    admin = admin_client(kafka)
    declared = topics("local", topic_prefix)["events"]
    assert check(admin, declared).partitions == 24
    for changes, sentence in (
        ({"partitions": 3}, "has 3 partitions and 24 are declared"),
        ({"config": {**declared.config, "message.timestamp.type": "CreateTime"}}, "message.timestamp.type=CreateTime"),
    ):
        other = f"{declared.name}.{len(changes)}.{next(iter(changes))}"
        made = type(declared)(**{**vars(declared), "name": other, **changes})
        wanted = type(declared)(**{**vars(declared), "name": other})
        assert create_missing(admin, [made]) == [other]
        with pytest.raises(TopicsError, match=sentence):
            check(admin, wanted)
        admin.delete_topics([other])[other].result()
    with pytest.raises(TopicsError, match="does not exist; run `counterfoil topics --create`"):
        check(admin, topics("local", topic_prefix + "absent.")["events"])


def test_differences_say_what_to_do(kafka: dict[str, str], topic_prefix: str) -> None:
    admin = admin_client(kafka)
    local, production = topics("local", topic_prefix), topics("production", topic_prefix)
    states = describe(admin, [topic.name for topic in local.values()])
    assert [differences(topic, states[topic.name]) for topic in local.values()] == [[], [], [], []]
    for topic in production.values():
        said = differences(topic, states[topic.name])
        assert len(said) == 2
        assert "reassign its partitions" in said[0]
        assert "min.insync.replicas=2" in said[1]


def test_a_new_client_hears_of_the_ends_at_once(kafka: dict[str, str], topic_prefix: str) -> None:
    """One in forty waited three seconds: it had asked for the leaders on a connection that it then left."""
    topic, took = topics("local", topic_prefix)["events"], []
    for _ in range(200):
        started = time.monotonic()
        assert sum(end_offsets(admin_client(kafka), topic.name, topic.partitions)) == 0
        took.append(time.monotonic() - started)
    assert max(took) < 3


def test_brokers_or_store_away_at_the_start(
    kafka: dict[str, str], topic_prefix: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil_consumers.topics._TIMEOUT_SECONDS", 1.0)
    dead = {"bootstrap.servers": "127.0.0.1:1", "socket.timeout.ms": "1000"}
    with pytest.raises((BrokersAway, TopicsError), match="Kafka does not answer"):
        Ingest(kafka=dead, dsn=database, profile="local", topic_prefix=topic_prefix).run(threading.Event())
    with pytest.raises(StoreAway, match="the store does not answer"):
        Ingest(kafka=kafka, dsn="host=127.0.0.1 port=1", profile="local", topic_prefix=topic_prefix).run(
            threading.Event()
        )
