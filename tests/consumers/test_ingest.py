"""From the log to the store: what was consumed is stored, a repetition, or a dead letter, and nothing else."""

import dataclasses
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import pytest

from counterfoil import Event, Recorder
from counterfoil.codec import decode, encode
from counterfoil_consumers import ingest as ingest_module
from counterfoil_consumers import projection
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.projection import Move, Written
from counterfoil_consumers.store import Connection, connect
from counterfoil_consumers.texts import is_behind
from tests.consumers.made import TASK, attempted, event, intent, key_of, noise, result
from tests.fix_log import Logged, Produce, RecordsOf

pytestmark = pytest.mark.oldest_postgres_in_soak

_RESUMED = """
from counterfoil import Recorder
with Recorder.from_env() as recorder, recorder.task("refund-request", task_ref="T-9") as task:
    for step in (None, "second parcel"):
        with task.effect("refund", target="payments", args={"order": "A-17"}, step=step) as effect:
            effect.ok({"id": "re_1"})
"""


def count(operator: Connection, table: str) -> int:
    row = operator.execute(f"SELECT count(*) AS n FROM {table}").fetchone()
    assert row is not None
    return int(row["n"])


def test_retried_and_resumed_it_is_one_effect_and_another_step_is_another(
    recorder: Recorder, run_python: Callable[..., str], ingest_all: Callable[[], None], operator: Connection
) -> None:
    with recorder.task("refund-request", task_ref="T-9") as task:
        for _ in range(2):
            effect = task.effect("refund", target="payments", args={"order": "A-17"})
            with pytest.raises(TimeoutError), effect:
                raise TimeoutError
        task.suspend("approval")
    recorder.close()
    run_python(_RESUMED)
    ingest_all()
    effects = operator.execute("SELECT * FROM effect_state ORDER BY step NULLS FIRST").fetchall()
    assert [(e["step"], e["intents"], e["unknown"], e["ok"], e["outcome"]) for e in effects] == [
        (None, 3, 2, 1, "ok"),
        ("second parcel", 1, 0, 1, "ok"),
    ]
    assert effects[0]["effect_id"].bytes == effect.effect_id
    assert (effects[0]["args"], effects[0]["reply"]) == ({"order": "A-17"}, {"id": "re_1"})
    [task_row] = operator.execute("SELECT * FROM task WHERE task_ref = 'T-9'").fetchall()
    assert (task_row["status"], task_row["title"], task_row["events"]) == ("completed", "refund-request", 12)


@pytest.mark.oldest_kafka_too
def test_every_event_of_a_recorder_is_stored_as_it_was_sent(
    recorder: Recorder, ingest_all: Callable[[], None], operator: Connection, records_of: RecordsOf
) -> None:
    with recorder.task("t", subject_ref="order A-17", on_behalf_of="dana") as task:
        task.completion("x\x00y", usage={"input_tokens": 7, "output_tokens": 2}, cost="0.25")
        task.completion("y", usage={"input_tokens": 3}, cost="0.5")
        with task.tool("lookup", {"a": float("nan")}):
            pass
    recorder.close()
    ingest_all()
    records = records_of("events")
    stored = {(row["partition"], row["offset"]): row for row in operator.execute("SELECT * FROM event")}
    assert set(stored) == {(record.partition, record.offset) for record in records}
    for record in records:
        row, sent = stored[record.partition, record.offset], decode(record.value or b"")
        assert row["value"] == record.value
        assert (row["event_id"].bytes, row["kind"], row["seq"]) == (sent.event_id, sent.kind, sent.seq)
        assert (row["subject_ref"], row["on_behalf_of"]) == (sent.subject_ref, sent.on_behalf_of)
        assert int(row["appended_at"].timestamp() * 1000) == record.appended_at
        assert not row["unread"]
    [row] = operator.execute("SELECT * FROM task WHERE task_ref IS NULL").fetchall()
    assert (row["input_tokens"], row["output_tokens"], float(row["cost"])) == (10, 2, 0.75)
    producers = operator.execute(
        "SELECT seqs::text, opened, closed, beat_interval FROM producer ORDER BY opened"
    ).fetchall()
    assert [(p["opened"], p["closed"], p["beat_interval"]) for p in producers] == [
        (False, False, None),
        (True, True, 200_000),
    ]
    assert producers[0]["seqs"] == "{[0,6)}"


def json_args(text: str) -> Event:
    return intent(body={"args": text}, effect_id=uuid.uuid4().bytes)


STORED_READABLE: dict[str, tuple[Event, Any]] = {
    "NUL": (json_args('"a\x00b"'), '"a\ufffdb"'),  # a raw NUL is no JSON, so it stays text
    "escaped NUL": (json_args('"a\\u0000b"'), "a\ufffdb"),
    "escaped NUL in a key": (json_args('{"\\u0000": 1}'), {"\ufffd": 1}),
    "lone surrogate": (json_args('"\\ud800"'), "\ufffd"),
    "NaN": (json_args("[NaN, Infinity, -Infinity]"), ["NaN", "Infinity", "-Infinity"]),
    "1e999": (json_args("[1e999, -1e999]"), ["1e999", "-1e999"]),
    "long integer": (json_args("1" * 5000), "1" * 5000),
    "deep": (json_args("[" * 5000 + "]" * 5000), "[" * 5000 + "]" * 5000),
    "deep beyond any parser": (json_args("[" * 100_000 + "]" * 100_000), "[" * 100_000 + "]" * 100_000),
    "no JSON": (json_args("{oops"), "{oops"),
    "empty": (json_args(""), ""),
    "null": (json_args("null"), None),
}


def test_what_would_end_a_copy_is_stored_readable(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection
) -> None:
    for one, _ in STORED_READABLE.values():
        produce(encode(one), key_of(one))
    ingest_all()
    bodies = {
        row["event_id"].bytes: row
        for row in operator.execute("SELECT event_id, body, value FROM event WHERE NOT unread")
    }
    for name, (one, readable) in STORED_READABLE.items():
        assert bodies[one.event_id]["body"]["args"] == readable, name
        assert bodies[one.event_id]["value"] == encode(one), name
    assert count(operator, "dead_letter") == 0
    assert count(operator, "effect") == len(STORED_READABLE)


def test_odd_text_in_the_envelope_is_stored_too(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection
) -> None:
    one = event(workflow="a\x00b", agent="\x00", task_ref="\x00", redaction="\x00", retention_class="\x00")
    produce(encode(one), key_of(one))
    ingest_all()
    [row] = operator.execute("SELECT * FROM event_astray").fetchall()
    assert (row["workflow"], row["agent"], row["retention_class"]) == ("a\ufffdb", "\ufffd", "\ufffd")


def test_an_unknown_kind_or_body_is_kept_unread(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection
) -> None:
    newer = [
        event("dreamt", None, raw_body=b"\xff later", body_schema=b"\x07" * 8),
        event("review", None, raw_body=b"\xff later", body_schema=b"\x07" * 8),
        event("tool_intent", None, raw_body=b"\xff", body_schema=b"\x07" * 8, effect_id=b"\x02" * 16),
        event("verdict", None, raw_body=b"\xff", body_schema=b"\x07" * 8, effect_id=b"\x02" * 16),
    ]
    for one in newer:
        produce(encode(one), key_of(one))
    ingest_all()
    rows = {row["event_id"].bytes: row for row in operator.execute("SELECT * FROM event")}
    for one in newer:
        assert (rows[one.event_id]["unread"], rows[one.event_id]["body"]) == (True, None)
        assert rows[one.event_id]["value"] == encode(one)
    assert (count(operator, "effect"), count(operator, "dead_letter")) == (0, 0)


def uuid7_of(year: int) -> bytes:
    milliseconds = (year - 1970) * 31_556_952_000
    return milliseconds.to_bytes(6, "big") + b"\x70\x00\x80" + bytes(7)


def test_ids_outside_the_window_go_astray_and_repeat_there(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection
) -> None:
    strays = [event(event_id=uuid7_of(1999)), event(event_id=uuid7_of(2080)), event(retention_class="legal")]
    for one in (*strays, *strays):
        produce(encode(one), key_of(one))
    clash = dataclasses.replace(strays[0], agent="other")
    produce(encode(clash), key_of(clash))
    ingest_all()
    assert (count(operator, "event"), count(operator, "event_astray"), count(operator, "duplicate")) == (0, 3, 3)
    assert [row["letter_class"] for row in operator.execute("SELECT * FROM dead_letter")] == ["conflict"]
    [row] = operator.execute("SELECT * FROM task").fetchall()
    assert row["events"] == 3


def test_the_records_of_an_unknown_tenant_are_foreign(
    produce: Produce,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    operator: Connection,
) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    strict = Ingest(kafka=kafka, dsn=database, profile="local", topic_prefix=topic_prefix)
    known, unknown = event(), event(tenant="globex")
    late = event(tenant="globex", seq=-1)
    for one in (known, unknown, late):
        produce(encode(one), key_of(one))
    strict.run(threading.Event(), until=strict.end_offsets())
    assert [row["tenant"] for row in operator.execute("SELECT tenant FROM event")] == ["acme"]
    letters = operator.execute("SELECT * FROM dead_letter ORDER BY reason").fetchall()
    assert [(row["tenant"], row["value"]) for row in letters] == [
        (None, encode(late)),
        (None, encode(unknown)),
    ]
    assert "counterfoil tenant add globex" in letters[-1]["reason"]
    assert letters[-1]["letter_class"] == "foreign"


Case = tuple[str, bytes | None, bytes | None, str]
BAD_HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\xff\x00"), ("trace", None), ("trace", b""), ("ünï", b"1")]


def mixed() -> list[Case]:
    """(name, key, value, where it ends) of one batch in which everything is wrong once."""
    good, second = event(), event(seq=1)
    sent = encode(event(seq=2))
    key = key_of(good)

    def bad(where: str = "poison", **changes: Any) -> tuple[bytes, bytes, str]:
        one = event(**changes)
        return key_of(one), encode(one), where

    return [
        ("good", key, encode(good), "stored"),
        ("the same again", key, encode(good), "duplicate"),
        ("garbage", b"any key", b"not an event", "poison"),
        ("nothing in it", b"any key", b"", "poison"),
        ("no value", b"any key", None, "poison"),
        ("neither key nor value", None, None, "poison"),
        ("cut off", key, sent[:-3], "poison"),
        ("too long", key, sent + b"\x00", "poison"),
        ("Confluent framing", key, b"\x00\x00\x00\x00\x01" + sent[10:], "incompatible"),
        ("an envelope of tomorrow", key, b"\xc3\x01" + bytes(8) + sent[10:], "incompatible"),
        ("another key", b"acme/" + b"0" * 32, sent, "foreign"),
        ("another tenant's key", key.replace(b"acme", b"globex"), sent, "foreign"),
        ("no key", None, sent, "foreign"),
        ("a tenant that is none", *bad("foreign", tenant="A/B\x00'")),
        ("beyond the calendar", *bad(occurred_at=2**62)),
        ("before the calendar", *bad(occurred_at=-(2**62))),
        ("a negative seq", *bad(seq=-1)),
        ("a seq beyond all", *bad(seq=2**62)),
        ("a mode of tomorrow", *bad(mode="wild\ud800")),
        ("same id, other content", key, encode(dataclasses.replace(good, agent="liar")), "conflict"),
        ("an attempt beyond int4", key, attempted(event(attempt=1), 2**40), "poison"),
        ("a task_ref beyond any index", *bad(task_ref=noise(9_000))),
        ("a deadline beyond the calendar", key, encode(result("accepted", body={"deadline": 2**62})), "stored"),
        ("a deadline before it", key, encode(result("accepted", seq=3, body={"deadline": -(2**62)})), "stored"),
        ("1 MB of noise", key, noise(1_040_000).encode(), "poison"),
        ("20 MB that were 2 kB on their way", key, bytes(20_000_000), "poison"),
        ("still good", key, encode(second), "stored"),
        ("still the same", key, encode(second), "duplicate"),
    ]


def test_consumed_is_stored_and_repeated_and_set_aside(
    produce: Produce,
    ingest_all: Callable[[], None],
    operator: Connection,
    records_of: RecordsOf,
    kafka: dict[str, str],
    database: str,
) -> None:
    cases = mixed()
    at = {name: produce(value, key, BAD_HEADERS) for name, key, value, _ in cases}
    ingest_all()
    places: dict[tuple[int, int], str] = {}
    for table, said in (("event", "'stored'"), ("duplicate", "'duplicate'"), ("dead_letter", "letter_class")):
        found = operator.execute(f'SELECT partition, "offset", {said} AS place FROM {table}')
        for row in found:
            assert (row["partition"], row["offset"]) not in places
            places[row["partition"], row["offset"]] = row["place"]
    assert {name: places[at[name]] for name, _, _, _ in cases} == {name: place for name, _, _, place in cases}
    assert len(places) == len(cases) == len(records_of("events"))

    letters = {(row["partition"], row["offset"]): row for row in operator.execute("SELECT * FROM dead_letter")}
    bad = [case for case in cases if case[3] not in ("stored", "duplicate")]
    for name, key, value, _ in bad:
        row = letters[at[name]]
        assert (row["key"], row["value"]) == (key, value), name
        assert row["headers"] == [[header, None if item is None else item.hex()] for header, item in BAD_HEADERS]
        assert row["tenant"] in (None, "acme")
        assert (row["letter_kind"], row["status"], row["reason"] != "") == ("record", "open", True)
    [effect] = operator.execute("SELECT accepted, accept_deadline FROM effect").fetchall()
    assert (effect["accepted"], effect["accept_deadline"].year) == (2, 9987)
    assert_relayed(bad, at, letters, kafka, database, records_of)


def assert_relayed(
    bad: list[Case],
    at: dict[str, tuple[int, int]],
    letters: dict[tuple[int, int], Any],
    kafka: dict[str, str],
    database: str,
    records_of: RecordsOf,
) -> None:
    """Each letter is in the topic of dead letters once, unchanged, with its headers and ours."""
    assert relay_now(database, "ingester", kafka) == len(bad)
    assert relay_now(database, "ingester", kafka) == 0
    sent = {dict(record.headers)["counterfoil-letter-id"]: record for record in records_of("dead_letters")}
    assert len(sent) == len(bad)
    for name, key, value, place in bad:
        partition, offset = at[name]
        letter = sent[letters[partition, offset]["letter_id"].hex.encode()]
        assert letter.value == value, name
        if key is not None:
            assert letter.key == key
        assert list(letter.headers[:4]) == BAD_HEADERS
        assert dict(letter.headers[4:]) | {"__connect.errors.exception.message": b""} == {
            "__connect.errors.topic": (letter.headers[4][1]),
            "__connect.errors.partition": str(partition).encode(),
            "__connect.errors.offset": str(offset).encode(),
            "__connect.errors.exception.message": b"",
            "counterfoil-letter-id": letters[partition, offset]["letter_id"].hex.encode(),
            "counterfoil-letter-class": place.encode(),
        }


def test_what_postgres_refuses_takes_no_neighbour_along(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection
) -> None:
    """Each of these passes every check of ours; a fold or an index of Postgres raises."""
    good = [event(seq=number) for number in range(40)]
    verdict = {
        "target": noise(9_000),
        "verdict": "applied",
        "check_seq": 1,
        "contract_version": "1",
        "contract_digest": b"",
        "evidence": "{}",
        "resources": [{"resource": "refunds", "key": "1"}],
    }
    refused = [
        event("verdict", verdict, effect_id=b"\x05" * 16),
        intent(attempt=None, body={"target": noise(9_000)}),
        intent(effect_id=b"\x06" * 16, body={"target": noise(10_000)}),
    ]
    mixture = [*good[:11], refused[0], *good[11:23], refused[1], refused[2], *good[23:]]
    for one in mixture:
        produce(encode(one), key_of(one))
    ingest_all()
    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {one.event_id for one in good}
    letters = operator.execute("SELECT * FROM dead_letter").fetchall()
    assert {row["value"] for row in letters} == {encode(one) for one in refused}
    for row in letters:
        assert row["tenant"] == "acme"
        assert row["task_id"].bytes == TASK
        assert "the store refuses it" in row["reason"]
    [task] = operator.execute("SELECT * FROM task").fetchall()
    assert task["events"] == len(good)
    [producer] = operator.execute("SELECT seqs::text FROM producer").fetchall()
    assert producer["seqs"] == "{[0,40)}"


def test_a_second_ingest_goes_on_where_the_first_stopped(
    recorder: Recorder, ingest_all: Callable[[], None], operator: Connection, logged: Logged
) -> None:
    for _ in range(3):
        with recorder.task("t"):
            pass
        recorder.flush()
        ingest_all()
    assert count(operator, "duplicate") == 0
    recorder.close()
    ingest_all()
    assert count(operator, "event") == len(logged())
    offsets = operator.execute("SELECT max(epoch) AS epoch, count(*) AS n FROM ingest_offset").fetchone()
    assert offsets == {"epoch": 4, "n": 24}


def test_what_a_member_has_still_to_read_stands_beside_its_offsets(
    recorder: Recorder, new_ingest: Callable[[], Ingest], operator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorder.task("t") as task:
        for _ in range(60):
            task.review(by="dana")
    recorder.close()
    waiting: list[int] = []
    write = projection.write_batch

    def watched(*given: Any, **named: Any) -> Written:
        moves: Mapping[int, Move] = given[4]
        waiting.append(max(move.waiting for move in moves.values()))
        return write(*given, **named)

    monkeypatch.setattr(ingest_module, "write_batch", watched)
    monkeypatch.setattr(ingest_module, "_BATCH", 10)
    ingest = new_ingest()
    ingest.run(threading.Event(), until=ingest.end_offsets())
    assert max(waiting) >= 40
    assert waiting[-1] == 0
    stored = operator.execute("SELECT waiting FROM ingest_offset WHERE next_offset > 0 ORDER BY updated_at")
    assert stored.fetchall()[-1]["waiting"] == 0


@pytest.mark.parametrize(
    ("waiting", "ago", "expected"), [(5_001, "1 s", True), (5_000, "1 s", False), (5_001, "1 min", False)]
)
def test_any_member_that_lately_had_much_to_read_is_behind(
    database: str, waiting: int, ago: str, expected: bool
) -> None:
    """Whoever puts down words goes by that, be it a member that has no partition."""
    with closing(connect(database, "ingester", application="test")) as ingester:
        ingester.execute(
            "INSERT INTO ingest_offset (consumer, cluster_id, topic_id, partition, topic, next_offset, epoch, owner,"
            " waiting, updated_at) VALUES ('c', 'k', 't', 0, 'events', 1, 1, 'another', %s, now() - %s::interval)",
            [waiting, ago],
        )
        assert is_behind(ingester) is expected
