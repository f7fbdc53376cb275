"""Offsets at which no record stands are on record, and never waited for."""

import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from counterfoil.codec import encode
from counterfoil_consumers.store import Connection, fetch_one
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_schemas import topics
from tests.consumers.made import event, key_of
from tests.fix_log import RecordsOf
from tests.waiting import wait_until

TOTAL = """
    SELECT (SELECT coalesce(sum(next_offset), 0)::int FROM ingest_offset) AS moved,
           (SELECT count(*)::int FROM event) AS stored,
           (SELECT coalesce(sum(next_offset - first_offset), 0)::int FROM log_gap) AS empty
"""


def log_end(kafka: dict[str, str], topic: str) -> int:
    admin = admin_client(kafka)
    return sum(end_offsets(admin, topic, 24))


@pytest.mark.oldest_kafka_too
def test_markers_and_aborted_records_are_on_record(
    kafka: dict[str, str],
    topic_prefix: str,
    ingest_all: Callable[[], None],
    operator: Connection,
    records_of: RecordsOf,
) -> None:
    """Somebody else's transactional producer writes to the topic: its markers take offsets, at its end, too."""
    topic = topics("local", topic_prefix)["events"].name
    producer = Producer({**kafka, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions(30)
    sent = []
    for number, is_kept in enumerate((True, False, True, False)):
        producer.begin_transaction()
        for place in range(3):
            one = event(seq=3 * number + place)
            producer.produce(topic, encode(one), key_of(one), partition=4)
            sent += [one] if is_kept else []
        producer.flush(10)
        if is_kept:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
        ingest_all()
    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {one.event_id for one in sent}
    wait_until(lambda: log_end(kafka, topic) == 16)
    ingest_all()
    found = fetch_one(operator, TOTAL)  # type: ignore[arg-type]  # our own text
    assert found == {"moved": 16, "stored": 6, "empty": 10}  # four markers, six aborted records
    gaps = operator.execute("SELECT first_offset, next_offset, accepted_by FROM log_gap ORDER BY 1").fetchall()
    # A marker may be written a moment after its transaction was committed, so gaps may be found together.
    empty = [offset for gap in gaps for offset in range(gap["first_offset"], gap["next_offset"])]
    assert empty == [3, *range(4, 8), 11, *range(12, 16)]
    assert {gap["accepted_by"] for gap in gaps} == {"ingest"}
    ingest_all()
    assert fetch_one(operator, TOTAL) == found  # type: ignore[arg-type]  # as above
