"""`counterfoil offsets`, where the log is not the one that was ingested."""

from confluent_kafka import TopicPartition

from counterfoil.codec import encode
from counterfoil_consumers.store import Connection
from counterfoil_consumers.topics import admin_client, create_missing, describe
from counterfoil_schemas import topics
from tests.consumers.made import event, key_of
from tests.fix_log import Produce
from tests.waiting import wait_until

from .conftest import Call


def removed(call: Call, produce: Produce, kafka: dict[str, str], topic_prefix: str) -> int:
    """Five events in one partition: the first is ingested, the next two are gone before they were."""
    call("tenant", "add", "acme")
    sent = [event(seq=number) for number in range(5)]
    partition, _ = produce(encode(sent[0]), key_of(sent[0]))
    assert call("ingest", "--once").code == 0
    for one in sent[1:]:
        produce(encode(one), key_of(one))
    place = TopicPartition(topics("local", topic_prefix)["events"].name, partition, 3)
    admin = admin_client(kafka)  # kept until its futures are done
    for future in admin.delete_records([place]).values():
        future.result()
    return partition


def test_what_retention_removed_is_skipped_and_on_record(
    call: Call, produce: Produce, kafka: dict[str, str], topic_prefix: str, operator: Connection
) -> None:
    partition = removed(call, produce, kafka, topic_prefix)
    assert "counterfoil offsets skip" in call("ingest", "--once").sentence
    listed = call("offsets", "list")
    assert listed.code == 1
    assert "2 were removed before they were ingested" in listed.out
    found = call("offsets", "list", "--json").json
    assert found["can_go_on"] is False
    assert found["partitions"][partition] | {"owner": ""} == {
        "partition": partition,
        "start": 3,
        "stored": 1,
        "end": 5,
        "lag": 2,
        "lost": 2,
        "beyond_end": 0,
        "epoch": 1,
        "owner": "",
    }

    assert "2 records would be on record as lost" in call("offsets", "skip", "--reason", "r", "--dry-run").out
    other = str((partition + 1) % 24)
    assert "nothing was lost" in call("offsets", "skip", "--reason", "r", "--partition", other).out
    assert "there is no partition 99" in call("offsets", "skip", "--reason", "r", "--partition", "99").sentence
    assert call("offsets", "list").code == 1
    said = call("offsets", "skip", "--reason", "down for \x1b[31mnine days", "--by", "dana")
    assert f"2 records are on record as lost (2 of partition {partition})" in said.out
    assert call("offsets", "skip", "--reason", "r", "--json").json == {"skipped": {}, "dry_run": False}

    assert call("ingest", "--once").code == 0
    listed = call("offsets", "list")
    assert listed.code == 0
    assert f"gap: partition {partition} from 1 to 3, accepted" in listed.out
    assert "by dana" in listed.out
    assert "\x1b" not in listed.out
    [gap] = call("offsets", "list", "--json").json["gaps"]
    assert (gap["partition"], gap["first_offset"], gap["next_offset"]) == (partition, 1, 3)
    row = operator.execute("SELECT count(*) AS stored FROM event").fetchone()
    assert row == {"stored": 3}


def test_a_topic_made_anew_goes_on_once_the_former_one_is_retired(
    call: Call, produce: Produce, kafka: dict[str, str], topic_prefix: str, operator: Connection
) -> None:
    call("tenant", "add", "acme")
    first, second = event(), event(seq=1)
    partition, _ = produce(encode(first), key_of(first))
    assert call("ingest", "--once").code == 0
    assert "nothing to retire" in call("offsets", "retire", "--reason", "r").out
    events = topics("local", topic_prefix)["events"]
    admin = admin_client(kafka)
    former = describe(admin, [events.name])[events.name].topic_id
    admin.delete_topics([events.name])[events.name].result()
    wait_until(lambda: not describe(admin, [events.name]))
    assert "does not exist" in call("offsets", "list").sentence
    create_missing(admin, [events])
    produce(encode(second), key_of(second))

    assert "counterfoil offsets retire" in call("ingest", "--once").sentence
    assert call("offsets", "list", "--json").json["former_topics"] == [former]
    assert former in call("offsets", "retire", "--reason", "set up again", "--dry-run").out
    assert f"{former} is retired, 24 partitions in all" in call("offsets", "retire", "--reason", "set up again").out
    assert call("ingest", "--once").code == 0
    listed = call("offsets", "list", "--json")
    assert (listed.code, listed.json["former_topics"]) == (0, [])
    gaps = {gap["partition"]: gap for gap in listed.json["gaps"]}
    assert len(gaps) == 24
    assert (gaps[partition]["first_offset"], gaps[partition]["next_offset"]) == (1, None)
    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {first.event_id, second.event_id}


def test_offsets_beyond_the_end_are_told(call: Call, produce: Produce, operator: Connection, database: str) -> None:
    call("tenant", "add", "acme")
    one = event()
    partition, _ = produce(encode(one), key_of(one))
    assert call("ingest", "--once").code == 0
    operator.execute("RESET ROLE")
    operator.execute("SET ROLE counterfoil_ingester")
    operator.execute("UPDATE ingest_offset SET next_offset = 9 WHERE partition = %s", [partition])
    listed = call("offsets", "list")
    assert listed.code == 1
    assert "the log ends 8 before what was ingested" in listed.out
    assert "nothing was lost" in call("offsets", "skip", "--reason", "r").out
