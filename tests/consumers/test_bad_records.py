"""One in a hundred is bad, of every kind: the partition never stops, and nothing is lost. `make soak` has 100,000."""

import dataclasses
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Producer

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id, task_id_of
from counterfoil.kafka import new_producer
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.store import Connection, fetch_one
from counterfoil_schemas import topics
from tests.consumers.bad_records import BAD, Sent, put_keys
from tests.consumers.made import event, key_of
from tests.consumers.nursery import Order, nursery
from tests.fix_log import RecordsOf

EVENTS = int(os.environ.get("COUNTERFOIL_TEST_BAD_AMONG", "8000"))
LARGE = ("1.04 MB of noise", "a megabyte of zeros in a frame")
A_TASK = 20


def good_events(count: int) -> list[Event]:
    """Of tasks of twenty events."""
    body = {"text": "The customer asks for a refund of the second box. " * 12, "input_tokens": 1}
    return [
        event("completion", body, task_id=task_id_of("acme", str(number // A_TASK)), seq=number % A_TASK)
        for number in range(count)
    ]


def mixture(events: list[Event]) -> list[Sent]:
    """Each hundredth is bad, of one kind after the other; large ones come once."""
    dice = random.Random(7)  # a test's dice
    made: list[Sent] = []
    kinds = list(BAD)
    for number, one in enumerate(events):
        made.append(Sent(encode(one), key_of(one)))
        if number % 100 == 99:
            name = kinds[number // 100 % len(kinds)]
            if name not in LARGE or number < 100 * len(kinds):
                made.append(BAD[name](events[dice.randrange(max(0, number - 5_000), number + 1)]))
    return made


def send(kafka: dict[str, str], topic: str, records: Sequence[Sent]) -> None:
    producer: Producer = new_producer(kafka, "test", {"message.max.bytes": 2_000_000, "linger.ms": 20})
    for value, key, _, headers in records:
        while True:
            try:
                producer.produce(topic, value, key, headers=list(headers))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def test_there_are_more_than_forty_kinds() -> None:
    assert len(BAD) > 40


@pytest.mark.oldest_postgres_in_soak
@pytest.mark.timeout(900)
def test_bad_records_among_good_ones(
    kafka: dict[str, str], topic_prefix: str, database: str, operator: Connection, records_of: RecordsOf
) -> None:
    topic = topics("local", topic_prefix)["events"].name
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    put_keys(database)
    events = good_events(EVENTS)
    sent = mixture(events)
    send(kafka, topic, sent)
    ingest = Ingest(kafka=kafka, dsn=database, profile="local", topic_prefix=topic_prefix)
    ingest.run(threading.Event(), until=ingest.end_offsets())

    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {one.event_id for one in events}
    assert fetch_one(operator, "SELECT sum(events)::int AS n FROM task")["n"] == len(events)  # type: ignore[arg-type]
    expected = Counter((value, key, letter_class) for value, key, letter_class, _ in sent if letter_class)
    letters = operator.execute("SELECT * FROM dead_letter").fetchall()
    assert Counter((row["value"], row["key"], row["letter_class"]) for row in letters) == expected
    log = {(record.partition, record.offset): (record.value, record.key) for record in records_of("events")}
    for row in letters:
        assert log[row["partition"], row["offset"]] == (row["value"], row["key"])
        assert row["reason"]
        assert row["tenant"] in (None, "acme")
        assert row["tenant"] is None or row["letter_class"] != "foreign"
    assert relay_now(database, "ingester", kafka) == len(letters)
    relayed = Counter(record.value for record in records_of("dead_letters"))
    assert relayed == Counter(row["value"] for row in letters)
    print(f"{len(letters)} letters of {len(BAD)} kinds among {len(events)} events")


@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_they_do_not_slow_it_down(
    kafka: dict[str, str], new_topics: Callable[[], str], new_database: Callable[[], str]
) -> None:
    """Clean and with one in a hundred bad, interleaved, three pairs."""
    events = good_events(max(EVENTS // 5, 12_000))
    clean = [Sent(encode(one), key_of(one)) for one in events]
    prefixes = {"clean": new_topics(), "bad": new_topics()}
    send(kafka, topics("local", prefixes["clean"])["events"].name, clean)
    send(kafka, topics("local", prefixes["bad"])["events"].name, mixture(events))
    speeds: dict[str, list[float]] = {"clean": [], "bad": []}
    for _ in range(3):
        for name, prefix in prefixes.items():
            dsn = new_database()
            put_keys(dsn)
            ingest = Ingest(kafka=kafka, dsn=dsn, profile="local", topic_prefix=prefix, admit_tenants=True)
            ends = ingest.end_offsets()
            began = time.perf_counter()
            ingest.run(threading.Event(), until=ends)
            speeds[name].append(sum(ends) / (time.perf_counter() - began))
    ratios = [bad / good for bad, good in zip(speeds["bad"], speeds["clean"], strict=True)]
    print(f"with one in a hundred bad: {statistics.median(ratios):.2f} of the clean speed, {ratios}, {speeds}")
    assert max(ratios) > 0.7  # the pair that was disturbed least


def test_a_record_that_ends_the_process_is_set_aside_undecoded(
    kafka: dict[str, str], topic_prefix: str, database: str, operator: Connection, tmp_path: Path
) -> None:
    """Every process dies that comes so far as to decode it: nobody knows why, until it is alone in hand."""
    topic = topics("local", topic_prefix)["events"].name
    events = good_events(60)
    killer = dataclasses.replace(events[30], event_id=new_id(), kind="review", body={"by": "killer"})
    sent = [Sent(encode(one), key_of(one)) for one in [*events[:31], killer, *events[31:]]]
    send(kafka, topic, sent)
    deaths = 0
    with nursery(kafka["bootstrap.servers"], database, topic_prefix, tmp_path / "log") as one:
        while one.wait(one.start(Order(f"group-{deaths}", kills="killer"))) == -signal.SIGKILL:
            deaths += 1
            assert deaths < 12
    [letter] = operator.execute("SELECT * FROM dead_letter").fetchall()
    assert (letter["value"], letter["letter_class"]) == (encode(killer), "poison")
    assert "ended 3 times while it decoded this record alone" in letter["reason"]
    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {one.event_id for one in events}
    assert operator.execute("SELECT FROM ingest_offset WHERE suspect_tries > 0").rowcount == 0
    print(f"set aside after {deaths} deaths")
