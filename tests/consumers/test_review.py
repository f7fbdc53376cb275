"""What an ingest does at its edges: rebalances without claims, names that are no text, ids in two tables."""

import ctypes
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import confluent_kafka
import pytest

from counterfoil import Event, Recorder
from counterfoil.codec import encode
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.projection import Written, write_batch
from counterfoil_consumers.records import Window
from counterfoil_consumers.store import Connection, connect, fetch_one
from counterfoil_schemas import topics
from tests.consumers.made import event, intent, key_of, reader, record, source_of
from tests.fix_log import Produce
from tests.waiting import wait_until

NEVER = Window({})  # so every id is astray
NOW = None


def count(operator: Connection, table: str) -> int:
    return int(fetch_one(operator, f"SELECT count(*) AS n FROM {table}")["n"])  # type: ignore[arg-type]  # a table's name


@pytest.fixture
def store(database: str) -> Iterator[Connection]:
    """An ingester's connection, ready for `write_batch`."""
    with closing(connect(database, "ingester", application="test")) as connection:
        yield connection


def write(store: Connection, *batch: tuple[Event, Window | None], start: int = 0) -> Written:
    """One batch of partition 0."""
    source = source_of(store)
    rows = [
        reader(store, source, window).row(record(one, 0, start + place)) for place, (one, window) in enumerate(batch)
    ]
    return write_batch(store, source, rows, [], {})


def test_partitions_taken_while_no_claim_is_held(
    recorder: Recorder, new_ingest: Callable[[], Ingest], operator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was away, claims are given up; before they are made again, a second member joins."""
    first, second = new_ingest(), new_ingest()
    may_claim, stopping = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def work(ingest: Ingest) -> None:
        try:
            ingest.run(stopping)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    def owners() -> int:
        return int(fetch_one(operator, "SELECT count(DISTINCT owner) AS n FROM ingest_offset")["n"])  # type: ignore[arg-type]

    with recorder.task("t"):
        pass
    recorder.flush()
    threads = [threading.Thread(target=work, args=(ingest,)) for ingest in (first, second)]
    try:
        threads[0].start()
        wait_until(lambda: count(operator, "event") > 0 or bool(failures))
        own, claim = first._assignment, first._assignment.claim_given

        def held_back(consumer: confluent_kafka.Consumer, connection: Connection) -> None:
            if may_claim.is_set():
                claim(consumer, connection)
            elif own.claims:
                own.give_up_claims(consumer)

        monkeypatch.setattr(own, "claim_given", held_back)
        wait_until(lambda: not own.claims or bool(failures))
        threads[1].start()
        wait_until(lambda: len(own._given) == 12 or bool(failures))
        may_claim.set()
        wait_until(lambda: owners() == 2 or bool(failures))
        wait_until(lambda: len(own.claims) == 12 or bool(failures))
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
    assert failures == []


def produce_with_header(bootstrap: str, topic: str, key: bytes, value: bytes, name: bytes) -> None:
    """As a client in C would: header names are any bytes there."""
    package = Path(confluent_kafka.__file__).parent
    [path] = (package.parent / "confluent_kafka.libs").glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, size, problem = ctypes.c_void_p, ctypes.c_size_t, ctypes.create_string_buffer(500)
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, function).restype = pointer
    config = pointer(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(config, b"bootstrap.servers", bootstrap.encode(), problem, size(500))
    producer = pointer(library.rd_kafka_new(0, config, problem, size(500)))
    headers = pointer(library.rd_kafka_headers_new(size(1)))
    library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"x", ctypes.c_ssize_t(1))
    # The tags of rd_kafka_producev: topic, partition, value, key, flags (copy), headers, end.
    place = (1, ctypes.c_char_p(topic.encode()), 3, ctypes.c_int(0))
    content = (4, ctypes.c_char_p(value), size(len(value)), 5, ctypes.c_char_p(key), size(len(key)))
    assert library.rd_kafka_producev(producer, *place, *content, 7, ctypes.c_int(2), 10, headers, 0) == 0
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


@pytest.mark.skipif(
    not (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").exists(), reason="no bundled librdkafka"
)
def test_a_header_whose_name_is_no_text_stops_nothing(
    produce: Produce,
    ingest_all: Callable[[], None],
    operator: Connection,
    kafka: dict[str, str],
    database: str,
    topic_prefix: str,
) -> None:
    topic = topics("local", topic_prefix)["events"].name
    # The interpreter specialises a call that it has made often; that must not matter.
    good = [event(seq=number) for number in range(50)]
    for one in good[:-1]:
        produce(encode(one), key_of(one), partition=0)
    for value in (encode(good[-1]), b"garbage"):
        produce_with_header(kafka["bootstrap.servers"], topic, key_of(good[-1]), value, b"\xff\xfe")
    ingest_all()
    assert count(operator, "event") == len(good)
    [letter] = operator.execute("SELECT value, headers FROM dead_letter").fetchall()
    assert letter["value"] == b"garbage"
    assert [name for name, _ in letter["headers"]] == ["counterfoil-headers-unreadable"]
    assert relay_now(database, "ingester", kafka) == 1


def test_a_second_consumer_of_the_log_writes_nothing_twice(
    produce: Produce, kafka: dict[str, str], topic_prefix: str, database: str, operator: Connection
) -> None:
    one = event()
    produce(encode(one), key_of(one))
    produce(b"garbage", b"any key")
    for consumer in ("one", "another", "a third"):
        ingest = Ingest(
            kafka=kafka, dsn=database, profile="local", topic_prefix=topic_prefix, consumer=consumer, admit_tenants=True
        )
        ingest.run(threading.Event(), until=ingest.end_offsets())
    tables = ("event", "duplicate", "dead_letter", "outbox")
    assert [count(operator, table) for table in tables] == [1, 0, 1, 1]


@pytest.mark.parametrize("windows", [(NEVER, NOW), (NOW, NEVER)])
@pytest.mark.parametrize("together", [True, False])
def test_an_id_stands_once_wherever_the_window_is(
    store: Connection, operator: Connection, windows: tuple[Window | None, Window | None], together: bool
) -> None:
    """Stored astray and repeated once the window has come to it, or the other way round."""
    one = event()
    if together:
        written = [write(store, (one, windows[0]), (one, windows[1]))]
    else:
        written = [write(store, (one, window), start=place) for place, window in enumerate(windows)]
    assert [sum(w.stored for w in written), sum(w.repeated for w in written)] == [1, 1]
    assert count(operator, "event") + count(operator, "event_astray") == 1
    assert fetch_one(operator, "SELECT events FROM task")["events"] == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [("standard", "legal"), ("legal", "standard"), ("legal", "other")])
def test_another_retention_class_is_other_content(
    store: Connection, operator: Connection, classes: tuple[str, str]
) -> None:
    one = event(retention_class=classes[0])
    other = dataclasses.replace(one, retention_class=classes[1])
    store.execute("INSERT INTO log_source (cluster_id, topic_id, topic) VALUES ('k', 't', 'events')")
    written = write(store, (one, NOW), (other, NOW))
    assert (written.stored, [refused.reason.letter_class for refused in written.set_aside]) == (1, ["conflict"])
    assert fetch_one(operator, "SELECT events FROM task")["events"] == 1  # type: ignore[arg-type]


def verdict(check_seq: int) -> Event:
    body = {
        "target": "payments",
        "verdict": "applied",
        "check_seq": check_seq,
        "contract_version": "1",
        "contract_digest": b"",
        "resources": [],
        "evidence": "{}",
    }
    return event("verdict", body, effect_id=b"\x01" * 16)


def test_a_negative_check_seq_folds_in_any_order(store: Connection, operator: Connection) -> None:
    found = []
    for task_id, order in ((b"\x01" * 16, (0, 1)), (b"\x02" * 16, (1, 0))):
        pair = [dataclasses.replace(one, task_id=task_id, effect_id=task_id) for one in (intent(), verdict(-5))]
        for place in order:
            write(store, (pair[place], NOW), start=100 * task_id[0] + place)
        found += operator.execute(
            "SELECT verdict, check_seq FROM effect WHERE task_id = %s", [task_id.hex()]
        ).fetchall()
    assert found == [{"verdict": "applied", "check_seq": -5}] * 2
